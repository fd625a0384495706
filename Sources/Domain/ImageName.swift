/// The name of an image as Docker accepts it: `[host[:port]/]path[:tag][@sha256:digest]`.
package struct ImageName: Sendable, Hashable, CustomStringConvertible {
    /// What is wrong with a text that is none, in words that follow the name of its field.
    package struct Malformed: Error, Hashable, CustomStringConvertible { package let description: String }

    /// Host and path: the grammar's own limit.
    package static let nameLimit = 255
    /// Where names without a host are.
    package static let dockerHub = "docker.io"

    /// In lower case; Docker Hub for a name that has none.
    package let host: String
    /// Without the host, and with the `library/` that Docker Hub's own images have there.
    package let repository: String
    package let tag: String?
    /// `sha256:` and 64 digits.
    package let digest: String?
    /// As it was written.
    package let description: String

    /// Throws ``Malformed``.
    package init(parsing text: String) throws {
        var rest = Substring(text)
        var digest: String?
        if let at = rest.firstIndex(of: "@") {
            digest = String(rest[rest.index(after: at)...])
            rest = rest[..<at]
            guard digest?.wholeMatch(of: /sha256:[0-9a-f]{64}/) != nil else {
                throw Malformed(description: "has a digest that is not sha256: and 64 lower-case hexadecimal digits")
            }
        }
        var tag: String?
        // A colon before the last slash belongs to a port.
        if let colon = rest.lastIndex(of: ":"), !rest[colon...].contains("/") {
            tag = String(rest[rest.index(after: colon)...])
            rest = rest[..<colon]
            guard tag?.wholeMatch(of: /[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}/) != nil else {
                throw Malformed(
                    description:
                        "has a tag that is not 1 to 128 letters, digits, '_', '.' and '-', a letter, digit or '_' first"
                )
            }
        }
        guard rest.utf8.count <= Self.nameLimit else {
            throw Malformed(
                description: "is \(rest.utf8.count) bytes long without its tag; the limit is \(Self.nameLimit)"
            )
        }
        (host, repository) = try Self.split(rest)
        self.tag = tag
        self.digest = digest
        description = text
    }

    /// The first part is a host if it could be no part of a path: it has a dot or a port, or is `localhost`.
    private static func split(_ name: Substring) throws -> (host: String, repository: String) {
        let parts = name.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, parts[0].contains(where: { $0 == "." || $0 == ":" }) || parts[0] == "localhost" else {
            let path = try repository(name)
            return (dockerHub, path.contains("/") ? path : "library/\(path)")
        }
        guard let host = RegistryHost(parts[0]) else {
            throw Malformed(
                description:
                    "has the host '\(parts[0].prefix(80))', which is no host name or address with an optional port"
            )
        }
        let path = try repository(parts[1])
        return (host.text, host.text == dockerHub && !path.contains("/") ? "library/\(path)" : path)
    }

    private static func repository(_ path: Substring) throws -> String {
        let component = /[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*/
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.allSatisfy({ $0.wholeMatch(of: component) != nil }) else {
            throw Malformed(
                description:
                    "is no image name: between slashes stand lower-case letters and digits, with single '.', '_', '__' or '-' within"
            )
        }
        return String(path)
    }
}

/// Where a registry is, as image names begin with it: `host[:port]`, in lower case; `docker.io` for Docker Hub.
package struct RegistryHost: Sendable, Hashable {
    /// A DNS name's limit, and a port.
    package static let limit = 253 + 6

    package let text: String

    package init?(_ text: some StringProtocol) {
        let name = text.lowercased()
        let pattern =
            /(?<host>[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])(:(?<port>[0-9]{1,5}))?/
        guard name.utf8.count <= Self.limit, let match = name.wholeMatch(of: pattern) else { return nil }
        if let port = match.port { guard let number = Int(port), (1...65535).contains(number) else { return nil } }
        self.text = Self.dockerHubNames.contains(name) ? ImageName.dockerHub : name
    }

    private static let dockerHubNames: Set = [
        "docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com",
    ]

    /// The host without its port, and without an IPv6 address' brackets.
    package var address: String {
        if text.hasPrefix("[") { return String(text.dropFirst().prefix { $0 != "]" }) }
        return String(text.prefix { $0 != ":" })
    }

    /// Whether the text itself says that it is this machine or a private network: what a user must not make the host's engine
    /// ask for. A name that resolves to such an address is not seen here.
    package var isPrivate: Bool {
        let name = address
        if name == "localhost" || name.hasSuffix(".localhost") || name.hasSuffix(".internal")
            || name.hasSuffix(".local")
        {
            return true
        }
        if name.contains(":") { return Self.isPrivateIPv6(name) }
        // One label is completed by the resolver's own domain, or is a name of this network's.
        guard let last = name.split(separator: ".").last, name.contains(".") else { return true }
        // Resolvers read a name whose last label is a number as an address.
        guard last.wholeMatch(of: /[0-9]+|0x[0-9a-f]*/) != nil else { return false }
        let octets = name.split(separator: ".", omittingEmptySubsequences: false).compactMap { UInt8($0) }
        // Other ways to write an address (2130706433, 127.1, 0x7f.1) are taken for the worst.
        guard octets.count == 4, octets.map(String.init).joined(separator: ".") == name else { return true }
        switch (octets[0], octets[1]) {
        case (0, _), (10, _), (127, _), (169, 254), (192, 168), (224..., _): return true
        case (100, 64...127), (172, 16...31), (198, 18...19): return true
        default: return false
        }
    }

    /// Only 2000::/3 is public, and of that not what carries an IPv4 address within (6to4, Teredo) or has a special purpose.
    private static func isPrivateIPv6(_ address: String) -> Bool {
        guard !address.contains("."),
            let groups = address.prefixMatch(of: /(?<first>[23][0-9a-f]{3}):(?<second>[0-9a-f]{0,4})/)
        else { return true }
        let second = UInt16(groups.second, radix: 16) ?? 0
        return groups.first == "2002" || groups.first == "2001" && second < 0x200
    }
}

/// An image in Martlet's own registry, as rows name it: under a host that each runner replaces by the address it knows.
package struct InternalImage: Sendable, Hashable, CustomStringConvertible {
    /// The database has the same (`internal_registry()`); a test compares them.
    package static let host = "registry.martlet.internal"

    package let repository: String
    package let digest: String

    package init(repository: String, digest: String) {
        self.repository = repository
        self.digest = digest
    }

    /// Nil for an image that is elsewhere.
    package init?(_ text: String) {
        guard text.hasPrefix("\(Self.host)/"), let name = try? ImageName(parsing: text), let digest = name.digest,
            name.tag == nil
        else { return nil }
        self.init(repository: name.repository, digest: digest)
    }

    /// Where a pulled snapshot's image is.
    package static func repository(of snapshot: SnapshotID) -> String { "snapshots/\(snapshot)" }

    package var description: String { "\(Self.host)/\(repository)@\(digest)" }

    /// As the engine of a runner knows it that reaches the registry at `host`.
    package func reference(at host: String) -> String { "\(host)/\(repository)@\(digest)" }
}
