import Glibc
import NIOCore
import NIOPosix
import Testing

@testable import Toolbox

/// Programs that are talked with: streams apart, and terminals.
@Suite("Program streams") struct ProgramStreamTests {
    private let processes = ProcessTable()

    private func launch(_ command: String, _ streams: ProgramStreams) async throws -> ProcessTree {
        var program = ProgramSpecification(
            executable: "/bin/sh",
            arguments: ["sh", "-c", command],
            environment: ["PATH": "/usr/bin:/bin"],
            directory: "/"
        )
        program.streams = streams
        return try await processes.launch(program, on: MultiThreadedEventLoopGroup.singleton.next())
    }

    private func read(_ stream: NIOAsyncChannel<ByteBuffer, Never>) async -> String {
        var all = ByteBuffer()
        await stream.readToEnd { all.writeImmutableBuffer($0) }
        return String(buffer: all)
    }

    @Test("What cannot be started says so with its path, and leaves nothing")
    func failedStart() async throws {
        let program = ProgramSpecification(executable: "/no/such", arguments: ["x"], environment: [:], directory: "/")
        let tree = try await processes.launch(program, on: MultiThreadedEventLoopGroup.singleton.next())
        #expect(await read(tree.output) == "")
        #expect(await tree.startFailure?.reason == "cannot start /no/such: No such file or directory")
        try await tree.gone.get()
        #expect(processes.count == 0)
    }

    @Test("Apart: input is written and ended, output and errors are told apart")
    func streamsApart() async throws {
        let tree = try await launch("cat; echo oops >&2", .apart)
        let input = try #require(tree.input)
        let errors = try #require(tree.errors)
        async let output = read(tree.output)
        async let complaints = read(errors)
        try await input.write(ByteBuffer(string: "one\n"))
        try await input.write(ByteBuffer(string: "two\n"))
        input.close()
        #expect(await output == "one\ntwo\n")
        #expect(await complaints == "oops\n")
        #expect(try await tree.exit.get() == .exited(0))
        try await tree.gone.get()
    }

    @Test("Terminal: it is the program's own, has its size, is resized, and hands Ctrl+C on as a signal")
    func terminal() async throws {
        let command =
            "test -t 0 && test -t 2 && stty size; trap 'stty size; exit 7' INT; echo ready; while :; do sleep 0.1; done"
        let tree = try await launch(command, .terminal(TerminalSize(columns: 91, rows: 17)))
        let input = try #require(tree.input)
        let output = try await tree.output.executeThenClose { inbound in
            var text = ""
            do {
                for try await piece in inbound {
                    let wasReady = text.contains("ready")
                    text += String(buffer: piece)
                    if !wasReady, text.contains("ready") {
                        try await input.resize(TerminalSize(columns: 100, rows: 40))
                        try await input.write(ByteBuffer(bytes: [3]))
                    }
                }
            } catch is IOError {}  // EIO: nobody has the terminal open any more
            return text
        }
        #expect(output.contains("17 91"))
        #expect(output.contains("40 100"))
        #expect(try await tree.exit.get() == .exited(7))
        try await tree.gone.get()
    }

    @Test("A signal is delivered when it is said to be, and asking for one is answered also when nobody is left")
    func delivery() async throws {
        let tree = try await launch("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.01; done", .apart)
        let output = try await tree.output.executeThenClose { inbound in
            var text = ""
            for try await piece in inbound {
                text += String(buffer: piece)
                if text == "ready\n" { try await tree.deliver(SIGUSR1).get() }
            }
            return text
        }
        #expect(output == "ready\ngot\n")
        #expect(try await tree.exit.get() == .exited(3))
        try await tree.gone.get()
        try await tree.deliver(SIGUSR1).get()
    }
}
