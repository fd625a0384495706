import Glibc
package import NIOCore
import Synchronization

/// A git that runs, and why it was ended before it did so itself.
final class RunningGit: Sendable {
    enum Reason: Sendable {
        case expired, abandoned, overflowed
    }

    private let tree: ProcessTree
    private let ended = Mutex<Reason?>(nil)

    init(_ tree: ProcessTree) {
        self.tree = tree
    }

    var loop: any EventLoop { tree.output.channel.eventLoop }

    /// The first reason that there was to end it.
    var reason: Reason? { ended.withLock { $0 } }

    /// Asks git to end, which then removes its lock files and what it half cloned, and kills after the grace all that is left.
    func end(_ reason: Reason) {
        let isFirst = ended.withLock { known in
            defer { known = known ?? reason }
            return known == nil
        }
        guard isFirst else { return }
        tree.signal(SIGTERM)
        loop.scheduleTask(in: GitLimit.terminationGrace) { [tree] in tree.kill() }
    }

    /// Gives it its input and takes what it writes, until it ended and nobody has its pipes any more.
    /// - Throws: `LaunchFailure` if it could not be started.
    func collect(_ input: ByteBuffer) async throws -> GitResult {
        async let output = readOutput()
        async let errors = readErrors()
        async let fed: Void = feed(input)
        let exit = try await tree.exit.get()
        let closing = loop.scheduleTask(in: GitLimit.pipeGrace) { [tree] in
            tree.output.channel.close(promise: nil)
            tree.errors?.channel.close(promise: nil)
            tree.input?.close()
        }
        let result = GitResult(exitCode: exit.code, output: await output, errors: await errors.text)
        await fed
        closing.cancel()
        _ = try await tree.started.get()
        return result
    }

    private func feed(_ input: ByteBuffer) async {
        guard let pipe = tree.input else { return }
        // A git that does not want all of it says by its exit code whether that matters.
        if input.readableBytes > 0 { try? await pipe.write(input) }
        pipe.close()
    }

    private func readOutput() async -> ByteBuffer {
        var all = ByteBuffer()
        await tree.output.readToEnd { piece in
            let room = GitLimit.outputBytes - all.readableBytes
            if piece.readableBytes > room { self.end(.overflowed) }
            if let part = piece.getSlice(at: piece.readerIndex, length: min(room, piece.readableBytes)) {
                all.writeImmutableBuffer(part)
            }
        }
        return all
    }

    private func readErrors() async -> OutputEnds {
        var ends = OutputEnds(limit: GitLimit.errorBytes)
        await tree.errors?.readToEnd { ends.append($0) }
        return ends
    }
}

/// The beginning and the end of an output of any length.
package struct OutputEnds: Sendable {
    private var head = ByteBuffer()
    private var tail = ByteBuffer()
    private let limit: Int
    private var dropped = 0

    /// - Parameter limit: bytes of each end.
    package init(limit: Int) {
        self.limit = limit
    }

    package mutating func append(_ piece: ByteBuffer) {
        var piece = piece
        if let first = piece.readSlice(length: min(limit - head.readableBytes, piece.readableBytes)) {
            head.writeImmutableBuffer(first)
        }
        tail.writeImmutableBuffer(piece)
        let surplus = tail.readableBytes - limit
        guard surplus > 0 else { return }
        tail.moveReaderIndex(forwardBy: surplus)
        tail.discardReadBytes()
        dropped += surplus
    }

    package var text: String {
        let mark = dropped > 0 ? "\n[\(dropped) bytes left out]\n" : ""
        let start = String(decoding: head.readableBytesView, as: UTF8.self)
        return start + mark + String(decoding: tail.readableBytesView, as: UTF8.self)
    }
}
