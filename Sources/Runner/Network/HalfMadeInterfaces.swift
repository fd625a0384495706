import Docker
import FoundationEssentials
import Subprocess

/// Host ends of interfaces whose other end is on the host too: an engine that is killed between making a pair and moving it into
/// a container forgets both. The engine's own way through that state takes a moment, or as long as a start may take.
struct HalfMadeInterfaces {
    static let patience: Duration = .seconds(150)
    private static let commandLimit: Duration = .seconds(10)
    /// A thousand interfaces are listed in half a megabyte.
    private static let outputBytesLimit = 8 << 20

    private let bridge: String
    private var seen: [String: Duration] = [:]

    init(bridge: String) { self.bridge = bridge }

    var isEmpty: Bool { seen.isEmpty }

    /// Looks at the bridge once, and removes what has been seen half made for `patience`. Returns what was removed.
    mutating func collect(now: Duration) async throws -> [String] {
        let found = Self.halfMade(
            try await Self.ip(["-json", "link", "show", "master", bridge, "type", "veth"])
        )
        seen = Dictionary(uniqueKeysWithValues: found.map { ($0, seen[$0] ?? now) })
        let due = seen.filter { now - $0.value >= Self.patience }.keys.sorted()
        var removed: [String] = []
        for name in due where (try? await Self.ip(["link", "delete", "dev", name])) != nil {
            seen[name] = nil
            removed.append(name)
        }
        return removed
    }

    private struct Link: Decodable {
        var ifname: String
        /// The other end's name; where that is in another namespace, there are numbers instead.
        var link: String?
    }

    /// Names in what `ip -json link show` prints, which is nothing at all where there are none.
    static func halfMade(_ text: String) -> Set<String> {
        let links = (try? JSONDecoder().decode([Link].self, from: Data(text.utf8))) ?? []
        return Set(links.filter { $0.link != nil }.map(\.ifname))
    }

    private static func ip(_ arguments: [String]) async throws -> String {
        let late = RunnerError(.changedMeanwhile, "'ip' did not end within \(commandLimit); it was killed")
        return try await withDeadline(commandLimit, orThrow: late) { try await execute(arguments) }
    }

    private static func execute(_ arguments: [String]) async throws -> String {
        let result = try await Subprocess.run(
            .name("ip"),
            arguments: Arguments(arguments),
            output: .string(limit: outputBytesLimit),
            error: .string(limit: 4 << 10)
        )
        guard result.terminationStatus.isSuccess else {
            throw RunnerError(
                .changedMeanwhile,
                "'ip \(arguments.joined(separator: " "))' failed: \(result.standardError.prefix(200))"
            )
        }
        return result.standardOutput
    }
}
