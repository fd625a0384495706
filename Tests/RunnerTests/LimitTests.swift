import Docker
import Domain
import Firewall
import FoundationEssentials
import Postgres
import Store
import TestSupport
import Testing

@testable import Runner

/// Sandboxes that run into their limits, against a real engine and kernel.
@Suite(.serialized, .timeLimit(.minutes(5))) struct LimitTests {
    @Test func whatALimitEndedIsAnEventWithItsReason() async throws {
        try await TestHost.with { host in
            // The pipe's end holds one line of all it reads.
            let id = try await host.makeSandbox(running: "(head -c 3000000000 /dev/zero | tail >/dev/null); sleep 1000")
            try await host.withService {
                try await host.wait(id, for: .started)
                try await host.eventually("the bomb is reported", within: .seconds(150)) {
                    try await host.reachedLimits(id).contains {
                        $0.contains("out of memory") && $0.contains("1024 MiB")
                    }
                }
                #expect(try await host.sandbox(id)?.state == .started, "only the program ended")
            }
            #expect(try await host.reachedLimits(id).count == 1)
        }
    }

    @Test func aLostEventDelaysAReportOnly() async throws {
        try await TestHost.with { host in
            // No event tells of a fork bomb, so only the survey can find it; and one that bursts while no runner runs.
            let bomb = "until [ -e /go ]; do sleep 0.1; done; bomb() { sleep 1 | bomb & }; bomb; sleep 1000"
            let id = try await host.makeSandbox(running: bomb)
            try await host.withService {
                $0.limits.pids = 40
            } _: {
                try await host.wait(id, for: .started)
            }
            let root = "/proc/\(try await host.container(id).state.processID)/root"
            #expect(FileManager.default.createFile(atPath: root + "/go", contents: nil))
            try await host.eventually("forks are refused") {
                let counter = LimitCounter(process: try await host.container(id).state.processID, container: "docker")
                return (counter?.read()?.refusedForks ?? 0) > 0
            }
            try await host.withService {
                $0.limits.pids = 40
            } _: {
                try await host.eventually("it is reported") {
                    try await host.reachedLimits(id).contains {
                        $0.contains("too many processes") && $0.contains("40 at")
                    }
                }
                try await Task.sleep(for: .seconds(4))  // Surveys, in which the bomb goes on.
                #expect(try await host.reachedLimits(id).count == 1, "once in a minute")
            }
        }
    }

    @Test func aFullDiskIsReportedAndAResizedOneIsLarger() async throws {
        try await TestHost.with { host in
            let fill = "head -c 1500000000 /dev/zero > /fill; sync; sleep 1000"
            let id = try await host.makeSandbox(running: fill)
            try await host.withService {
                try await host.wait(id, for: .started)
                try await host.eventually("the disk is reported full", within: .seconds(150)) {
                    try await host.reachedLimits(id).contains { $0.contains("disk full") && $0.contains("1024 MiB") }
                }
                try await host.want(id, .stopped)
                try await host.wait(id, for: .stopped)
                try await host.database.owner.execute("UPDATE sandbox SET disk_gib = 2 WHERE id = \(id)")
                try await host.wait(id, for: .stopped) { $0.diskGib == 2 }
                #expect(try await host.effectiveDisk(id) == 2 << 30)
                try await host.want(id, .started)
                try await host.wait(id, for: .started)
                #expect(try await host.effectiveDisk(id) == 2 << 30, "also after the engine mounted it anew")
                let process = try await host.container(id).state.processID
                try await host.eventually("all of it can be written", within: .seconds(150)) {
                    let written = try FileManager.default.attributesOfItem(atPath: "/proc/\(process)/root/fill")
                    return (written[.size] as? UInt64) == 1_500_000_000
                }
            }
        }
    }

    @Test func aDiskThatCannotBeChangedIsRefusedByName() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant) { $0.diskGib = 1 }.id
                try await host.wait(id, for: .started)
                try await host.database.owner.execute(
                    "UPDATE runner_status SET engine = engine || '{\"changesDiskQuota\": false}'"
                )
                let error = await #expect(throws: StoreError.self) {
                    try await translatingErrors {
                        try await host.database.owner.execute("UPDATE sandbox SET disk_gib = 2 WHERE id = \(id)")
                    }
                }
                #expect(error?.code == .invalidValue && error?.message.contains("disk is 1 GiB") == true)
                try await host.database.owner.execute("UPDATE sandbox SET cpu = 2 WHERE id = \(id)")
            }
        }
    }

    @Test func countersAreFoundInEitherVersion() {
        let id = "0123abcd"
        let old = """
            12:pids:/docker/\(id)
            9:name=systemd:/docker/\(id)
            4:cpu,cpuacct:/docker/\(id)
            3:memory:/docker/\(id)
            0::/docker/\(id)
            """
        let first = LimitCounter(groups: old, container: id)
        #expect(first?.memoryFile == "/sys/fs/cgroup/memory/docker/\(id)/memory.oom_control")
        #expect(first?.pidsFile == "/sys/fs/cgroup/pids/docker/\(id)/pids.events")
        let new = LimitCounter(groups: "0::/system.slice/docker-\(id).scope\n", container: id)
        #expect(new?.memoryFile == "/sys/fs/cgroup/system.slice/docker-\(id).scope/memory.events")
        #expect(new?.pidsFile == "/sys/fs/cgroup/system.slice/docker-\(id).scope/pids.events")
        #expect(LimitCounter(groups: old, container: "another") == nil, "the number was given to another process")
    }
}

extension TestHost {
    /// A sandbox whose entrypoint is a shell with these words.
    fileprivate func makeSandbox(running script: String) async throws -> SandboxID {
        try await database.owner.execute("UPDATE snapshot SET entrypoint = ARRAY['sh', '-c', \(script)]")
        let id = try await database.makeSandbox(of: tenant) { $0.diskGib = 1 }.id
        try await database.owner.execute(
            "UPDATE sandbox SET entrypoint = ARRAY['sh', '-c', \(script)] WHERE id = \(id)"
        )
        return id
    }

    fileprivate func reachedLimits(_ id: SandboxID) async throws -> [String] {
        try await database.owner.query("SELECT cause FROM reached_limits WHERE id = \(id)").map { try $0["cause"] }
    }

    fileprivate func effectiveDisk(_ id: SandboxID) async throws -> Int64? {
        let row = try await database.owner.queryFirst(
            "SELECT (effective->>'diskBytes')::bigint AS bytes FROM sandbox_status WHERE sandbox_id = \(id)"
        )
        return try #require(row)["bytes"]
    }
}
