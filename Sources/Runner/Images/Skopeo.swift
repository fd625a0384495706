import Crypto
import Docker
import Domain
import FoundationEssentials
import NIOPosix
import Subprocess

#if canImport(Glibc)
    import Glibc
#endif

/// Fetches images from registries that are trusted otherwise than the engine trusts, with the program `skopeo`.
///
/// The engine's trust (`/etc/docker/certs.d`, `insecure-registries`) is the host's, for everybody: an authority that one organization
/// named there could pass for the registry of another. Here it counts for one call.
struct Skopeo: Sendable {
    /// Where each call has a folder, which goes with it.
    let root: String
    /// As registries call it: `amd64`.
    let architecture: String
    /// No file that is fetched may be larger.
    let imageBytesLimit: Int64

    /// How a registry is asked.
    struct Access: Sendable {
        /// nil to ask as nobody.
        var credentials: RegistryCredentials?
        var trust: RegistryTrust
    }

    /// An image as its registry has it.
    struct Found: Sendable, Hashable {
        var name: ImageName
        /// `sha256:…`, of the image for this host where the name is of several.
        var digest: String
        /// As it is sent, says the registry.
        var sizeBytes: Int64

        var reference: String { "\(name.host)/\(name.repository)@\(digest)" }
    }

    init(stateDirectory: String, architecture: String, imageBytesLimit: Int64) {
        root = "\(stateDirectory)/skopeo"
        self.architecture = ["x86_64": "amd64", "aarch64": "arm64"][architecture] ?? architecture
        self.imageBytesLimit = imageBytesLimit
    }

    // MARK: - Asking and fetching

    private static let askLimit: Duration = .seconds(60)
    /// Larger than any image may be, and no sum of these overflows.
    private static let layerBytesBelieved: Int64 = 1 << 40

    /// Asks the registry. Throws `DockerError` as the engine would, and ``UnusableImage``.
    func find(_ name: ImageName, _ access: Access) async throws -> Found {
        let repository = "\(name.host)/\(name.repository)"
        let asked = name.digest.map { "\(repository)@\($0)" } ?? "\(repository):\(name.tag ?? "latest")"
        var (digest, manifest) = try await manifest(of: asked, name, access)
        if let images = manifest.manifests {
            let image = "\(repository)@\(try choose(images, asked).digest)"
            (digest, manifest) = try await self.manifest(of: image, name, access)
        }
        guard let layers = manifest.layers else {
            throw UnusableImage(
                description: "\(asked) is neither an image nor a list of images that this runner understands"
            )
        }
        let bytes = layers.reduce(0) { $0 + min(max(0, $1.size), Self.layerBytesBelieved) }
        return Found(name: name, digest: digest, sizeBytes: bytes)
    }

    private func choose(_ images: [Manifest.Image], _ asked: String) throws -> Manifest.Image {
        for image in images where image.platform?.os == "linux" && image.platform?.architecture == architecture {
            guard image.digest.hasPrefix("sha256:"), isDigest(image.digest.dropFirst(7)) else {
                throw UnusableImage(description: "the list of images \(asked) names one by something that is no digest")
            }
            return image
        }
        throw UnusableImage(
            description: "\(asked) has no image for linux on \(architecture), which this runner is; use one that has"
        )
    }

    /// Runs `body` with an archive of the image for an engine to load, which is gone afterwards; the engine then knows it as `tag`.
    func fetch<Value: Sendable>(
        _ image: Found,
        _ access: Access,
        tagged tag: String,
        within limit: Duration,
        _ body: (FileChunks) async throws -> Value
    ) async throws -> Value {
        try await inFolder { folder in
            let fileBytes = try await fileBytesLimit()
            let archive = "\(folder)/image.tar"
            let words =
                try options("--src-", image.name.host, access, folder)
                + ["docker://\(image.reference)", "docker-archive:\(archive):\(tag)"]
            _ = try await run(
                "copy",
                words,
                in: folder,
                to: "pull image \(image.reference)",
                within: limit,
                orThrow: .timeout,
                fileBytes: fileBytes
            )
            let bytes = try OpenedFile(archive).size()
            return try await body(FileChunks(file: archive, bytes: bytes, threads: .singleton))
        }
    }

