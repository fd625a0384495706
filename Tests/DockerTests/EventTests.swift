import Docker
import FoundationEssentials
import Logging
import Testing

@testable import struct Docker.EngineTime

@Suite struct EventTests {
    @Test(.timeLimit(.minutes(5))) func seesStartDieAndOOM() async throws {
        try await withEngine { test in
            var notices = test.engine.events(labels: ["martlet.test": test.mark]).makeAsyncIterator()
            #expect(try await notices.next() == .resync)
            // tail keeps the last line, which never ends: it grows until the kernel stops it. The second is for the engine, which
            // may not tell of it any more once the container has ended.
            var hungry = test.sleeper("tail /dev/zero & wait $!; sleep 1; exit 7")
            hungry.memoryBytes = 16 << 20
            let id = try await test.engine.createContainer(named: test.mark, hungry).id
            try await test.engine.startContainer(id)
            var seen: [String: EngineEvent] = [:]
            while seen["die"] == nil {
                guard case .event(let event) = try await notices.next() else { continue }
                seen[event.action] = event
            }
            #expect(seen["create"]?.actorID == id)
            #expect(seen["start"] != nil)
            #expect(seen["die"]?.attributes["exitCode"] == "7")
            #expect(seen["die"]?.attributes["martlet.test"] == test.mark)
            if seen["oom"] == nil {
                // The kernel's notice may come just after the death.
                guard case .event(let event) = try await notices.next() else { return }
                #expect(event.action == "oom")
            }
        }
    }

    @Test(.timeLimit(.minutes(5))) func resumesWhereItIsTold() async throws {
        try await withEngine { test in
            let before = EngineTime.now()
            let id = try await test.engine.createContainer(named: test.mark, test.sleeper()).id
            var notices = test.engine.events(labels: ["martlet.test": test.mark], since: before).makeAsyncIterator()
            #expect(try await notices.next() == .resync)
            guard case .event(let event) = try await notices.next() else { throw Missing() }
            #expect(event.action == "create")
            #expect(event.actorID == id)
        }
    }

    /// A relay before the engine is cut; the stream comes back, says so, and loses nothing.
    @Test(.timeLimit(.minutes(5))) func reconnectsAndResumes() async throws {
        try await withEngine { test in
            let relay = try await SocketRelay(to: test.engine.host.socketPath)
            let remote = DockerEngine(host: DockerHost(socketPath: relay.path), logger: Logger(label: "test"))
            var notices = remote.events(labels: ["martlet.test": test.mark]).makeAsyncIterator()
            #expect(try await notices.next() == .resync)
            try await relay.cut()
            let id = try await test.engine.createContainer(named: test.mark, test.sleeper()).id
            try await relay.open()
            #expect(try await notices.next() == .resync)
            guard case .event(let event) = try await notices.next() else { throw Missing() }
            #expect(event.actorID == id)
            try await relay.cut()
            try await remote.shutdown()
        }
    }

    @Test(.timeLimit(.minutes(5))) func cancellationEndsIt() async throws {
        try await withEngine { test in
            let events = test.engine.events(labels: ["martlet.test": test.mark])
            await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { for try await _ in events {} }
                try? await Task.sleep(for: .milliseconds(200))
                group.cancelAll()
                await #expect(throws: CancellationError.self) { try await group.next() }
            }
        }
    }

    @Test func timeIsWrittenWithNanoseconds() {
        #expect(EngineTime(nanoseconds: 1_700_000_000_000_000_042).parameter == "1700000000.000000042")
    }

    private struct Missing: Error {}
}
