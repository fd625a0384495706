import Docker
import FoundationEssentials
import NIOCore
import Testing

@testable import struct Docker.DockerError
@testable import struct Docker.RegistryCredentials
@testable import enum Docker.ImageReference

@Suite struct ImageTests {
    @Test func importsTagsListsAndRemoves() async throws {
        try await withEngine { test in
            let tar = tarArchive(name: "hello.txt", content: "hello")
            let half = tar.readableBytes / 2
            let chunks = AsyncStream<ByteBuffer> { stream in
                stream.yield(tar.getSlice(at: 0, length: half)!)
                stream.yield(tar.getSlice(at: half, length: tar.readableBytes - half)!)
                stream.finish()
            }
            let name = "martlet-test/\(test.mark)"
            let changes = ["ENTRYPOINT [\"/bin/true\"]", "ENV A=b", "LABEL martlet.test=\(test.mark)", "EXPOSE 8080"]
            let id = try await test.engine.importImage(tar: chunks, repository: name, tag: "one", changes: changes)
            let image = try await test.engine.inspectImage("\(name):one")
            #expect(image.id == id)
            #expect(image.entrypoint == ["/bin/true"])
            #expect(image.env.contains("A=b"))
            #expect(image.labels["martlet.test"] == test.mark)
            #expect(image.exposedPorts == ["8080/tcp"])
            #expect(image.repositoryTags == ["\(name):one"])

            try await test.engine.tagImage(id, repository: name, tag: "two")
            let listed = try await test.engine.listImages(labels: ["martlet.test": test.mark])
            #expect(listed.map(\.id) == [id])
            #expect(Set(listed.first?.repositoryTags ?? []) == ["\(name):one", "\(name):two"])

            try await test.engine.removeImage("\(name):one")
            try await test.engine.removeImage("\(name):two")
            #expect(try await kind { _ = try await test.engine.inspectImage(id) } == .notFound)
            #expect(try await kind { try await test.engine.removeImage(id) } == .notFound)
        }
    }

    @Test func anImageInUseIsAConflict() async throws {
        try await withEngine { test in
            let image = "martlet-test/\(test.mark)"
            let tar = tarArchive(name: "x", content: "x")
            _ = try await test.engine.importImage(tar: tar, repository: image, tag: "used")
            var specification = test.sleeper()
            specification.image = "\(image):used"
            let container = try await test.engine.createContainer(named: test.mark, specification).id
            #expect(try await kind { try await test.engine.removeImage("\(image):used") } == .conflict)
            try await test.engine.removeContainer(container)
            try await test.engine.removeImage("\(image):used")
        }
    }

    /// No registry listens there; the engine says so inside a stream that began with 200, or with a 500.
    @Test func aFailedPullThrows() async throws {
        try await withEngine { test in
            let credentials = RegistryCredentials(username: "u", password: "p", serverAddress: "127.0.0.1:1")
            let result = try await kind {
                try await test.engine.pullImage("127.0.0.1:1/none:x", credentials: credentials, within: .seconds(60))
            }
            #expect(result == .server)
        }
    }

