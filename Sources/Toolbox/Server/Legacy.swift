import CLinux
import Glibc

/// What outlives a daemon that was killed: memory that its supervisor keeps for the one that follows (see `martlet_supervise`).
/// Without a supervisor, as in tests, nothing is kept and nothing found.
enum Legacy {
    enum Item {
        /// What callers show to be let in.
        case token
        /// The variables of programs: `NAME=value`, each with a NUL at its end.
        case environment
        /// The sandbox's disk quota in bytes, as decimal digits.
        case diskLimit
        /// The exit code of the image's own program once that has ended, as decimal digits.
        case entrypointEnd
        /// Whether terminals are recorded: 1 or 0.
        case recording

        fileprivate var number: martlet_legacy_item {
            switch self {
            case .token: MARTLET_LEGACY_TOKEN
            case .environment: MARTLET_LEGACY_ENVIRONMENT
            case .diskLimit: MARTLET_LEGACY_DISK_LIMIT
            case .entrypointEnd: MARTLET_LEGACY_ENTRYPOINT_END
            case .recording: MARTLET_LEGACY_RECORDING
            }
        }
    }

    /// How many daemons of this run of the sandbox were before this one.
    static var restarts: Int { Int(martlet_legacy_restarts()) }

    /// What to say of what is not there, if it may have ended with a daemon before this one; else empty.
    static var explanation: String {
        switch restarts {
        case 0: ""
        case 1: "; the sandbox's daemon was restarted, which ended whatever had been started before"
        case let count:
            "; the sandbox's daemon was restarted \(count) times, which ended whatever had been started before"
        }
    }

    /// Leaves a text in place of what was left before. Not for two callers at once with the same item.
    static func keep(_ bytes: [UInt8], as item: Item) {
        // It fails where nothing can be kept, and for an environment that no program could be started with.
        _ = bytes.withUnsafeBytes { martlet_legacy_keep(item.number, $0.baseAddress, $0.count) }
    }

    /// What was left last.
    static func find(_ item: Item) -> [UInt8]? {
        var length = 0
        guard let bytes = martlet_legacy_find(item.number, &length) else { return nil }
        return Array(UnsafeRawBufferPointer(start: bytes, count: length))
    }

    static func keep(_ number: Int, as item: Item) { keep(Array(String(number).utf8), as: item) }

    static func findNumber(_ item: Item) -> Int? {
        find(item).flatMap { Int(String(decoding: $0, as: UTF8.self)) }
    }

    static func keep(environment variables: [String: String]) {
        var bytes: [UInt8] = []
        for (name, value) in variables { bytes += Array("\(name)=\(value)".utf8) + [0] }
        keep(bytes, as: .environment)
    }

    static var environment: [String: String]? {
        find(.environment).map { bytes in
            let pairs = bytes.split(separator: 0).map { entry -> (String, String) in
                let parts = entry.split(separator: UInt8(ascii: "="), maxSplits: 1, omittingEmptySubsequences: false)
                return (String(decoding: parts[0], as: UTF8.self), String(decoding: parts.last ?? [], as: UTF8.self))
            }
            return Dictionary(pairs) { $1 }
        }
    }
}
