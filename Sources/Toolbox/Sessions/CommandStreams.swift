import CLinux
import Glibc
import NIOCore
import NIOPosix
import Synchronization

/// A command's text and the pipes of its own, as the kernel made them.
struct CommandPipes: Sendable {
    typealias Pipe = (read: TakeableDescriptor, write: TakeableDescriptor)

    let source: OpenFile
    let output: Pipe
    let errors: Pipe
    let input: Pipe?

    /// Blocks.
    /// - Parameter directory: where the text goes if there is no memory file.
    /// - Throws: `LaunchFailure` or the file error.
    init(text: String, hasInput: Bool, directory: String) throws {
        // In memory if possible: commands must run when the disk is full.
        let inMemory = martlet_memory_file("command")
        source = inMemory >= 0 ? OpenFile(owning: inMemory) : try OpenFile.anonymous(in: directory)
        try source.write(ByteBuffer(string: text + "\n").readableBytesView)
        output = try makePipe()
        errors = try makePipe()
        input = hasInput ? try makePipe() : nil
    }

    var descriptors: ShellDescriptors {
        ShellDescriptors(
            source: source.descriptor,
            input: input?.read.descriptor,
            output: output.write.descriptor,
            errors: errors.write.descriptor
        )
    }
}

/// The daemon's side of a running command's streams.
final class CommandStreams: Sendable {
    private struct Lent: Sendable {
        /// Ends of pipes that the shell opens by their numbers.
        var ends: [TakeableDescriptor]
        var source: OpenFile?
    }

    /// Fulfilled when nobody can write to the outputs any more.
    var gone: EventLoopFuture<Void> { output.closed.and(errors.closed).map { _ in } }
    /// Where the command's input is written to.
    let input: (any Channel)?
    private let output: PipeReader
    private let errors: PipeReader
    private let lent: Mutex<Lent>

    /// Starts to read the outputs into a log.
    static func connect(_ pipes: CommandPipes, to log: OutputLog, on loop: any EventLoop)
        -> EventLoopFuture<CommandStreams>
    {
        let output = PipeReader.start(pipes.output.read, on: loop) { log.append(.standardOutput, $0, onRoom: $1) }
        let errors = PipeReader.start(pipes.errors.read, on: loop) { log.append(.standardError, $0, onRoom: $1) }
        let input: EventLoopFuture<(any Channel)?> =
            if let end = pipes.input?.write {
                NIOPipeBootstrap(group: loop).takingOwnershipOfDescriptor(output: end.take()).map { $0 }
            } else {
                loop.makeSucceededFuture(nil)
            }
        return output.and(errors).and(input).map { readers, input in
            CommandStreams(pipes, output: readers.0, errors: readers.1, input: input)
        }
    }

    private init(_ pipes: CommandPipes, output: PipeReader, errors: PipeReader, input: (any Channel)?) {
        self.output = output
        self.errors = errors
        self.input = input
        let ends = [pipes.output.write, pipes.errors.write] + (pipes.input.map { [$0.read] } ?? [])
        lent = Mutex(Lent(ends: ends, source: pipes.source))
    }

    /// The shell has opened its ends: from now on the outputs end when the last program has closed them.
    func begin() {
        let ends = lent.withLock { lent in
            defer { lent.ends = [] }
            return lent.ends
        }
        withExtendedLifetime(ends) {}
    }

    /// Fulfilled when all that the command has written until now is in the log.
    func drain() -> EventLoopFuture<Void> {
        output.drain().and(errors.drain()).map { _ in }
    }

    /// The command has ended. What it left running may still write to its outputs.
    func end() {
        begin()
        lent.withLock { $0.source = nil }
        input?.close(promise: nil)
    }

    /// Nobody is interested any more.
    func close() {
        end()
        output.close()
        errors.close()
    }
}
