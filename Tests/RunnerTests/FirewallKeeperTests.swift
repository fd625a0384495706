import Domain
import Firewall
import Runner
import Testing
import TestSupport

/// Against the real kernel, with chains of its own.
@Suite(.timeLimit(.minutes(2))) struct FirewallKeeperTests {
    private func with(_ body: (FirewallKeeper, () async throws -> [String]) async throws -> Void) async throws {
        let tag = String(UInt32.random(in: 0x1000_0000 ... .max), radix: 16)
        let kernel = KernelFirewall(logger: TestStack.logger)
        let host = try HostFirewall(
            tag: tag,
            bridge: "mtk\(tag)",
            subnet: try IPv4Range(parsing: "10.202.0.0/16"),
            resolvers: [IPv4Address(1, 1, 1, 1)]
        )
        let keeper = FirewallKeeper(kernel: kernel, host: host, logger: TestStack.logger)
        // Owned: cancelled and awaited on both ways out.
        let running = Task { await keeper.run() }
        do {
            try await body(keeper) { try await kernel.observe(tag: host.tag).sandboxes(tag: host.tag).map(\.sandbox) }
        } catch {
            running.cancel()
            await running.value
            try? await kernel.remove(tag: host.tag)
            throw error
        }
        running.cancel()
        await running.value
        try await kernel.remove(tag: host.tag)
    }

    private func rules(_ key: PlacementKey, slot: Int, _ egress: EgressPolicy = .open) -> SandboxFirewall {
        SandboxFirewall(
            slot: slot,
            sandbox: "\(key.sandbox)",
            epoch: key.epoch,
            address: IPv4Address(10, 202, 1, UInt8(slot)),
            egress: egress
        )
    }

    @Test func manyChangesAtOnceAreAllInTheKernelWhenAnswered() async throws {
        try await with { keeper, chains in
            let keys = (1...50).map { _ in PlacementKey(.random(), epoch: 1) }
            try await withThrowingTaskGroup(of: Void.self) { group in
                for (index, key) in keys.enumerated() {
                    let rules = rules(key, slot: index + 1)
                    group.addTask { try await keeper.ensure(rules, for: key) }
                }
                try await group.waitForAll()
            }
            #expect(Set(try await chains()) == Set(keys.map { "\($0.sandbox)" }))
            for (index, key) in keys.enumerated() {
                #expect(keeper.observation(of: key, wanted: rules(key, slot: index + 1)) == .current)
                #expect(keeper.observation(of: key, wanted: rules(key, slot: index + 1, .blockAll)) == .differing)
            }
            for key in keys.dropFirst() { try await keeper.remove(key.sandbox) }
            #expect(try await chains() == ["\(keys[0].sandbox)"])
        }
    }

    @Test func anAddressHasOneOwner() async throws {
        try await with { keeper, chains in
            let (first, second) = (PlacementKey(.random(), epoch: 1), PlacementKey(.random(), epoch: 1))
            try await keeper.ensure(rules(first, slot: 9), for: first)
            await #expect(throws: RunnerError.self) { try await keeper.ensure(rules(second, slot: 9), for: second) }
            #expect(try await chains() == ["\(first.sandbox)"])
            try await keeper.remove(first.sandbox)
            try await keeper.ensure(rules(second, slot: 9), for: second)
            #expect(try await chains() == ["\(second.sandbox)"])
        }
    }

    @Test func whoWaitsAndIsCancelledIsAnswered() async throws {
        try await with { keeper, _ in
            let key = PlacementKey(.random(), epoch: 1)
            let rules = rules(key, slot: 3)
            for pause in [0, 1, 5, 20] {
                let waiting = Task { try await keeper.ensure(rules, for: key) }  // Owned: awaited below.
                try await Task.sleep(for: .milliseconds(pause))
                waiting.cancel()
                _ = await waiting.result
            }
            try await keeper.verify()
        }
    }
}
