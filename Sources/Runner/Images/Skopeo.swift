import Crypto
import Docker
import Domain
import FoundationEssentials
import Subprocess

#if canImport(Glibc)
    import Glibc
#endif

/// Fetches images from registries that are trusted otherwise than the engine trusts, with the program `skopeo`.
///
/// The engine's trust (`/etc/docker/certs.d`, `insecure-registries`) is the host's, for everybody: an authority that one organization
/// named there could pass for the registry of another. Here it counts for one call.
struct Skopeo: Sendable {
    let engine: DockerEngine
    /// Where each call has a folder, which goes with it.
    let root: String
    /// As registries call it: `amd64`.
    let architecture: String

    /// How a registry is asked.
    struct Access: Sendable {
        var host: String
        /// nil to ask as nobody.
        var credentials: RegistryCredentials?
        var trust: RegistryTrust
    }

    /// An image as its registry has it.
    struct Found: Sendable, Hashable {
        /// `host/repository@sha256:…`, of the image for this host where the name is of several.
        var reference: String
        /// As it is sent.
        var sizeBytes: Int64
        /// The last part of the reference.
        var digest: Substring { reference.split(separator: ":").last ?? "" }
    }

    init(engine: DockerEngine, stateDirectory: String, architecture: String) {
        self.engine = engine
        root = "\(stateDirectory)/skopeo"
        self.architecture = ["x86_64": "amd64", "aarch64": "arm64"][architecture] ?? architecture
    }

    // MARK: - Asking and fetching

    private static let askLimit: Duration = .seconds(60)
    /// Larger than any image may be, and no sum of these overflows.
    private static let layerBytesBelieved: Int64 = 1 << 40

    /// Asks the registry. Throws `DockerError` as the engine would, and ``UnusableImage``.
    func find(_ name: ImageName, _ access: Access) async throws -> Found {
        let repository = "\(name.host)/\(name.repository)"
        let asked = name.digest.map { "\(repository)@\($0)" } ?? "\(repository):\(name.tag ?? "latest")"
        var text = try await manifest(asked, access)
        var manifest = try Self.read(text, asked)
        if let images = manifest.manifests {
            text = try await self.manifest("\(repository)@\(try choose(images, asked).digest)", access)
            manifest = try Self.read(text, asked)
        }
        guard let layers = manifest.layers else {
            throw UnusableImage(
                description: "\(asked) is neither an image nor a list of images that this runner understands"
            )
        }
        return Found(
            reference: "\(repository)@sha256:\(SHA256.hash(data: Data(text.utf8)).hexadecimal)",
            sizeBytes: layers.reduce(0) { $0 + min(max(0, $1.size), Self.layerBytesBelieved) }
        )
    }

    private func choose(_ images: [Manifest.Image], _ asked: String) throws -> Manifest.Image {
        for image in images where image.platform?.os == "linux" && image.platform?.architecture == architecture {
            return image
        }
        throw UnusableImage(
            description: "\(asked) has no image for linux on \(architecture), which this runner is; use one that has"
        )
    }

    /// The engine has the image as `name`, with a tag, afterwards.
    func fetch(_ image: Found, _ access: Access, as name: String, within limit: Duration) async throws {
        let arguments = [
            "--dest-daemon-host", engine.host.description, "docker://\(image.reference)", "docker-daemon:\(name)",
        ]
        _ = try await run("copy", "pull image \(image.reference)", access, option: "src-", arguments, within: limit)
    }

