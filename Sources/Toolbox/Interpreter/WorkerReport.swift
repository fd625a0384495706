import FoundationEssentials
import NIOCore
import NIOFoundationEssentialsCompat

/// An exception that ended the user's code, as its client is told.
struct PythonFailure: Codable, Sendable, Equatable {
    var name: String
    var value: String
    var traceback: String
}

/// What a worker reports. It may be anything, since the user's code can write there too.
enum WorkerReport: Sendable, Equatable {
    /// It takes commands.
    case ready
    /// The code of execution `number` begins, and SIGINT interrupts it.
    case started(Int)
    /// Execution `number` ended, by an exception or not.
    case done(Int, PythonFailure?, interrupted: Bool)
    /// Anything else.
    case nonsense

    /// Reads a line without its end.
    init(line: ByteBufferView) {
        struct Fields: Decodable {
            var ready: Bool?
            var started: Int?
            var done: Int?
            var error: PythonFailure?
            var interrupted: Bool?
        }
        guard let fields = try? JSONDecoder().decode(Fields.self, from: Data(line)) else {
            self = .nonsense
            return
        }
        switch (fields.ready, fields.started, fields.done) {
        case (true, nil, nil): self = .ready
        case (nil, let number?, nil): self = .started(number)
        case (nil, nil, let number?): self = .done(number, fields.error, interrupted: fields.interrupted ?? false)
        default: self = .nonsense
        }
    }
}

/// Cuts what comes on the worker's report pipe into lines.
struct ReportReader {
    private var buffered = ByteBuffer()
    private let limitBytes: Int

    init(limitBytes: Int = InterpreterLimit.reportBytes) {
        self.limitBytes = limitBytes
    }

    /// The reports that a piece completes. A line that is too long is nonsense, and so is all that follows.
    mutating func read(_ piece: ByteBuffer) -> [WorkerReport] {
        buffered.writeImmutableBuffer(piece)
        var reports: [WorkerReport] = []
        while let end = buffered.readableBytesView.firstIndex(of: 0x0A) {
            let line = buffered.readableBytesView[..<end]
            reports.append(WorkerReport(line: line))
            buffered.moveReaderIndex(to: end + 1)
        }
        buffered.discardReadBytes()
        if buffered.readableBytes > limitBytes {
            buffered.clear()
            reports.append(.nonsense)
        }
        return reports
    }
}

/// What a worker is told to execute: one line of JSON.
struct WorkerCommand: Encodable {
    var number: Int
    var code: String
    /// Set for this execution only.
    var envs: [String: String]
    /// Changed for good since the last command; nil removes.
    var variables: [String: String?]
    /// What ends the output, between two bytes 0xFF.
    var end: String

    /// The mark that `OutputCutter` looks for. Neither ASCII nor UTF-8 begins with 0xFF, so that nothing is held back from
    /// ordinary output.
    var mark: [UInt8] { [0xFF] + Array(end.utf8) + [0xFF] }

    func line() throws -> ByteBuffer {
        var line = ByteBuffer(data: try JSONEncoder().encode(self))
        line.writeInteger(UInt8(ascii: "\n"))
        return line
    }
}
