import Domain
import Postgres
import Reconciling
import Runner
import Store
import Testing
import TestSupport

/// A pass that is cut between any two actions leaves nothing that the next pass does not put right.
@Suite(.serialized, .timeLimit(.minutes(5))) struct CrashTests {
    /// The actions on the way from a row to `started`, and back to nothing.
    static let creating = [
        "ensure-image", "install-rules", "create-container", "start-container", "await-daemon", "settle-started",
    ]
    static let stopping = ["report-stopping", "stop-container", "settle-stopped"]
    static let starting = ["report-starting", "install-rules", "start-container", "await-daemon", "settle-started"]
    static let destroying = ["remove-container", "remove-rules", "release"]

    /// One pass with a fault in it, then passes until one settles.
    private func passes(_ reconciler: SandboxReconciler, _ id: SandboxID, fault: String) async throws {
        let plan = FaultPoint.Plan([FaultPoint.Fault(name: fault, action: .raise, passage: 1)])
        var wasCut = false
        do {
            try await FaultPoint.$plan.withValue(plan) { _ = try await reconciler.reconcile(id) }
        } catch is FaultPoint.Raised {
            wasCut = true
        }
        #expect(wasCut, "\(fault) was never reached")
        for _ in 0..<20 {
            switch try await reconciler.reconcile(id) {
            case .settled: return
            case .recheck(let pause): try await Task.sleep(for: min(pause, .milliseconds(200)))
            }
        }
        Issue.record("no pass settles after \(fault)")
    }

    private func both(_ names: [String]) -> [String] { names.flatMap { ["before-\($0)", "after-\($0)"] } }

    @Test func aCreateMayBeCutAnywhere() async throws {
        try await TestHost.with { host in
            try await host.withParts { parts in
                let reconciler = SandboxReconciler(parts)
                for fault in both(Self.creating) {
                    let id = try await host.database.makeSandbox(of: host.tenant).id
                    try await passes(reconciler, id, fault: fault)
                    #expect(try await host.sandbox(id)?.state == .started, "\(fault)")
                    #expect(try await host.containers().count == 1, "\(fault)")
                    #expect(try await host.chains() == ["\(id)"], "\(fault)")
                    try await host.want(id, .destroyed)
                    _ = try await reconciler.reconcile(id)
                    try await host.waitUntilGone(id, within: .seconds(20))
                }
            }
        }
    }

    @Test func aStopAndAStartMayBeCutAnywhere() async throws {
        try await TestHost.with { host in
            try await host.withParts { parts in
                let reconciler = SandboxReconciler(parts)
                let id = try await host.database.makeSandbox(of: host.tenant).id
                _ = try await reconciler.reconcile(id)
                for (down, up) in zip(both(Self.stopping + Self.stopping), both(Self.starting)) {
                    try await host.want(id, .stopped)
                    try await passes(reconciler, id, fault: down)
                    #expect(try await host.sandbox(id)?.state == .stopped, "\(down)")
                    #expect(try await host.chains() == ["\(id)"], "\(down)")
                    try await host.want(id, .started)
                    try await passes(reconciler, id, fault: up)
                    #expect(try await host.sandbox(id)?.state == .started, "\(up)")
                    #expect(try await host.containers().count == 1)
                }
            }
        }
    }

    @Test func aDestroyMayBeCutAnywhere() async throws {
        try await TestHost.with { host in
            try await host.withParts { parts in
                let reconciler = SandboxReconciler(parts)
                for fault in both(Self.destroying) {
                    let id = try await host.database.makeSandbox(of: host.tenant).id
                    _ = try await reconciler.reconcile(id)
                    try await host.want(id, .destroyed)
                    try await passes(reconciler, id, fault: fault)
                    try await host.waitUntilGone(id, within: .seconds(20))
                    #expect(try await host.containers().isEmpty, "\(fault)")
                }
            }
        }
    }

    @Test func afterTheAddressWasGivenAwayAStaleContainerIsInNobodysWay() async throws {
        try await TestHost.with { host in
            try await host.withParts { parts in
                let reconciler = SandboxReconciler(parts)
                let old = try await host.database.makeSandbox(of: host.tenant).id
                _ = try await reconciler.reconcile(old)
                // The database forgot the sandbox and gave its address to another one.
                try await host.database.owner.execute("DELETE FROM sandbox WHERE id = \(old)")
                try await host.database.owner.execute("UPDATE runner_load SET last_slot = 0")
                let new = try await host.database.makeSandbox(of: host.tenant).id
                await #expect(throws: RunnerError.self, "the address is still held") {
                    _ = try await reconciler.reconcile(new)
                }
                _ = try await reconciler.reconcile(old)
                _ = try await reconciler.reconcile(new)
                #expect(try await host.sandbox(new)?.state == .started)
                #expect(try await host.chains() == ["\(new)"])
                #expect(try await host.containers().count == 1)
            }
        }
    }
}