    /// What calls of a runner that was killed have left. Blocks for a few milliseconds.
    func sweep() {
        for process in HostProcesses.find({ $0.contains { $0.hasPrefix("\(root)/") } }) { kill(process, SIGKILL) }
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

    private func manifest(_ reference: String, _ access: Access) async throws -> String {
        let arguments = ["--raw", "docker://\(reference)"]
        return try await run(
            "inspect",
            "ask the registry for \(reference)",
            access,
            option: "",
            arguments,
            within: Self.askLimit
        )
    }

    // MARK: - The program

    /// Manifests are refused above 4 MiB by registries themselves.
    private static let outputBytesLimit = 4 << 20
    private static let errorBytesLimit = 64 << 10
    private static let program = "skopeo"

    /// - Parameter option: how the options for the registry begin.
    private func run(
        _ command: String,
        _ operation: String,
        _ access: Access,
        option: String,
        _ arguments: [String],
        within limit: Duration
    ) async throws -> String {
        let folder = "\(root)/\(UInt64.random(in: 0 ... .max))"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let options = try prepare(folder, access, option)
        let words =
            ["--insecure-policy", "--tmpdir", folder, "--override-arch", architecture, command] + options + arguments
        let late = DockerError(
            operation: operation,
            kind: .timeout,
            message: "\(access.host) was not done within \(limit.components.seconds) s"
        )
        return try await withDeadline(limit, orThrow: late) { try await execute(words, operation, in: folder) }
    }

    /// Makes the folder of one call, with what must not be in its arguments.
    private func prepare(_ folder: String, _ access: Access, _ option: String) throws -> [String] {
        let files = FileManager.default
        try files.createDirectory(
            atPath: "\(folder)/certificates",
            withIntermediateDirectories: true,
            attributes: [.posixPermissions: 0o700]
        )
        var options = ["--\(option)cert-dir", "\(folder)/certificates"]
        switch access.trust {
        case .system: break
        case .authorities(let text):
            try Data(text.utf8).write(to: URL(filePath: "\(folder)/certificates/ca.crt"))
        case .anything: options.append("--\(option)tls-verify=false")
        }
        guard let credentials = access.credentials else { return options + ["--\(option)no-creds"] }
        let file = "\(folder)/auth.json"
        guard
            files.createFile(
                atPath: file,
                contents: try Self.logins(credentials, access.host),
                attributes: [.posixPermissions: 0o600]
            )
        else { throw RunnerError(.stateDirectory, "cannot write \(file)") }
        return options + ["--\(option)authfile", file]
    }

    private static func logins(_ credentials: RegistryCredentials, _ host: String) throws -> Data {
        struct Login: Encodable { var auth: String }
        let login = Data("\(credentials.username):\(credentials.password)".utf8).base64EncodedString()
        return try JSONEncoder().encode(["auths": [host: Login(auth: login)]])
    }

    private func execute(_ words: [String], _ operation: String, in folder: String) async throws -> String {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        do {
            let result = try await Subprocess.run(
                .name(Self.program),
                arguments: Arguments(words),
                // Nobody's own logins or settings.
                environment: .custom(["PATH": path, "HOME": folder, "TMPDIR": folder]),
                input: .none,
                output: .string(limit: Self.outputBytesLimit),
                error: .string(limit: Self.errorBytesLimit)
            )
            guard result.terminationStatus.isSuccess else {
                throw DockerError.saidByRegistry(operation: operation, message: Self.gist(result.standardError))
            }
            return result.standardOutput
        } catch let error as SubprocessError {
            throw DockerError(
                operation: operation,
                kind: error.code == .executableNotFound ? .unavailable : .server,
                message: error.code == .executableNotFound ? Self.absent : "\(Self.program) could not be used: \(error)"
            )
        }
    }

    private static let absent = """
        this runner's host has no \(program), which fetches from registries that are trusted otherwise than the engine trusts: install \
        it there (apt-get install \(program))
        """

    /// The words of the last line, which says what ended it.
    static func gist(_ output: String) -> String {
        let last = output.split(whereSeparator: \.isNewline).last.map(String.init) ?? "it said nothing"
        let said =
            last.firstMatch(of: #/msg="(?<text>.*)"/#).map { String($0.text).replacing("\\\"", with: "'") } ?? last
        let heads = #/^((Error )?(parsing image name|initializing source|determining manifest MIME type for) [^ ]+ )+/#
        return String(said.replacing(heads, with: "").prefix(600))
    }
}
