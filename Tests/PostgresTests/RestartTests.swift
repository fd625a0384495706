import Foundation
import Postgres
import Testing

@Suite struct RestartTests {
    @Test(.timeLimit(.minutes(5))) func poolAndListenerStartBeforePostgresAndOutliveItsDeath() async throws {
        try await PrivateServer.with { server in
            let configuration = try server.configuration
            let pool = PostgresPool(configuration, logger: quiet)
            let listener = PostgresListener(configuration, channels: ["c"], logger: quiet)
            let running = [Task { await pool.run() }, Task { await listener.run() }]
            defer { for task in running { task.cancel() } }
            var events = listener.events.makeAsyncIterator()

            async let early = pool.queryFirst("SELECT 1 AS n")  // waits in line until the server is up
            try await server.start()
            #expect(try await early?["n"] == 1)
            #expect(await events.next() == .resync)

            for _ in 0..<2 {
                async let cut = postgresError { try await pool.execute("SELECT pg_sleep(60)") }
                try await eventually("it sleeps") {
                    try await !pool.query("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'").isEmpty
                }
                try await server.kill()
                #expect(try await cut?.retry != .never)
                try await server.start()
                #expect(try await pool.queryFirst("SELECT 1 AS n")?["n"] == 1)
                #expect(await events.next() == .resync)
                try await pool.execute("SELECT pg_notify('c', 'after')")
                #expect(await events.next() == .notification(channel: "c", payload: "after"))
            }
            for task in running {
                task.cancel()
                await task.value
            }
            #expect(pool.status.idle + pool.status.inUse + pool.status.opening + pool.status.closing == 0)
        }
    }
}
