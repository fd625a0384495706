import Glibc
import NIOCore

/// Users and groups of the sandbox, read from /etc/passwd and /etc/group: a static program has no name service.
package struct Accounts: Sendable {
    private var users: [UInt32: String] = [:]
    private var userIDs: [String: UInt32] = [:]
    private var homes: [UInt32: String] = [:]
    private var groups: [UInt32: String] = [:]
    private var groupIDs: [String: UInt32] = [:]

    /// Most of a file of accounts that is read.
    private static let fileLimitBytes = 4 << 20

    /// Reads both files; a missing one is empty. Blocks.
    package static func load() -> Accounts {
        Accounts(passwd: readText("/etc/passwd"), group: readText("/etc/group"))
    }

    package init(passwd: String, group: String) {
        for fields in Self.lines(passwd) where fields.count >= 6 {
            guard let id = UInt32(fields[2]) else { continue }
            let name = String(fields[0])
            if users[id] == nil { (users[id], homes[id]) = (name, String(fields[5])) }
            if userIDs[name] == nil { userIDs[name] = id }
        }
        for fields in Self.lines(group) where fields.count >= 3 {
            guard let id = UInt32(fields[2]) else { continue }
            let name = String(fields[0])
            if groups[id] == nil { groups[id] = name }
            if groupIDs[name] == nil { groupIDs[name] = id }
        }
    }

    /// The name, or the number if it has none.
    package func userName(_ id: UInt32) -> String { users[id] ?? String(id) }
    /// The name, or the number if it has none.
    package func groupName(_ id: UInt32) -> String { groups[id] ?? String(id) }
    /// The number of a name, or the number that the text is.
    package func userID(_ name: String) -> UInt32? { userIDs[name] ?? UInt32(name) }
    /// The number of a name, or the number that the text is.
    package func groupID(_ name: String) -> UInt32? { groupIDs[name] ?? UInt32(name) }
    /// The home directory, if the user has an absolute one.
    package func home(of id: UInt32) -> String? { homes[id].flatMap { $0.hasPrefix("/") ? $0 : nil } }

    private static func lines(_ text: String) -> [[Substring]] {
        text.split(separator: "\n").map { $0.split(separator: ":", omittingEmptySubsequences: false) }
    }

    private static func readText(_ path: String) -> String {
        guard let file = try? OpenFile.open(path, O_RDONLY, to: "read"),
            let bytes = try? file.read(fileLimitBytes, at: 0)
        else { return "" }
        return String(buffer: bytes)
    }
}
