import Domain
import Testing

@Suite struct ImageNameTests {
    static let digest = "sha256:" + String(repeating: "0a", count: 32)

    @Test(
        arguments: [
            ("busybox", "docker.io", "library/busybox", nil, nil),
            ("busybox:1.36", "docker.io", "library/busybox", "1.36", nil),
            ("org/app:v1", "docker.io", "org/app", "v1", nil),
            ("index.docker.io/busybox:1", "docker.io", "library/busybox", "1", nil),
            ("ghcr.io/a/b/c:x", "ghcr.io", "a/b/c", "x", nil),
            ("localhost/a:1", "localhost", "a", "1", nil),
            ("r:5000/a", "r:5000", "a", nil, nil),
            ("127.0.0.1:5000/a_b/c__d.e-f--g:1", "127.0.0.1:5000", "a_b/c__d.e-f--g", "1", nil),
            ("[::1]:5000/a:1", "[::1]:5000", "a", "1", nil),
            ("Registry.Example/a:1", "registry.example", "a", "1", nil),
            ("a@\(digest)", "docker.io", "library/a", nil, digest),
            ("r.io/a:1@\(digest)", "r.io", "a", "1", digest),
        ] as [(String, String, String, String?, String?)]
    )
    func readsWhatDockerAccepts(text: String, host: String, repository: String, tag: String?, digest: String?) throws {
        let name = try ImageName(parsing: text)
        #expect(name.host == host)
        #expect(name.repository == repository)
        #expect(name.tag == tag)
        #expect(name.digest == digest)
        #expect(name.description == text)
    }

    @Test(arguments: [
        "", "/", "a/", "/a", "a//b", "A", "a b", "a:", ":1", "a:-x", "a:\(String(repeating: "t", count: 129))", "a@",
        "a@sha256:00",
        "a@md5:\(String(repeating: "0", count: 64))", "-a", "a-", "a._b", "a___b", "r.io:99999/a", "r.io:0/a",
        "r.io:x/a", "-r.io/a", "../a",
        "http://r.io/a", "a?b", "a\nb", "ä", "a/../b", String(repeating: "a", count: 256), "r.io/", "@\(digest)",
    ])
    func refusesWhatItDoesNot(text: String) {
        #expect(throws: ImageName.Malformed.self) { try ImageName(parsing: text) }
    }

    @Test(arguments: [
        "localhost", "localhost:5000", "127.0.0.1", "127.0.0.1:5000", "10.1.2.3", "172.16.0.1:443", "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "2130706433", "127.1", "0x7f.0.0.1", "010.0.0.1",
        "[::1]:5000", "[fe80::1]",
        "[fd00::1]", "[::ffff:127.0.0.1]", "metadata.google.internal", "registry.martlet.internal", "nas.local",
        "registry", "registry:5000", "docker:2375", "127.0x1", "1.2.3.0x7f", "10.1", "0x7f000001", "1.2.3.4.5",
        "[2002:7f00:1::]", "[2002:a00:1::1]", "[2001::1]", "[2001:0:4136:e378::1]", "[2001:00:1::1]", "[2001:10::1]",
    ])
    func knowsPrivateHosts(text: String) throws {
        #expect(try #require(RegistryHost(text)).isPrivate)
    }

    @Test(arguments: [
        "docker.io", "ghcr.io", "8.8.8.8:5000", "172.32.0.1", "100.128.0.1", "[2606:4700::1]", "internal.example.com",
        "1.2.3.4.example", "registry.example", "0x7f.example", "[2001:4860:4860::8888]", "[2a00::1]",
    ])
    func knowsPublicHosts(text: String) throws {
        #expect(try !#require(RegistryHost(text)).isPrivate)
    }

    @Test func namesOfTheInternalRegistryHaveNoAddress() throws {
        let image = InternalImage(repository: "snapshots/x", digest: Self.digest)
        #expect(InternalImage(image.description) == image)
        #expect(image.reference(at: "127.0.0.1:5000") == "127.0.0.1:5000/snapshots/x@\(Self.digest)")
        for other in [
            "martlet/busybox:test", "registry.martlet.internal/x:1", "registry.martlet.internal.evil/x@\(Self.digest)",
        ] {
            #expect(InternalImage(other) == nil, "\(other)")
        }
    }
}
