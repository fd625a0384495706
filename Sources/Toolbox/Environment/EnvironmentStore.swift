import Glibc
import Synchronization

/// The variables that programs started from now on get. Never the daemon's own `MARTLET_` ones.
package final class EnvironmentStore: Sendable {
    private let variables: Mutex<[String: String]>

    package init(_ initial: [String: String]) {
        variables = Mutex(initial.filter { !$0.key.hasPrefix("MARTLET_") })
    }

    /// The variables now.
    package var current: [String: String] { variables.withLock { $0 } }

    /// The variables with a call's own on top.
    /// - Throws: 400 naming the variable that is not acceptable.
    package func merged(with own: [String: String]) throws -> [String: String] {
        try Self.validate(own)
        return current.merging(own) { $1 }
    }

    /// Removes by value prefix (except names that are set), then by name, then sets.
    /// - Throws: 400 naming the variable that is not acceptable; then nothing changes.
    package func update(set: [String: String], unset: [String], unsetValuePrefix: String?) throws {
        try Self.validate(set)
        variables.withLock { variables in
            if let prefix = unsetValuePrefix, !prefix.isEmpty {
                variables = variables.filter { !$0.value.hasPrefix(prefix) || set[$0.key] != nil }
            }
            for name in unset { variables[name] = nil }
            variables.merge(set) { $1 }
        }
    }

    private static func validate(_ variables: [String: String]) throws {
        for (name, value) in variables {
            guard isName(name) else {
                throw ToolboxError.badRequest(
                    "environment variable name '\(name)' is not letters, digits and underscores beginning with no digit"
                )
            }
            guard !value.utf8.contains(0) else {
                throw ToolboxError.badRequest("the value of environment variable '\(name)' holds a NUL")
            }
        }
    }

    static func isName(_ name: String) -> Bool {
        guard let first = name.utf8.first, !(UInt8(ascii: "0")...UInt8(ascii: "9")).contains(first) else {
            return false
        }
        return name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
                true
            default: false
            }
        }
    }

    /// The environment of this process.
    package static func ofThisProcess() -> [String: String] {
        var variables: [String: String] = [:]
        var entry = environ
        while let text = entry.pointee {
            let pair = String(cString: text).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if pair.count == 2 { variables[String(pair[0])] = String(pair[1]) }
            entry += 1
        }
        return variables
    }
}
