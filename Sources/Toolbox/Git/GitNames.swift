/// A value of git's command line that was checked when it was made. It is written behind `--`, or joined to an option by `=`.
package protocol GitOperand: Sendable {
    var operand: String { get }
}

/// A value that, besides, never begins with a hyphen, so that it may stand where options do: git knows no `--` before revisions.
package protocol GitPlainOperand: GitOperand {}

/// The name of a branch, without `refs/heads/`.
package struct BranchName: GitPlainOperand, Equatable {
    package let operand: String

    /// - Throws: 400 naming the field, unless git would let a branch be called so.
    package init(_ name: String, field: String) throws {
        guard isRefName(name), name != "HEAD" else {
            throw ToolboxError.badRequest(
                "field '\(field)' is '\(name)', not a branch name: it must not be empty, HEAD or longer than \(GitLimit.refNameBytes) bytes, begin with '-', hold spaces, '..', '@{' or any of ~^:?*[\\, nor have parts that begin with '.' or end with '.lock'"
            )
        }
        operand = name
    }

    /// The whole name of the reference.
    package var reference: String { "refs/heads/\(operand)" }
}

/// The name of a remote. What it allows is no URL, so nobody reaches a transport of git's by it.
package struct RemoteName: GitPlainOperand, Equatable {
    package static let origin = RemoteName(unchecked: "origin")

    package let operand: String

    private init(unchecked name: String) { operand = name }

    /// - Throws: 400 naming the field, unless git would let a remote be called so.
    package init(_ name: String, field: String) throws {
        guard isRefName(name) else {
            throw ToolboxError.badRequest("field '\(field)' is '\(name)', not the name of a remote like 'origin'")
        }
        operand = name
    }
}

/// Anything that names a commit: a branch, a tag, `HEAD~2`, a hash.
package struct GitRevision: GitPlainOperand, Equatable {
    package static let head = GitRevision(unchecked: "HEAD")

    package let operand: String

    private init(unchecked text: String) { operand = text }

    /// - Throws: 400 naming the field if it is empty, too long, could be taken for an option or holds control characters.
    package init(_ text: String, field: String) throws {
        let length = text.utf8.count
        guard (1...GitLimit.revisionBytes).contains(length), text.utf8.first != UInt8(ascii: "-") else {
            throw ToolboxError.badRequest(
                "field '\(field)' is '\(text.prefix(100))', not a revision: it must have 1 to \(GitLimit.revisionBytes) bytes and not begin with '-'"
            )
        }
        guard !holdsControls(text) else {
            throw ToolboxError.badRequest("field '\(field)' holds control characters, which no revision does")
        }
        operand = text
    }
}

/// A commit's hash, whole or abbreviated.
package struct CommitHash: GitPlainOperand, Equatable {
    package let operand: String

    /// - Throws: 400 naming the field unless it is 4 to 64 hexadecimal digits.
    package init(_ text: String, field: String) throws {
        guard (4...64).contains(text.utf8.count), text.utf8.allSatisfy(isHexDigit) else {
            throw ToolboxError.badRequest("field '\(field)' is '\(text.prefix(100))', not 4 to 64 hexadecimal digits")
        }
        operand = text
    }

    /// Only a whole hash can be asked of a remote.
    var isWhole: Bool { operand.utf8.count == 40 || operand.utf8.count == 64 }
}

/// The key of a setting, like `user.name` or `branch.main.remote`.
package struct ConfigKey: GitPlainOperand, Equatable {
    package let operand: String

    /// - Throws: 400 unless it is a section, perhaps a subsection, and a name.
    package init(_ text: String) throws {
        guard text.utf8.count <= GitLimit.configKeyBytes, isConfigKey(text) else {
            throw ToolboxError.badRequest(
                "field 'key' is '\(text.prefix(100))', not a key like 'user.name' or 'branch.main.remote' of at most \(GitLimit.configKeyBytes) bytes"
            )
        }
        operand = text
    }
}

/// The value of a setting.
package struct ConfigValue: GitOperand, Equatable {
    package let operand: String

    /// - Throws: 400 if it holds a NUL or is too long for a command line.
    package init(_ text: String, field: String = "value") throws {
        guard text.utf8.count <= GitLimit.configValueBytes, !text.utf8.contains(0) else {
            throw ToolboxError.badRequest(
                "field '\(field)' holds a NUL or is longer than \(GitLimit.configValueBytes) bytes, the limit"
            )
        }
        operand = text
    }
}