    /// What calls of a runner that was killed have left. Blocks for a few milliseconds.
    func sweep() {
        let folder = "\(root)/"
        let left = HostProcesses.find { words in
            words.contains { $0.hasPrefix(folder) } && words.contains { $0.hasSuffix(Self.program) }
        }
        for process in left { kill(process, SIGKILL) }
        try? FileManager.default.removeItem(atPath: root)
    }

    // MARK: - Manifests

    /// Of an image, or of a list of images.
    private struct Manifest: Decodable {
        struct Layer: Decodable { var size: Int64 }
        struct Image: Decodable {
            struct Platform: Decodable {
                var os: String?
                var architecture: String?
            }
            var digest: String
            var platform: Platform?
        }
        var layers: [Layer]?
        var manifests: [Image]?
    }

    private static func read(_ text: String, _ asked: String) throws -> Manifest {
        do {
            return try JSONDecoder().decode(Manifest.self, from: Data(text.utf8))
        } catch {
            throw UnusableImage(description: "the manifest of \(asked) is not understood: \(error)")
        }
    }

    private func manifest(of reference: String, _ name: ImageName, _ access: Access) async throws -> (
        digest: String, Manifest
    ) {
        let text = try await inFolder { folder in
            let words = ["--raw"] + (try options("--", name.host, access, folder)) + ["docker://\(reference)"]
            // A registry that does not answer is its owner's.
            return try await run(
                "inspect",
                words,
                in: folder,
                to: "ask the registry for \(reference)",
                within: Self.askLimit,
                orThrow: .server,
                fileBytes: Self.archiveMarginBytes
            )
        }
        return (try Self.digest(of: text, askedAs: reference), try Self.read(text, reference))
    }

    /// Throws where it is not what was asked for: the program itself only prints it.
    static func digest(of manifest: String, askedAs reference: String) throws -> String {
        let digest = "sha256:\(SHA256.hash(data: Data(manifest.utf8)).hexadecimal)"
        guard !reference.contains("@") || reference.hasSuffix("@\(digest)") else {
            throw UnusableImage(description: "the registry answers \(reference) with something else, \(digest)")
        }
        return digest
    }

    // MARK: - The program

    /// Manifests are refused above 4 MiB by registries themselves.
    private static let outputBytesLimit = 4 << 20
    private static let errorBytesLimit = 64 << 10
    private static let program = "skopeo"
    /// Of the archive, beside what is in the image.
    private static let archiveMarginBytes: Int64 = 64 << 20

    /// With a folder of this call's own.
    private func inFolder<Value>(_ body: (String) async throws -> Value) async throws -> Value {
        let folder = "\(root)/\(UInt64.random(in: 0 ... .max))"
        try FileManager.default.createDirectory(
            atPath: "\(folder)/certificates",
            withIntermediateDirectories: true,
            attributes: [.posixPermissions: 0o700]
        )
        do {
            let value = try await body(folder)
            await remove(folder)
            return value
        } catch {
            await remove(folder)
            throw error
        }
    }

    /// Large files take a moment. What stays goes with the next sweep.
    private func remove(_ folder: String) async {
        try? await NIOThreadPool.singleton.runIfActive { try FileManager.default.removeItem(atPath: folder) }
    }

    /// How the registry is asked, with what must not be in arguments in files. Each option begins with `prefix`.
    private func options(_ prefix: String, _ host: String, _ access: Access, _ folder: String) throws -> [String] {
        var options = [
            "\(prefix)cert-dir", "\(folder)/certificates", "\(prefix)tls-verify=\(access.trust != .anything)",
        ]
        if case .authorities(let text) = access.trust {
            try Data(text.utf8).write(to: URL(filePath: "\(folder)/certificates/ca.crt"))
        }
        guard let credentials = access.credentials else { return options + ["\(prefix)no-creds"] }
        let file = "\(folder)/auth.json"
        let content = try Self.logins(credentials, host)
        guard
            FileManager.default.createFile(atPath: file, contents: content, attributes: [.posixPermissions: 0o600])
        else { throw RunnerError(.stateDirectory, "cannot write \(file)") }
        options += ["\(prefix)authfile", file]
        return options
    }

