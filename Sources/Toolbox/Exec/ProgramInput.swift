import CLinux
import Glibc
package import NIOCore

/// The writing end of a program's standard input, or of its terminal.
package struct ProgramInput: Sendable {
    private let channel: any Channel
    /// The master of a terminal; valid as long as the channel is active, which only changes on its event loop.
    private let terminal: CInt?

    init(_ channel: any Channel, terminal: CInt? = nil) {
        self.channel = channel
        self.terminal = terminal
    }

    var isTerminal: Bool { terminal != nil }

    /// Writes all of it, and waits while the program does not read: who awaits this never has more than one piece pending.
    /// - Throws: `IOError` (EPIPE) or `ChannelError` once nobody can read it any more.
    package func write(_ bytes: ByteBuffer) async throws {
        try await startWriting(bytes).get()
    }

    /// The same for a caller that may stop waiting; it must bound what it has pending.
    func startWriting(_ bytes: ByteBuffer) -> EventLoopFuture<Void> {
        channel.writeAndFlush(bytes)
    }

    /// Queues a piece for writing and returns at once, in the order of the calls. Whoever uses this bounds what is queued.
    /// The future fails like `write`, and is never completed before the return.
    package func send(_ bytes: ByteBuffer) -> EventLoopFuture<Void> {
        channel.eventLoop.flatSubmit { [channel] in channel.writeAndFlush(bytes) }
    }

    /// Ends the input: the program reads the end of file. A terminal is hung up by it, and its output ends.
    package func close() {
        channel.close(promise: nil)
    }

    /// Whether a terminal's output lies in the kernel that nobody has read yet. On the event loop only.
    var isOutputWaiting: Bool {
        guard let terminal, channel.isActive else { return false }
        var look = pollfd(fd: terminal, events: Int16(POLLIN), revents: 0)
        return poll(&look, 1, 0) == 1 && look.revents & Int16(POLLIN) != 0
    }

    /// Sets the size of the terminal that this is the input of.
    /// - Throws: `IOError` if it is none (ENOTTY), or is gone (EBADF).
    package func resize(_ size: TerminalSize) async throws {
        try await channel.eventLoop.submit { [channel, terminal] in
            guard let terminal else { throw IOError(errnoCode: ENOTTY, reason: "resize") }
            guard channel.isActive else { throw IOError(errnoCode: EBADF, reason: "resize") }
            let result = martlet_terminal_resize(terminal, size.columns, size.rows)
            guard result == 0 else { throw IOError(errnoCode: -result, reason: "resize") }
        }.get()
    }
}

/// The daemon's ends of a program's streams.
struct ProgramChannels: Sendable {
    var output: NIOAsyncChannel<ByteBuffer, Never>
    var errors: NIOAsyncChannel<ByteBuffer, Never>?
    var input: ProgramInput?

    /// Gives up on all of them.
    func close() {
        output.channel.close(promise: nil)
        errors?.channel.close(promise: nil)
        input?.close()
    }
}
