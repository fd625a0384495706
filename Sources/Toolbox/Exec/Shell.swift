import Glibc
import NIOCore
import Synchronization

/// The longest command that is handed to the shell as an argument; the kernel takes 128 KiB. Longer ones go by a file.
package let commandArgumentLimitBytes = 96 << 10

/// Finds programs as a shell would.
package enum ProgramSearch {
    package static let fallbackPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    /// The first executable file called `name` in the PATH of `environment`. Blocks.
    package static func find(_ name: String, in environment: [String: String]) -> String? {
        let path = environment["PATH"].flatMap { $0.isEmpty ? nil : $0 } ?? fallbackPath
        for directory in path.split(separator: ":") where directory.hasPrefix("/") {
            let candidate = "\(directory)/\(name)"
            if isExecutableFile(candidate) { return candidate }
        }
        return nil
    }

    private static func isExecutableFile(_ path: String) -> Bool {
        (try? FileStatus.of(path))?.kind == .regular && access(path, X_OK) == 0
    }
}

/// The shell of a sandbox: the first of zsh, bash and sh.
package struct Shell: Sendable, Equatable {
    package var path: String

    /// Looks in PATH and, if that was set to something unusual, in the usual directories. Blocks.
    package static func find(in environment: [String: String]) -> Shell? {
        for name in ["zsh", "bash", "sh"] {
            if let path = ProgramSearch.find(name, in: environment) ?? ProgramSearch.find(name, in: [:]) {
                return Shell(path: path)
            }
        }
        return nil
    }

    /// A program that runs a command with nothing on its standard input.
    package func program(
        for command: String,
        environment: [String: String],
        directory: String,
        spoolDirectory: String
    ) async throws -> ProgramSpecification {
        var program = ProgramSpecification(
            executable: path,
            arguments: [path, "-c", command],
            environment: environment,
            directory: directory
        )
        guard command.utf8.count > commandArgumentLimitBytes else { return program }
        // The shell opens the script by its descriptor; the script's first words close the one that was inherited.
        program.source = try await onBlockingThread { try scriptFile("exec 9<&-; \(command)\n", in: spoolDirectory) }
        program.arguments = [path, "/proc/self/fd/9"]
        return program
    }
}

/// Remembers for a short while which shell there is, so that not every command has to look.
package final class ShellFinder: Sendable {
    private struct Answer: Sendable {
        var searchPath: String?
        var shell: Shell
        var expires: ContinuousClock.Instant
    }

    private static let lifetime = Duration.seconds(5)
    private let last = Mutex<Answer?>(nil)

    package init() {}

    /// The shell for a program with these variables, nil if the image has none.
    package func find(in environment: [String: String]) async throws -> Shell? {
        let searchPath = environment["PATH"]
        if let known = last.withLock({ $0 }), known.searchPath == searchPath, known.expires > .now {
            return known.shell
        }
        guard let shell = try await onBlockingThread({ Shell.find(in: environment) }) else { return nil }
        last.withLock { $0 = Answer(searchPath: searchPath, shell: shell, expires: .now + Self.lifetime) }
        return shell
    }
}

/// An anonymous file with a text in it, to be read from its start. Blocks.
package func scriptFile(_ text: String, in directory: String) throws -> OpenFile {
    let file = try OpenFile.anonymous(in: directory)
    try file.write(ByteBuffer(string: text).readableBytesView)
    lseek(file.descriptor, 0, SEEK_SET)
    return file
}