    private static func logins(_ credentials: RegistryCredentials, _ host: String) throws -> Data {
        struct Login: Encodable { var auth: String }
        let login = Data("\(credentials.username):\(credentials.password)".utf8).base64EncodedString()
        return try JSONEncoder().encode(["auths": [host: Login(auth: login)]])
    }

    /// Of what is fetched, whatever the registry says of sizes: there are a layer, the archive and the engine's files at once, and
    /// others want the disk too.
    private func fileBytesLimit() async throws -> Int64 {
        let free = try await NIOThreadPool.singleton.runIfActive { [root] in DiskUsage(of: root)?.freeBytes }
        let room = free.map { max(0, $0 - CaptureRoom.reserveBytes) / 3 } ?? .max
        return min(room, imageBytesLimit + Self.archiveMarginBytes)
    }

    /// - Parameters:
    ///   - kind: of the error if it is late.
    ///   - fileBytes: what is larger ends with an error.
    private func run(
        _ command: String,
        _ arguments: [String],
        in folder: String,
        to operation: String,
        within limit: Duration,
        orThrow kind: DockerError.Kind,
        fileBytes: Int64
    ) async throws -> String {
        let words =
            ["--fsize=\(fileBytes)", Self.program, "--insecure-policy", "--tmpdir", folder, command] + arguments
        let late = DockerError(
            operation: operation,
            kind: kind,
            message: "the registry was not done within \(limit.components.seconds) s"
        )
        return try await withDeadline(limit, orThrow: late) { try await execute(words, operation, in: folder) }
    }

    private static let programNotFoundStatus: CInt = 127

    private func execute(_ words: [String], _ operation: String, in folder: String) async throws -> String {
        do {
            let result = try await Subprocess.run(
                .name("prlimit"),
                arguments: Arguments(words),
                environment: .custom(Self.environment(in: folder)),
                input: .none,
                output: .string(limit: Self.outputBytesLimit),
                error: .string(limit: Self.errorBytesLimit)
            )
            switch result.terminationStatus {
            case .exited(0): return result.standardOutput
            case .exited(Self.programNotFoundStatus):
                throw DockerError(operation: operation, kind: .server, message: Self.absent)
            case .exited: throw Self.failure(result.standardError, operation)
            case .signaled(let signal):
                throw DockerError(
                    operation: operation,
                    kind: .unavailable,
                    message: "\(Self.program) was ended by signal \(signal)"
                )
            }
        } catch let error as SubprocessError {
            throw DockerError(
                operation: operation,
                kind: .server,
                message: "\(Self.program) could not be used: \(error)"
            )
        }
    }

    private static let absent = """
        this runner's host has no \(program), which fetches from registries that are trusted otherwise than the engine trusts: install \
        it there (apt-get install \(program); the operator)
        """

    /// Nobody's own logins or settings, but the host's way out.
    private static func environment(in folder: String) -> [Environment.Key: String] {
        var its: [Environment.Key: String] = [
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": folder, "TMPDIR": folder,
        ]
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"] {
            if let value = ProcessInfo.processInfo.environment[name] {
                its[Environment.Key(stringLiteral: name)] = value
            }
        }
        return its
    }

    private static func failure(_ output: String, _ operation: String) -> any Error {
        let said = gist(output)
        guard !said.contains("file too large") else {
            return UnusableImage(
                description:
                    "the image, or a layer of it, is larger than this runner takes, or has room for: make it smaller"
            )
        }
        return DockerError.saidByRegistry(operation: operation, message: said)
    }

    /// The words of the last line, which says what ended it; not what else the registry said in its answer.
    static func gist(_ output: String) -> String {
        let last = output.split(whereSeparator: \.isNewline).last.map(String.init) ?? "it said nothing"
        let said =
            last.firstMatch(of: #/msg="(?<text>.*)"/#).map { String($0.text).replacing("\\\"", with: "'") } ?? last
        let heads = #/^((Error )?(parsing image name|initializing source|determining manifest MIME type for) [^ ]+ )+/#
        let body = #/(?<status>StatusCode: [0-9]+).*/#
        return String(said.replacing(heads, with: "").replacing(body) { $0.status }.prefix(600))
    }
}
