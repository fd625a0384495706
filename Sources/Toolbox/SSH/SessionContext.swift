import Glibc
import NIOCore
import SSHServing

/// What sessions start programs with.
struct SessionContext: Sendable {
    let processes: ProcessTable
    let recordings: RecordingTable
    let environment: EnvironmentStore
    let workingDirectory: WorkingDirectory
    let spoolDirectory: String
    let home: String
    let group: any EventLoopGroup
    let shells = ShellFinder()
}

/// A program that a session asked for, before there is a shell for it.
struct SessionProgram: Sendable {
    /// Nil for a login shell.
    var command: String?
    var variables: [String: String]
    var input: OpenFile
    var output: OpenFile
    var errors: OpenFile
    var hasTerminal: Bool
}

extension SessionContext {
    /// Starts a program and follows it to its end. All that happens is told to the mailbox under `number`.
    func run(_ program: SessionProgram, as number: Int, tell mailbox: ConnectionMailbox) {
        // Ends by itself when the program does, and then nobody waits for it; so it is nobody's child.
        Task {
            do {
                let tree = try await processes.launch(specification(of: program), on: group.next())
                if !mailbox.post(.launched(number, tree)) { tree.kill() }
                // The program writes to descriptors of ours, so nothing comes here.
                try? await tree.output.executeThenClose { _ in }
                if let failure = await tree.startFailure { mailbox.post(.notLaunched(number, failure.reason)) }
                mailbox.post(.exited(number, try await tree.exit.get()))
            } catch let failure as LaunchFailure {
                mailbox.post(.notLaunched(number, failure.reason))
            } catch let error as ToolboxError {
                mailbox.post(.notLaunched(number, error.message))
            } catch {
                mailbox.post(.notLaunched(number, "\(error)"))
            }
        }
    }

    private func specification(of program: SessionProgram) async throws -> ProgramSpecification {
        var variables = environment.current.merging(program.variables) { $1 }
        guard let shell = try await shells.find(in: variables) else {
            throw LaunchFailure(reason: "this image has no shell: none of zsh, bash, sh is in PATH")
        }
        variables["SHELL"] = shell.path
        let directory = workingDirectory.path
        var specification: ProgramSpecification
        if let command = program.command {
            specification = try await shell.program(
                for: command,
                environment: variables,
                directory: directory,
                spoolDirectory: spoolDirectory
            )
        } else {
            let name = shell.path.split(separator: "/").last ?? "sh"
            specification = ProgramSpecification(
                executable: shell.path,
                arguments: ["-\(name)"],
                environment: variables,
                directory: directory
            )
        }
        specification.input = program.input
        specification.standardOutput = program.output
        specification.standardError = program.errors
        specification.controlsInput = program.hasTerminal
        return specification
    }
}
