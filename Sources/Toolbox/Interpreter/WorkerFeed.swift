import NIOCore
import Synchronization

/// The two outputs of a program, as frames call them.
enum OutputStream: String, Sendable, CaseIterable {
    case stdout
    case stderr
}

/// Output that came while nothing was executed: its newest part.
struct Leftover: Sendable {
    private var newest = ByteBuffer()
    private(set) var droppedBytes = 0
    private let limitBytes: Int

    init(limitBytes: Int = InterpreterLimit.leftoverBytes) {
        self.limitBytes = limitBytes
    }

    var bytes: ByteBuffer { newest }

    /// Keeps up to twice the limit before it cuts, so that single bytes do not cost a copy each.
    mutating func append(_ piece: ByteBuffer) {
        newest.writeImmutableBuffer(piece)
        if newest.readableBytes > 2 * limitBytes { cut() }
    }

    mutating func take() -> Leftover {
        cut()
        defer { self = Leftover(limitBytes: limitBytes) }
        return self
    }

    private mutating func cut() {
        let surplus = newest.readableBytes - limitBytes
        guard surplus > 0 else { return }
        droppedBytes += surplus
        newest.moveReaderIndex(forwardBy: surplus)
        newest.discardReadBytes()
    }
}

/// Leads what a worker says to the execution that is running, which takes it piece by piece: the worker's pipes are read as
/// fast as the client is. Between executions the output is kept as leftover and the pipes are always read, since a program in
/// the background must not stand still for it.
final class WorkerFeed: Sendable {
    enum Event: Sendable {
        case output(OutputStream, ByteBuffer)
        /// All output of the execution on this stream was given.
        case drained(OutputStream)
        case report(WorkerReport)
    }

    private struct State {
        var cutters: [OutputStream: OutputCutter] = [.stdout: OutputCutter(), .stderr: OutputCutter()]
        var leftovers: [OutputStream: Leftover] = [.stdout: Leftover(), .stderr: Leftover()]
        /// Reports are only expected while someone takes them.
        var isTaken = true
    }

    private let state = Mutex(State())
    private let handover = Handover<Event>()

    // MARK: For the one who executes

    /// Begins an execution whose output ends with `mark`; answers what came before.
    func begin(_ mark: [UInt8]) -> [OutputStream: Leftover] {
        state.withLock { state in
            state.isTaken = true
            for stream in OutputStream.allCases { state.cutters[stream]?.begin(mark) }
            return Self.takeLeftovers(of: &state)
        }
    }

    /// Nothing more is taken until the next `begin`.
    /// - Returns: false if there was something, which the worker's script does not do.
    func end() -> Bool {
        state.withLock { $0.isTaken = false }
        return handover.dropAll() == 0
    }

    /// Nil when the worker has ended and everything was taken.
    func take() async -> Event? { await handover.take() }

    /// What came while nothing was executed, since this was last asked.
    func takeLeftovers() -> [OutputStream: Leftover] {
        state.withLock { Self.takeLeftovers(of: &$0) }
    }

    private static func takeLeftovers(of state: inout State) -> [OutputStream: Leftover] {
        OutputStream.allCases.reduce(into: [:]) { $0[$1] = state.leftovers[$1]?.take() }
    }

    // MARK: For those who read the worker's pipes

    func accept(_ piece: ByteBuffer, of stream: OutputStream) async {
        let cut = state.withLock { state in
            let cut = state.cutters[stream]?.cut(piece) ?? OutputCutter.Cut()
            state.leftovers[stream]?.append(cut.rest)
            return cut
        }
        if cut.output.readableBytes > 0 { await handover.give(.output(stream, cut.output)) }
        if cut.ended { await handover.give(.drained(stream)) }
    }

    /// The stream has ended.
    func close(_ stream: OutputStream) async {
        let (held, isTaken) = state.withLock { state in
            (state.cutters[stream]?.finish() ?? ByteBuffer(), state.isTaken)
        }
        if held.readableBytes > 0, isTaken { await handover.give(.output(stream, held)) }
    }

    /// False if nobody expects a report.
    func accept(_ report: WorkerReport) async -> Bool {
        guard state.withLock({ $0.isTaken }) else { return false }
        await handover.give(.report(report))
        return true
    }

    /// Everything was given.
    func finish() { handover.finish() }
}
