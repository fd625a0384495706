import Docker
import Domain
import FoundationEssentials
import Postgres
import Store
import TestSupport
import Testing

@testable import Runner

/// How the daemon in a sandbox learns its token and its settings, against a real engine.
@Suite(.serialized, .timeLimit(.minutes(3))) struct TokenTests {
    @Test func theTokenIsInNoVariableAndNoFileOfTheContainer() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                for _ in 0..<2 {
                    let container = try await host.container(id)
                    let token = try await host.token(of: id)
                    #expect(!container.env.contains { $0.contains(token) })
                    for process in try processes(of: container) {
                        for name in ["environ", "cmdline"] {
                            let text = try Data(contentsOf: URL(filePath: "/proc/\(process)/\(name)"))
                            #expect(text.firstRange(of: Data(token.utf8)) == nil, "/proc/\(process)/\(name)")
                        }
                    }
                    // And once more after a stop and a start, which needs it told anew.
                    try await host.want(id, .stopped)
                    try await host.wait(id, for: .stopped)
                    try await host.want(id, .started)
                    try await host.wait(id, for: .started)
                }
            }
        }
    }

    /// What a runner that crashed before its report leaves: a daemon that may know its token or not.
    @Test func aRunnerThatAdoptsTellsItOnceMore() async throws {
        try await TestHost.with { host in
            var id = SandboxID.random()
            try await host.withService {
                id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
            }
            let running = try await host.container(id)
            try await host.engine.killContainer(running.id)
            _ = try await host.engine.waitContainer(running.id, within: .seconds(10))
            try await host.engine.startContainer(running.id)  // Its daemon knows nothing now.
            try await host.withParts { parts in
                let target = try #require(try await host.container(id).target)
                let token = try await host.token(of: id)
                try await host.eventually("it takes the token") {
                    (try? await greet(parts, id, target, token)) == "0.1.0"
                }
                #expect(try await greet(parts, id, target, token) == "0.1.0")
                await #expect(throws: RunnerError.self) { try await greet(parts, id, target, "another") }
            }
            try await host.withService { try await host.wait(id, for: .started) }
        }
    }

    @Test func aChangedSettingIsToldToWhatRunsAndAgainAfterAStart() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                let run = try await host.container(id).state.startedAt
                for records in [true, false, true] {
                    try await host.database.owner.execute("UPDATE sandbox SET record_terminals = \(records)")
                    try await host.eventually("its daemon is told") {
                        try await host.sandbox(id)?.isToldToRecord == records
                    }
                }
                #expect(try await host.container(id).state.startedAt == run, "nothing was restarted for it")
                try await host.want(id, .stopped)
                try await host.wait(id, for: .stopped)
                #expect(try await host.sandbox(id)?.isToldToRecord == false)
                try await host.want(id, .started)
                try await host.wait(id, for: .started) { $0.isToldToRecord }
            }
        }
    }

    private func greet(_ parts: RunnerParts, _ id: SandboxID, _ target: SandboxTarget, _ token: String) async throws
        -> String
    {
        try await parts.probe.greet(id, at: target, DaemonGreeting(token: token))
    }

    /// Host numbers of the processes in the container's pid namespace.
    private func processes(of container: ContainerInspection) throws -> [String] {
        func space(_ process: String) -> String? {
            try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/ns/pid")
        }
        let own = try #require(space("\(container.state.processID)"))
        let all = try FileManager.default.contentsOfDirectory(atPath: "/proc").filter { Int($0) != nil }
        return all.filter { space($0) == own }
    }
}

extension TestHost {
    func token(of id: SandboxID) async throws -> String {
        let row = try await database.owner.queryFirst("SELECT toolbox_token FROM sandbox WHERE id = \(id)")
        return try #require(row)["toolbox_token"]
    }
}
