import Foundation
import Testing

@testable import Postgres

@Suite struct ListenerTests {
    private func withListener(
        _ channels: [String],
        _ limits: PostgresListener.Limits = .init(),
        _ body: (TestDatabase, PostgresListener) async throws -> Void
    ) async throws {
        try await TestDatabase.with { database in
            let listener = PostgresListener(database.configuration, channels: channels, limits: limits, logger: quiet)
            let running = Task { await listener.run() }
            do {
                try await body(database, listener)
            } catch {
                running.cancel()
                await running.value
                throw error
            }
            running.cancel()
            await running.value
            #expect(!listener.isListening)
        }
    }

    @Test(.timeLimit(.minutes(5))) func resyncComesFirstThenNotifications() async throws {
        try await withListener(["plain", "Odd \"name\""]) { database, listener in
            var events = listener.events.makeAsyncIterator()
            #expect(await events.next() == .resync)
            try await database.withConnection { connection in
                try await connection.execute("SELECT pg_notify('plain', 'ä')")
                try await connection.execute("SELECT pg_notify(\("Odd \"name\""), '')")
                try await connection.execute("SELECT pg_notify('unheard', '')")
                try await connection.execute("SELECT pg_notify('plain', 'last')")
            }
            #expect(await events.next() == .notification(channel: "plain", payload: "ä"))
            #expect(await events.next() == .notification(channel: "Odd \"name\"", payload: ""))
            #expect(await events.next() == .notification(channel: "plain", payload: "last"))
        }
    }

    @Test(.timeLimit(.minutes(5))) func aTerminatedListenerComesBackWithAResync() async throws {
        try await withListener(["c"]) { database, listener in
            var events = listener.events.makeAsyncIterator()
            #expect(await events.next() == .resync)
            let pid = try #require(listener.connection).backendPID
            try await database.withServer { try await $0.execute("SELECT pg_terminate_backend(\(pid))") }
            #expect(await events.next() == .resync)
            try await database.withConnection { try await $0.execute("SELECT pg_notify('c', 'again')") }
            #expect(await events.next() == .notification(channel: "c", payload: "again"))
        }
    }

    @Test(.timeLimit(.minutes(5))) func aDeafListenerIsFoundByItsPing() async throws {
        var limits = PostgresListener.Limits()
        limits.silenceLimit = .milliseconds(150)
        limits.pingDeadline = .seconds(3)
        try await withListener(["c"], limits) { database, listener in
            var events = listener.events.makeAsyncIterator()
            #expect(await events.next() == .resync)
            let deafened = try #require(listener.connection)
            try await deafened.execute(script: "UNLISTEN *")
            // Alive it stays, but it hears nothing: only the ping can tell.
            #expect(await events.next() == .resync)
            #expect(listener.connection?.id != deafened.id)
            try await database.withConnection { try await $0.execute("SELECT pg_notify('c', 'heard')") }
            #expect(await events.next() == .notification(channel: "c", payload: "heard"))
        }
    }

    @Test(.timeLimit(.minutes(5))) func aHealthyListenerKeepsItsConnectionThroughManyPings() async throws {
        var limits = PostgresListener.Limits()
        limits.silenceLimit = .milliseconds(20)
        try await withListener(["c"], limits) { database, listener in
            var events = listener.events.makeAsyncIterator()
            #expect(await events.next() == .resync)
            let id = try #require(listener.connection).id
            let pings = { () async throws -> Int in
                try await database.withServer { server in
                    let pid = listener.connection?.backendPID ?? 0
                    let row = try await server.queryFirst(
                        "SELECT count(*) AS n FROM pg_stat_activity WHERE pid = \(pid) AND query LIKE '%pg_notify%'"
                    )
                    return try row!["n"]
                }
            }
            try await eventually("it pings") { try await pings() == 1 }
            try await Task.sleep(for: .milliseconds(300))
            #expect(listener.connection?.id == id)
        }
    }

    @Test(.timeLimit(.minutes(5))) func overflowBecomesOneResync() async throws {
        var limits = PostgresListener.Limits()
        limits.eventLimit = 10
        try await withListener(["c"], limits) { database, listener in
            var events = listener.events.makeAsyncIterator()
            #expect(await events.next() == .resync)
            try await database.withConnection { connection in
                try await connection.execute("SELECT pg_notify('c', n::text) FROM generate_series(1, 25) AS n")
            }
            // 1…10 fill the buffer, 11 replaces them by a resync, 12…20 fit behind it, 21 does it again.
            let last = PostgresListenerEvent.notification(channel: "c", payload: "25")
            try await eventually("all have arrived") { listener.inbox.backlog.last == last }
            #expect(await events.next() == .resync)
            for number in 22...25 {
                #expect(await events.next() == .notification(channel: "c", payload: "\(number)"))
            }
        }
    }

    @Test func theInboxGivesWayToAResyncWhenFull() async throws {
        let inbox = ListenerInbox(limit: 3)
        for number in 1...4 { inbox.receive(Notification(channel: "c", payload: "\(number)")) }
        inbox.receive(Notification(channel: "c", payload: "5"))
        #expect(await inbox.next() == .resync)
        #expect(await inbox.next() == .notification(channel: "c", payload: "5"))
        inbox.end()
        #expect(await inbox.next() == nil)
    }

    @Test(.timeLimit(.minutes(5))) func eventsEndWithTheListener() async throws {
        try await TestDatabase.with { database in
            let listener = PostgresListener(database.configuration, channels: [], logger: quiet)
            let running = Task { await listener.run() }
            var count = 0
            for await _ in listener.events {
                count += 1
                running.cancel()
            }
            await running.value
            #expect(count == 1)
        }
    }
}