    @Test func pushesAndPullsByDigest() async throws {
        let environment = ProcessInfo.processInfo.environment
        let url = try #require(
            environment["MARTLET_TEST_REGISTRY_URL"],
            "MARTLET_TEST_REGISTRY_… are not set: run ops/test"
        )
        let host = url.replacing("http://", with: "")
        let credentials = RegistryCredentials(
            username: try #require(environment["MARTLET_TEST_REGISTRY_USERNAME"]),
            password: try #require(environment["MARTLET_TEST_REGISTRY_PASSWORD"]),
            serverAddress: host
        )
        try await withEngine { test in
            let repository = "\(host)/docker-tests/\(test.mark)"
            let tar = tarArchive(name: "x", content: test.mark)
            let id = try await test.engine.importImage(tar: tar, repository: repository, tag: "1")
            let digest = try await test.engine.pushImage(repository: repository, tag: "1", credentials: credentials)
            #expect(digest.hasPrefix("sha256:") && digest.count == 71)
            #expect(
                try await test.engine.pushImage(repository: repository, tag: "1", credentials: credentials) == digest
            )
            for name in ["\(repository):1", "\(repository)@\(digest)"] {
                #expect(try await test.engine.distributionDigest(name, credentials: credentials) == digest)
                for other in [nil, RegistryCredentials(username: "u", password: "p", serverAddress: host)] {
                    let refusal = try await kind {
                        _ = try await test.engine.distributionDigest(name, credentials: other)
                    }
                    #expect(refusal == .unauthorized, "though the engine has it")
                }
            }
            let absent = try await kind {
                _ = try await test.engine.distributionDigest("\(repository):none", credentials: credentials)
            }
            #expect(absent == .notFound)
            try await test.engine.removeImage("\(repository):1")
            #expect(
                try await kind { _ = try await test.engine.inspectImage(id) } == .notFound,
                "the digest goes with the last tag"
            )

            #expect(
                try await kind { try await test.engine.pullImage("\(repository)@\(digest)") } != nil,
                "without a login"
            )
            try await test.engine.pullImage("\(repository)@\(digest)", credentials: credentials)
            #expect(try await test.engine.inspectImage("\(repository)@\(digest)").id == id)
            try await test.engine.removeImage("\(repository)@\(digest)")
            let unknown = try await kind {
                try await test.engine.pullImage("\(repository):none", credentials: credentials)
            }
            #expect(unknown == .notFound)
        }
    }

    @Test(
        arguments: [
            (500, "Get \"https://r/v2/\": unauthorized: authentication required", .unauthorized),
            (500, "Head \"https://r/v2/\": no basic auth credentials", .unauthorized),
            (404, "pull access denied for a, repository does not exist", .unauthorized),
            (403, "forbidden", .unauthorized),
            (500, "manifest for r/a:1 not found: manifest unknown: manifest unknown", .notFound),
            (500, "name unknown: repository name not known to registry", .notFound),
            (500, "no matching manifest for linux/amd64 in the manifest list entries", .badRequest),
            (500, "dial tcp 192.0.2.1:443: connect: connection refused", .server),
            (500, "write /var/lib/docker/x: no space left on device: denied", .noSpace),
        ] as [(Int, String, DockerError.Kind)]
    )
    func knowsWhatTheRegistrySaid(status: Int, message: String, kind: DockerError.Kind) {
        #expect(
            DockerError.answered(operation: "pull", status: status, message: message).judgedAsRegistrys().kind == kind
        )
    }

    @Test func credentialsAreURLSafeBase64OfJSON() throws {
        let credentials = RegistryCredentials(username: "u", password: "ÿþ~?>", serverAddress: "r:5000")
        let header = try credentials.header()
        #expect(!header.contains("+") && !header.contains("/"))
    }

    @Test func tellsTagsFromPorts() {
        #expect(!ImageReference.namesOneImage("registry:5000/a/b"))
        #expect(ImageReference.namesOneImage("registry:5000/a/b:1"))
        #expect(ImageReference.namesOneImage("a/b@sha256:00"))
        #expect(!ImageReference.namesOneImage("busybox"))
    }
}

/// A tar archive of one file.
func tarArchive(name: String, content: String) -> ByteBuffer {
    func padded(_ text: String, _ length: Int) -> [UInt8] {
        Array(text.utf8) + Array(repeating: 0, count: length - text.utf8.count)
    }
    func octal(_ number: Int, _ length: Int) -> [UInt8] {
        let digits = String(number, radix: 8)
        return padded(String(repeating: "0", count: length - 1 - digits.utf8.count) + digits, length)
    }
    var header =
        padded(name, 100) + octal(0o644, 8) + octal(0, 8) + octal(0, 8) + octal(content.utf8.count, 12) + octal(0, 12)
    header += Array("        ".utf8) + Array("0".utf8) + padded("", 100) + padded("ustar", 6) + Array("00".utf8)
    header += Array(repeating: 0, count: 512 - header.count)
    header.replaceSubrange(148..<156, with: octal(header.reduce(0) { $0 + Int($1) }, 7) + [UInt8(ascii: " ")])
    let body = padded(content, (content.utf8.count + 511) / 512 * 512)
    return ByteBuffer(bytes: header + body + Array(repeating: 0, count: 1024))
}
