import Domain
import Postgres
import Store
import Synchronization
import TestSupport
import Testing

@Suite struct ChangeFeedTests {
    @Test func aChangeWakesWhoWaitsForThatSandbox() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let (one, other) = (try await database.makeSandbox(of: tenant), try await database.makeSandbox(of: tenant))
            try await withFeed(database) { feed, _ in
                let waiting = feed.subscribe(to: one.id)!
                let elsewhere = feed.subscribe(to: other.id)!
                _ = try await database.owner.sandboxes.apply(
                    .stop(force: false),
                    to: one.id,
                    in: tenant.organization,
                    by: Actor("test")
                )
                let (woken, slept) = (
                    await time { await waiting.next(within: .seconds(90)) },
                    await time { await elsewhere.next(within: .milliseconds(300)) }
                )
                #expect(woken < .seconds(60))
                #expect(slept >= .milliseconds(300))
                feed.unsubscribe(waiting, from: one.id)
                feed.unsubscribe(elsewhere, from: other.id)
            }
        }
    }

    @Test func aRevokedKeyIsToldByItsHash() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await withFeed(database) { feed, changes in
                let keys = database.owner.apiKeys
                let key = try #require(await keys.find(named: "test", in: tenant.organization, of: tenant.user))
                #expect(try await keys.delete(key.id) == tenant.key.hash)
                let revoked = RouteChange.key(KeyTag(of: tenant.key.hash))
                let deadline = ContinuousClock.now + .seconds(60)
                while !changes.withLock({ $0.contains(revoked) }), .now < deadline {
                    try await Task.sleep(for: .milliseconds(10))
                }
                #expect(changes.withLock { $0.contains(revoked) })
            }
        }
    }

    private func time(_ body: () async -> Void) async -> Duration {
        await ContinuousClock().measure { await body() }
    }

    private func withFeed(
        _ database: TestDatabase,
        _ body: (ChangeFeed, borrowing Mutex<[RouteChange]>) async throws -> Void
    ) async throws {
        let box = Box()
        let feed = ChangeFeed(try await database.configuration(for: .api), logger: TestStack.logger) { change in
            box.changes.withLock { $0.append(change) }
        }
        let running = Task { await feed.run() }  // owned: cancelled and awaited below
        while box.changes.withLock({ !$0.contains(.resync) }) { try await Task.sleep(for: .milliseconds(5)) }
        do {
            try await body(feed, box.changes)
        } catch {
            running.cancel()
            await running.value
            throw error
        }
        running.cancel()
        await running.value
    }
}

private final class Box: Sendable {
    let changes = Mutex<[RouteChange]>([])
}
