import Glibc
import Synchronization

/// Limits of the environment that programs are started with. The kernel starts nothing beyond them, so that a larger one would
/// make every command of the sandbox fail.
package enum EnvironmentLimit {
    /// One variable with its name, `=` and a NUL at the end; the kernel takes 128 KiB.
    package static let variableBytes = (128 << 10) - 1
    /// All together; the kernel takes a quarter of the stack's limit, 2 MiB as a rule, the arguments included.
    package static let totalBytes = 1 << 20
}

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
        guard !own.isEmpty else { return current }
        try Self.validate(own)
        let all = current.merging(own) { $1 }
        try Self.checkSize(all)
        return all
    }

    /// Removes by value prefix (which names the placeholders of secrets; an empty one is none), then by name, then sets.
    /// Who starts a program meanwhile gets all of it or nothing.
    /// - Throws: 400 naming the variable that is not acceptable; then nothing changes.
    package func update(set: [String: String], unset: [String], unsetValuePrefix: String?) throws {
        try Self.validate(set)
        try variables.withLock { variables in
            var new = variables
            if let prefix = unsetValuePrefix, !prefix.isEmpty {
                new = new.filter { !$0.value.utf8.starts(with: prefix.utf8) }
            }
            for name in unset { new[name] = nil }
            new.merge(set) { $1 }
            if !set.isEmpty { try Self.checkSize(new) }
            Legacy.keep(environment: new)
            variables = new
        }
    }

    /// - Throws: 400 naming the variable that is not acceptable.
    static func validate(_ variables: [String: String]) throws {
        for (name, value) in variables {
            guard isName(name) else {
                throw ToolboxError.badRequest(
                    "environment variable name '\(name)' is not letters, digits and underscores beginning with no digit"
                )
            }
            guard !value.utf8.contains(0) else {
                throw ToolboxError.badRequest("the value of environment variable '\(name)' holds a NUL")
            }
            let bytes = size(of: name, value)
            guard bytes <= EnvironmentLimit.variableBytes else {
                throw ToolboxError.badRequest(
                    "environment variable '\(name.prefix(80))' has \(bytes) bytes, the limit is "
                        + "\(EnvironmentLimit.variableBytes); hand large data over in a file"
                )
            }
        }
    }

    private static func checkSize(_ variables: [String: String]) throws {
        let bytes = variables.reduce(0) { $0 + size(of: $1.key, $1.value) }
        guard bytes <= EnvironmentLimit.totalBytes else {
            throw ToolboxError.badRequest(
                "the environment would have \(bytes) bytes, the limit is \(EnvironmentLimit.totalBytes); unset what is not "
                    + "needed, or hand large data over in a file"
            )
        }
    }

    private static func size(of name: String, _ value: String) -> Int { name.utf8.count + value.utf8.count + 2 }

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
