import FoundationEssentials
import Glibc
import Testing

@testable import Toolbox

extension DaemonSuites {
    /// Programs in a control group of the kernel's, as those of a sandbox are.
    @Suite("Limits", .serialized, .timeLimit(.minutes(5)))
    struct LimitTests {
        @Test("A program that the kernel ends for its memory is answered with the reason")
        func memory() async throws {
            try await ControlGroup.with { group in
                try await TestDaemon.run(controlGroup: group.root) { daemon async throws in
                    // The second limit is for the machine, should the first not hold.
                    let bomb = "\(group.enter); ulimit -v 500000; awk 'BEGIN { while (1) a[n++] = n }'"
                    let killed = try await daemon.execute(bomb).body
                    #expect(killed.exitCode == 137)
                    #expect(killed.result.contains("[martlet: out of memory: ") && killed.result.contains(" 32 MiB"))
                    #expect(
                        try await daemon.execute("\(group.enter); exit 3").body.result == "",
                        "it is news only once"
                    )
                    let survived = try await daemon.execute("\(bomb); echo on").body
                    #expect(survived.exitCode == 0 && survived.result.hasSuffix("on\n"), "success is left alone")
                }
            }
        }

        @Test("A program that may not fork any more is answered with the reason")
        func processes() async throws {
            try await ControlGroup.with { group in
                try await TestDaemon.run(controlGroup: group.root) { daemon async throws in
                    let bomb = "\(group.enter); bomb() { bomb | bomb & }; bomb; sleep 30"
                    let (status, body) = try await daemon.execute(bomb, timeout: 2)
                    #expect(status == 408)
                    for text in [body.result, body.message ?? ""] {
                        #expect(text.contains("too many processes: ") && text.contains("limit is 20 at"), "\(text)")
                    }
                }
            }
        }

        @Test("Programs are killed before the daemon, however small each is")
        func order() async throws {
            func score(of process: String) throws -> String {
                String(decoding: try Data(contentsOf: URL(filePath: "/proc/\(process)/oom_score_adj")), as: UTF8.self)
            }
            let before = try score(of: "self")
            try await TestDaemon.run { daemon async throws in
                #expect(try await daemon.execute("cat /proc/self/oom_score_adj").body.result == "1000\n")
            }
            #expect(try score(of: "self") == before && before != "1000\n")
        }

        @Test("Version 2 of the files says the same")
        func unified() throws {
            let root = try makeTemporaryDirectory()
            defer { try? FileManager.default.removeItem(atPath: root) }
            func write(_ text: String, to name: String) throws {
                try Data(text.utf8).write(to: URL(filePath: "\(root)/\(name)"))
            }
            try write("memory pids\n", to: "cgroup.controllers")
            let files = ControlGroupFiles(root: root)
            let before = files.limitsReached()
            #expect(before == LimitsReached())
            try write("low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n", to: "memory.events")
            try write("max 7\n", to: "pids.events")
            try write("64\n", to: "pids.max")
            try write("67108864\n", to: "memory.max")
            let reasons = try #require(files.reasons(since: before))
            #expect(reasons.contains("killed 2 of") && reasons.contains("64 MiB"))
            #expect(reasons.contains(" 7 processes or threads") && reasons.contains("limit is 64 at a time"))
            #expect(files.reasons(since: files.limitsReached()) == nil)
        }
    }
}

/// A control group with 32 MiB of memory and 20 processes, laid out as a sandbox sees its own.
private struct ControlGroup {
    private static let top = "/sys/fs/cgroup"

    let root: String
    private let groups: [String]

    /// Shell words that move the shell into it.
    var enter: String { groups.map { "echo $$ > \($0)/cgroup.procs" }.joined(separator: "; ") }

    static func with(_ body: (ControlGroup) async throws -> Void) async throws {
        let group = try ControlGroup()
        do {
            try await body(group)
        } catch {
            group.remove()
            throw error
        }
        group.remove()
    }

    private init() throws {
        let name = "martlet-test-\(UInt32.random(in: 0 ... .max))"
        let isUnified = access("\(Self.top)/cgroup.controllers", F_OK) == 0
        let controllers = isUnified ? [""] : ["/memory", "/pids"]
        groups = controllers.map { "\(Self.top)\($0)/\(name)" }
        for group in groups { try #require(mkdir(group, 0o755) == 0, "no control group: \(describeErrno(errno))") }
        root = isUnified ? groups[0] : try makeTemporaryDirectory()
        if !isUnified {
            for (controller, group) in zip(controllers, groups) { symlink(group, root + controller) }
        }
        let (memory, pids) = (groups[0], groups[groups.count - 1])
        try set("\(memory)/\(isUnified ? "memory.max" : "memory.limit_in_bytes")", 32 << 20)
        try? set("\(memory)/\(isUnified ? "memory.swap.max" : "memory.memsw.limit_in_bytes")", isUnified ? 0 : 32 << 20)
        try set("\(pids)/pids.max", 20)
    }

    private func set(_ path: String, _ number: Int) throws { try Data("\(number)".utf8).write(to: URL(filePath: path)) }

    private func remove() {
        for group in groups {
            for _ in 0..<100 where rmdir(group) != 0 { usleep(20_000) }
        }
        if !groups.contains(root) { try? FileManager.default.removeItem(atPath: root) }
    }
}
