import FoundationEssentials
import Glibc
import SSHServing
import Testing

@testable import SSHGateway

/// The file with the gateway's host key.
@Suite struct HostKeyTests {
    private func inFolder(_ body: (String) throws -> Void) throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "gateway-\(UInt64.random(in: 0 ... .max))")
        defer { try? FileManager.default.removeItem(at: folder) }
        try body(folder.appending(path: "state/key").path)
    }

    @Test func isMadeOnceAndKept() throws {
        try inFolder { path in
            let made = try HostKeyFile.load(path)
            #expect(made.line.hasPrefix("ssh-ed25519 AAAA"))
            #expect(try HostKeyFile.load(path).line == made.line)
            var status = stat()
            #expect(stat(path, &status) == 0 && status.st_mode & 0o777 == 0o600)
            let folder = URL(filePath: path).deletingLastPathComponent().path
            #expect(
                try FileManager.default.contentsOfDirectory(atPath: folder) == ["key"],
                "nothing unfinished is left"
            )
            try inFolder { other in
                let another = try HostKeyFile.load(other)
                #expect(another.line != made.line)
            }
        }
    }

    /// In a container, each start may have the same number.
    @Test func whatAnotherStartLeftUnfinishedIsNoHindrance() throws {
        try inFolder { path in
            let folder = URL(filePath: path).deletingLastPathComponent()
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            try Data("half".utf8).write(to: URL(filePath: "\(path).\(getpid()).new"))
            _ = try HostKeyFile.load(path)
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["key"])
        }
    }

    @Test func whatOthersCanReadOrIsNoKeyIsRefused() throws {
        try inFolder { path in
            _ = try HostKeyFile.load(path)
            chmod(path, 0o644)
            #expect(throws: HostKeyFile.Failure.self) { try HostKeyFile.load(path) }
            chmod(path, 0o600)
            _ = try HostKeyFile.load(path)
            try Data("nonsense".utf8).write(to: URL(filePath: path))
            chmod(path, 0o600)
            let failure = #expect(throws: HostKeyFile.Failure.self) { try HostKeyFile.load(path) }
            #expect(failure?.description.contains("ssh-keygen") == true)
        }
    }

    @Test func isWhatOpenSSHReads() async throws {
        let path = FileManager.default.temporaryDirectory.appending(path: "gateway-\(UInt64.random(in: 0 ... .max))")
            .path
        defer { unlink(path) }
        let key = try HostKeyFile.load(path)
        let shown = try await ran("ssh-keygen", ["-y", "-f", path])
        #expect(shown.output.hasPrefix(key.line), "\(shown)")
    }
}
