import FoundationEssentials
import Glibc
import SSHServing

/// The gateway's host key, in a file as `ssh-keygen -t ed25519` writes it. Gateways that share an address share a key.
enum HostKeyFile {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// Reads the key, or makes one where there is no file. Blocks.
    static func load(_ path: String) throws -> KeyPair {
        if let key = try read(path) { return key }
        try make(path)
        guard let key = try read(path) else { throw Failure(description: "the host key \(path) vanished") }
        return key
    }

    private static func read(_ path: String) throws -> KeyPair? {
        var status = stat()
        guard stat(path, &status) == 0 else {
            if errno == ENOENT { return nil }
            throw failure("cannot look at the host key \(path)")
        }
        guard status.st_mode & 0o077 == 0 else {
            throw Failure(description: "the host key \(path) can be read by others; run: chmod 0600 \(path)")
        }
        guard let text = try? String(contentsOf: URL(filePath: path), encoding: .utf8) else {
            throw Failure(description: "cannot read the host key \(path)")
        }
        guard let key = KeyPair(file: text) else {
            throw Failure(
                description:
                    "\(path) holds no Ed25519 key without a passphrase; make one: ssh-keygen -t ed25519 -N '' -f \(path)"
            )
        }
        return key
    }

    /// Appears whole or not at all, also where the power fails; that of another gateway that was quicker stays.
    private static func make(_ path: String) throws {
        guard let text = KeyPair.newFile() else { throw Failure(description: "cannot make a host key") }
        let folder = URL(filePath: path).deletingLastPathComponent().path
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let unfinished = "\(path).\(getpid()).new"
        // Left over by one that had the same number.
        unlink(unfinished)
        let descriptor = open(unfinished, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw failure("cannot write the host key \(unfinished)") }
        defer { unlink(unfinished) }
        let written = text.utf8CString.dropLast().withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        let isWritten = written == text.utf8.count && fsync(descriptor) == 0
        guard close(descriptor) == 0, isWritten else { throw failure("cannot write the host key \(unfinished)") }
        guard link(unfinished, path) == 0 || errno == EEXIST else { throw failure("cannot make the host key \(path)") }
    }

    private static func failure(_ what: String) -> Failure {
        Failure(description: "\(what): \(String(cString: strerror(errno)))")
    }
}
