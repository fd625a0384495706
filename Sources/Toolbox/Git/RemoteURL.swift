/// Where a repository is: `https`, `http`, `ssh`, `git` and `file` URLs, `user@host:path`, and absolute paths. Never one of
/// git's remote helpers (`ext::command` would run it), and nothing that ssh could take for an option.
package struct RemoteURL: GitOperand, Equatable {
    /// The URL, without a password.
    package let operand: String
    /// Scheme, host and port of an `http` or `https` URL: what credentials are meant for.
    package let origin: String?
    /// What the URL was given with.
    package let credentials: GitCredentials?

    private static let schemes = ["https", "http", "ssh", "git", "file"]

    /// - Throws: 400 that says what is wrong, never with a password in it.
    package init(_ given: String) throws {
        guard (1...GitLimit.urlBytes).contains(given.utf8.count), !holdsControls(given) else {
            throw Self.refusal("is empty, longer than \(GitLimit.urlBytes) bytes or holds control characters")
        }
        guard !namesHelper(given) else {
            throw Self.refusal(
                "names a remote helper of git's ('\(given.prefix { $0 != ":" })::'), which is not allowed"
            )
        }
        if let parts = URLParts(given) {
            try self.init(parts)
        } else if given.hasPrefix("/") || isShortForm(given) {
            self.init(operand: given, origin: nil, credentials: nil)
        } else {
            throw Self.refusal(
                "is neither a URL like https://host/repository.git, nor user@host:path, nor an absolute path"
            )
        }
    }

    private init(operand: String, origin: String?, credentials: GitCredentials?) {
        self.operand = operand
        self.origin = origin
        self.credentials = credentials
    }

    private init(_ parts: URLParts) throws {
        guard Self.schemes.contains(parts.scheme) else {
            throw Self.refusal(
                "begins with '\(parts.scheme.prefix(40))://'; possible are \(Self.schemes.joined(separator: ", "))"
            )
        }
        guard parts.scheme == "file" ? parts.isWithoutHost : parts.hasGoodHost else {
            throw Self.refusal("has no host, or one with characters that no host has")
        }
        let isHTTP = parts.scheme == "http" || parts.scheme == "https"
        let origin = isHTTP ? "\(parts.scheme)://\(parts.host.lowercased())" : nil
        guard let password = parts.password else {
            self.init(operand: parts.text, origin: origin, credentials: nil)
            return
        }
        guard isHTTP else { throw Self.refusal("holds a password, which only http and https use") }
        self.init(
            operand: "\(parts.scheme)://\(parts.host)\(parts.rest)",
            origin: origin,
            credentials: try GitCredentials(
                username: decodePercent(parts.user ?? "", plusIsSpace: false),
                password: decodePercent(password, plusIsSpace: false)
            )
        )
    }

    private static func refusal(_ reason: String) -> ToolboxError {
        .badRequest("field 'url' \(reason)")
    }
}

/// A URL taken apart.
private struct URLParts {
    var text: String
    var scheme: String
    var user: Substring?
    var password: Substring?
    /// With the port.
    var host: String
    /// Path and query.
    var rest: Substring

    init?(_ text: String) {
        guard let colon = text.firstIndex(of: ":"), text[colon...].hasPrefix("://") else { return nil }
        scheme = text[..<colon].lowercased()
        let remainder = text[text.index(colon, offsetBy: 3)...]
        // To git, other letters are another scheme.
        self.text = "\(scheme)://\(remainder)"
        let end = remainder.firstIndex { "/?#".contains($0) } ?? remainder.endIndex
        rest = remainder[end...]
        let authority = remainder[..<end]
        guard let at = authority.lastIndex(of: "@") else {
            host = String(authority)
            return
        }
        host = String(authority[authority.index(after: at)...])
        let pair = authority[..<at].split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        user = pair[0]
        password = pair.count == 2 ? pair[1] : nil
    }

    var isWithoutHost: Bool { host.isEmpty && user == nil && rest.hasPrefix("/") }

    var hasGoodHost: Bool { isHost(host) && user?.utf8.first != UInt8(ascii: "-") }
}

/// `scheme::address`, as git itself recognises it.
private func namesHelper(_ text: String) -> Bool {
    let scheme = text.utf8.prefix { isLetter($0) || isDigit($0) || "+.-".utf8.contains($0) }
    return text.utf8.dropFirst(scheme.count).starts(with: "::".utf8)
}

/// `user@host:path`, which is ssh.
private func isShortForm(_ text: String) -> Bool {
    guard text.utf8.first != UInt8(ascii: "-") else { return false }
    let afterUser = text.firstIndex(of: "@").map { text[text.index(after: $0)...] } ?? text[...]
    // The colons of an IPv6 address are in brackets.
    let bracket =
        afterUser.hasPrefix("[") ? afterUser.firstIndex(of: "]") ?? afterUser.startIndex : afterUser.startIndex
    guard let colon = afterUser[bracket...].firstIndex(of: ":") else { return false }
    let path = afterUser[afterUser.index(after: colon)...]
    return isHost(String(afterUser[..<colon])) && !path.isEmpty && path.utf8.first != UInt8(ascii: "-")
}

func isHost(_ text: String) -> Bool {
    guard let first = text.utf8.first, first != UInt8(ascii: "-"), first != UInt8(ascii: ":") else { return false }
    return text.utf8.allSatisfy { isLetter($0) || isDigit($0) || ".-_:[]%".utf8.contains($0) }
}