/// An absolute path.
package struct GitPath: GitOperand, Equatable {
    package let operand: String
}

/// Which references to list. The name of a branch holds none of the characters of patterns.
package enum ReferencePattern: GitOperand, Equatable {
    case branches
    case branch(BranchName)
    case onAnyRemote(BranchName)

    package var operand: String {
        switch self {
        case .branches: "refs/heads"
        case .branch(let name): name.reference
        case .onAnyRemote(let name): "refs/remotes/*/\(name.operand)"
        }
    }
}

/// Who commits.
package struct GitIdentity: Sendable, Equatable {
    package let name: String
    package let email: String

    /// - Parameter nameField: what the request calls the name.
    /// - Throws: 400 naming the field that git would not store as it is.
    package init(name: String, email: String, nameField: String) throws {
        self.name = try Self.checked(name, nameField)
        self.email = try Self.checked(email, "email")
    }

    private static func checked(_ text: String, _ field: String) throws -> String {
        guard text.utf8.count <= GitLimit.identityBytes else {
            throw ToolboxError.badRequest("field '\(field)' is longer than \(GitLimit.identityBytes) bytes, the limit")
        }
        // Git drops these at the ends, and refuses to work with what is then empty.
        guard text.utf8.contains(where: { $0 > 32 && !".,:;<>\"\\'".utf8.contains($0) }) else {
            throw ToolboxError.badRequest("field '\(field)' is '\(text)', which holds no letter or digit")
        }
        guard !holdsControls(text), !text.utf8.contains(where: { "<>".utf8.contains($0) }) else {
            throw ToolboxError.badRequest(
                "field '\(field)' holds '<', '>' or control characters, which git does not store"
            )
        }
        return text
    }
}

/// Whether the text holds a byte below the space, or DEL.
func holdsControls(_ text: String) -> Bool {
    text.utf8.contains { $0 < 32 || $0 == 127 }
}

/// The rules of git-check-ref-format(1), and no leading hyphen. By bytes: to Swift, `\r\n` or a letter with an accent are one
/// character, to git they are not.
private func isRefName(_ name: String) -> Bool {
    let bytes = Array(name.utf8)
    guard let first = bytes.first, let last = bytes.last, bytes.count <= GitLimit.refNameBytes else { return false }
    guard first != UInt8(ascii: "-"), last != UInt8(ascii: "."), bytes != [UInt8(ascii: "@")] else { return false }
    guard !holdsControls(name), !bytes.contains(where: { " ~^:?*[\\".utf8.contains($0) }) else { return false }
    let pairs = zip(bytes, bytes.dropFirst())
    guard !pairs.contains(where: { ($0, $1) == (UInt8(ascii: "."), UInt8(ascii: ".")) }),
        !pairs.contains(where: { ($0, $1) == (UInt8(ascii: "@"), UInt8(ascii: "{")) })
    else { return false }
    let parts = bytes.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
    return parts.allSatisfy { part in
        !part.isEmpty && part.first != UInt8(ascii: ".") && !part.suffix(5).elementsEqual(".lock".utf8)
    }
}

private func isConfigKey(_ key: String) -> Bool {
    let bytes = Array(key.utf8)
    guard let first = bytes.firstIndex(of: UInt8(ascii: ".")), let last = bytes.lastIndex(of: UInt8(ascii: ".")) else {
        return false
    }
    let (section, name) = (bytes[..<first], bytes[(last + 1)...])
    func isPlain(_ byte: UInt8) -> Bool { isLetter(byte) || isDigit(byte) || byte == UInt8(ascii: "-") }
    guard section.first != UInt8(ascii: "-"), !section.isEmpty, section.allSatisfy(isPlain) else { return false }
    return name.first.map(isLetter) == true && name.allSatisfy(isPlain) && !holdsControls(key)
}

func isLetter(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
}

func isDigit(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
}

private func isHexDigit(_ byte: UInt8) -> Bool {
    isDigit(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte | 0x20)
}
