import Docker
import Domain
import FoundationEssentials
import Subprocess

/// Runs rclone. Its long-lived processes, one for each mounted volume, are no children of ours: they outlive the runner.
struct Rclone: Sendable {
    let storage: VolumeStorage
    let folders: VolumeFolders

    /// How long rclone may take until a mount answers.
    private static let mountSeconds = 20
    private static let commandLimit: Duration = .seconds(30)
    /// Less than a claim on a volume's work lasts. What was removed until then stays removed.
    private static let purgeLimit: Duration = .seconds(100)

    /// Mounts a volume; it answers when this returns. Throws `volume` with what rclone says.
    func mount(_ volume: VolumeID) async throws {
        let flags = try Self.sizes(storage) + Self.behaviour
        let arguments =
            ["mount", remote(of: volume), folders.mountPoint(of: volume), "--daemon", "--daemon-wait"]
            + [
                "\(Self.mountSeconds)s", "--cache-dir", folders.cache(of: volume), "--log-file",
                folders.log(of: volume),
            ]
            // Only root reaches the socket, by the mode of the folder; rclone wants a password, or this, before it forgets folders.
            + ["--rc", "--rc-no-auth", "--rc-addr", "unix://\(folders.socket(of: volume))"]
            + ["--devname", "martlet-\(volume)"] + flags
        try await run(arguments, within: .seconds(Self.mountSeconds + 10))
    }

    private static let behaviour = [
        // Every user of every sandbox may read and write; S3 keeps no owners and no modes.
        "--allow-other", "--umask", "0", "--dir-perms", "0777", "--file-perms", "0777", "--links",
        "--vfs-cache-mode", "full", "--vfs-write-back", "1s", "--vfs-cache-poll-interval", "10s",
        "--vfs-fast-fingerprint", "--use-server-modtime",
        // What other hosts write is seen after this.
        "--dir-cache-time", "5s", "--attr-timeout", "1s", "--poll-interval", "0",
        // An S3 that is away is an error soon; uploads are repeated whatever this says. But one that takes a large file slowly
        // must have the time to say that it has it, or the upload would begin anew for ever.
        "--contimeout", "3s", "--timeout", "30s", "--low-level-retries", "1", "--retries", "1",
        "--buffer-size", "4Mi", "--transfers", "8", "--log-level", "NOTICE", "--log-file-max-size", "5Mi",
        "--log-file-max-backups", "1",
    ]

    private static func sizes(_ storage: VolumeStorage) throws -> [String] {
        [
            "--vfs-cache-max-size", "\(storage.cacheLimitBytes)B",
            "--vfs-cache-min-free-space", "\(storage.freeBytesWanted)B",
        ]
    }

    /// How many files of a mounted volume wait to be uploaded, or are being.
    func pendingUploads(of volume: VolumeID) async throws -> Int {
        struct Answer: Decodable {
            struct Cache: Decodable { var uploadsInProgress, uploadsQueued: Int }
            var diskCache: Cache
        }
        let text = try await run(
            ["rc", "--unix-socket", folders.socket(of: volume), "vfs/stats"],
            within: Self.commandLimit
        )
        guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(text.utf8)) else {
            throw RunnerError(.volume, "rclone's answer about pending uploads is not understood: \(text.prefix(200))")
        }
        return answer.diskCache.uploadsInProgress + answer.diskCache.uploadsQueued
    }

    /// A folder of a mounted volume is read anew from S3 before it is shown the next time.
    func forgetListing(of subpath: String, in volume: VolumeID) async throws {
        // Of a file, and be it none: its folder is marked. Of the folder itself, its views would part from it.
        let arguments = ["rc", "--unix-socket", folders.socket(of: volume), "vfs/forget", "file=\(subpath)/-"]
        try await run(arguments, within: Self.commandLimit)
    }

    /// The bucket is there, and may be listed, when this returns.
    func ensureBucket() async throws {
        do {
            try await run(
                ["lsf", "--max-depth", "1", "--files-only", "\(bucket)/\(storage.prefix)"] + Self.patience,
                within: Self.commandLimit
            )
        } catch let error as RcloneFailure where error.isNotFound {
            try await run(["mkdir", bucket] + Self.patience, within: Self.commandLimit)
        }
    }

    /// Nothing of the volume is in S3 when this returns.
    func purge(_ volume: VolumeID) async throws {
        do {
            try await run(["purge", remote(of: volume)] + Self.patience, within: Self.purgeLimit)
        } catch let error as RcloneFailure where error.isNotFound {
            // It never held anything, or holds nothing any more.
        }
    }

    private static let patience = [
        "--contimeout", "5s", "--timeout", "20s", "--low-level-retries", "2", "--retries", "1", "--log-level", "ERROR",
    ]

    private var bucket: String { "\(VolumeStorage.remote):\(storage.bucket)" }
    private func remote(of volume: VolumeID) -> String { "\(bucket)/\(storage.prefix)\(volume)" }

    private static let outputBytesLimit = 64 << 10

    @discardableResult
    private func run(_ arguments: [String], within limit: Duration) async throws -> String {
        let words = arguments + ["--config", folders.configuration]
        let late = RunnerError(.volume, "rclone \(arguments[0]) did not end within \(limit); it was killed")
        return try await withDeadline(limit, orThrow: late) { try await execute(words) }
    }

    /// A name is looked up in the path, which a program given with its folder begins.
    private var program: Substring { storage.rclone.split(separator: "/").last ?? "rclone" }

    private var path: String {
        let folder = storage.rclone.dropLast(program.count + 1)
        return (folder.isEmpty ? "" : "\(folder):") + "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    }

    private func execute(_ arguments: [String]) async throws -> String {
        let result = try await Subprocess.run(
            .name(String(program)),
            arguments: Arguments(arguments),
            environment: .custom(["PATH": path, "HOME": "/"]),
            input: .none,
            output: .string(limit: Self.outputBytesLimit),
            error: .string(limit: Self.outputBytesLimit)
        )
        guard result.terminationStatus.isSuccess else {
            throw RcloneFailure(
                operation: arguments[0],
                status: "\(result.terminationStatus)",
                message: Self.gist(result.standardError)
            )
        }
        return result.standardOutput
    }

    /// The last line says what ended it; the hour at its head is the log's.
    static func gist(_ output: String) -> String {
        let last = output.split(whereSeparator: \.isNewline).last.map(String.init) ?? "it said nothing"
        return String(last.replacing(/^[0-9\/]+ [0-9:]+ [A-Z]+ *: */, with: "").prefix(600))
    }
}

/// rclone ended with an error.
struct RcloneFailure: Error, Sendable, CustomStringConvertible {
    var operation: String
    var status: String
    var message: String

    /// Bucket or folder are not there: exit code 3.
    var isNotFound: Bool { status.contains("(3)") || message.contains("directory not found") }

    var description: String { "rclone \(operation): \(message) (\(status))" }
}
