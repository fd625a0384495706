import FoundationEssentials

/// A file as the SDK's `FileInfo` shows it.
package struct FileDescription: Encodable, Sendable {
    package var name: String
    package var path: String
    package var size: Int
    /// As `ls -l` shows it, like `-rw-r--r--`.
    package var mode: String
    /// The permission bits in octal, like `0644`.
    package var permissions: String
    package var modTime: String
    package var modifiedAt: String
    package var isDir: Bool
    package var owner: String
    package var group: String

    package init(path: String, status: FileStatus, accounts: Accounts) {
        name = baseName(path)
        self.path = path
        size = status.size
        mode = describeMode(status)
        permissions = octal(status.permissions)
        let modified = Double(status.modifiedSeconds) + Double(status.modifiedNanoseconds) / 1e9
        modifiedAt = isoTimestamp(Date(timeIntervalSince1970: modified))
        modTime = modifiedAt
        isDir = status.kind == .directory
        owner = accounts.userName(status.user)
        group = accounts.groupName(status.group)
    }
}

private func octal(_ bits: UInt32) -> String {
    let digits = String(bits, radix: 8)
    return String(repeating: "0", count: max(0, 4 - digits.count)) + digits
}

private func describeMode(_ status: FileStatus) -> String {
    let kind =
        switch status.kind {
        case .regular: "-"
        case .directory: "d"
        case .link: "l"
        case .fifo: "p"
        case .socket: "s"
        case .device: "c"
        }
    let special: [(bit: UInt32, position: Int, with: Character, without: Character)] = [
        (0o4000, 2, "s", "S"), (0o2000, 5, "s", "S"), (0o1000, 8, "t", "T"),
    ]
    var letters = (0..<9).map { status.permissions & (0o400 >> UInt32($0)) != 0 ? Array("rwxrwxrwx")[$0] : "-" }
    for (bit, position, with, without) in special where status.permissions & bit != 0 {
        letters[position] = letters[position] == "x" ? with : without
    }
    return kind + String(letters)
}
