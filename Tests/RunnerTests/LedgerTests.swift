import Docker
import Domain
import Firewall
import Runner
import Testing

@Suite struct CrashLedgerTests {
    @Test func theFirstEndIsAnsweredAtOnceAndTheSixthNotAtAll() {
        let ledger = CrashLedger()
        let id = SandboxID.random()
        var now = Duration.seconds(100)
        var pauses: [Duration?] = []
        for end in 0..<6 {
            pauses.append(ledger.pause(afterEndOf: "run \(end)", of: id, now: now))
            now += .seconds(20)
        }
        #expect(pauses == [.zero, .seconds(1), .seconds(2), .seconds(4), .seconds(8), nil])
    }

    @Test func oneEndCountsOnceHoweverOftenItIsSeen() {
        let ledger = CrashLedger()
        let id = SandboxID.random()
        _ = ledger.pause(afterEndOf: "a", of: id, now: .zero)
        #expect(ledger.pause(afterEndOf: "b", of: id, now: .seconds(1)) == .seconds(1))
        #expect(ledger.pause(afterEndOf: "b", of: id, now: .seconds(1.25)) == .seconds(0.75))
        #expect(ledger.pause(afterEndOf: "b", of: id, now: .seconds(3)) == .zero)
    }

    @Test func oldEndsDoNotCount() {
        let ledger = CrashLedger()
        let id = SandboxID.random()
        for end in 0..<6 { _ = ledger.pause(afterEndOf: "\(end)", of: id, now: .seconds(end)) }
        #expect(ledger.pause(afterEndOf: "late", of: id, now: .seconds(2000)) == .zero)
    }
}

@Suite struct HoldingLedgerTests {
    @Test func whatWasHeldIsRemovedAtOnceAndAStrangerAfterTheGrace() {
        let ledger = HoldingLedger(grace: .seconds(30))
        let (held, stranger) = (SandboxID.random(), SandboxID.random())
        ledger.hold(held)
        #expect(ledger.pause(beforeRemoving: held, now: .zero) == nil)
        #expect(ledger.pause(beforeRemoving: stranger, now: .zero) == .seconds(30))
        #expect(ledger.pause(beforeRemoving: stranger, now: .seconds(10)) == .seconds(20))
        #expect(ledger.pause(beforeRemoving: stranger, now: .seconds(30)) == nil)
    }

    @Test func aStrangerWhoseRowComesBackIsNone() {
        let ledger = HoldingLedger(grace: .seconds(30))
        let id = SandboxID.random()
        _ = ledger.pause(beforeRemoving: id, now: .zero)
        ledger.hold(id)
        ledger.forget(id)
        #expect(ledger.pause(beforeRemoving: id, now: .seconds(60)) == .seconds(30))
    }
}

@Suite struct FailureJudgeTests {
    private func failure(_ kind: DockerError.Kind) -> DockerError {
        DockerError(operation: "start container x", kind: kind, message: "because")
    }

    @Test func thatTheEngineIsAwayNeverBecomesAnError() {
        for attempts in [1, 100, 10_000] {
            #expect(judgeFailure(failure(.unavailable), attempts: attempts) == .retry)
            #expect(judgeFailure(failure(.timeout), attempts: attempts) == .retry)
        }
    }

    @Test func everyKindHasAnEnd() {
        for kind in DockerError.Kind.allCases {
            let fate = judgeFailure(failure(kind), attempts: failuresLimit)
            switch kind {
            case .unavailable, .timeout: #expect(fate == .retry)
            case .notFound, .conflict, .server, .noSpace, .badRequest, .unauthorized:
                guard case .settle(let reason, _) = fate else {
                    Issue.record("\(kind) is retried for ever")
                    continue
                }
                #expect(reason.contains("because"))
            }
        }
    }

    @Test func aSandboxsOwnFullDiskIsSaidAtOnce() {
        guard case .settle(let reason, true) = judgeFailure(failure(.noSpace), attempts: 1) else {
            Issue.record("a full disk is recoverable")
            return
        }
        #expect(reason.contains("own disk is full") && reason.contains("resize its disk"))
    }

    /// The cache may make room meanwhile.
    @Test func aHostsFullDiskIsBelievedAfterAWhile() {
        let usage = DiskUsage(path: "/data", usedBytes: 99 << 20, freeBytes: 1 << 20)
        let fates = (1...20).map { judgeFailure(failure(.noSpace), attempts: $0, fullDisk: usage) }
        #expect(fates.firstIndex { $0 != .retry } == fullHostsLimit - 1)
        guard case .settle(let reason, true) = fates[19] else {
            Issue.record("a full disk is recoverable")
            return
        }
        #expect(reason.contains("/data is 99 % full, 1 of 100 MiB are free") && reason.contains("recover"), "\(reason)")
    }

    @Test func anImageThatIsLostIsToldApartFromARegistryThatIsAway() throws {
        #expect(judgePull(failure(.notFound)) == .lost)
        #expect(judgePull(failure(.server)) == .registryAway)
        #expect(judgePull(failure(.noSpace)) == .failed)
        let image = try #require(
            InternalImage("registry.martlet.internal/a@sha256:\(String(repeating: "0", count: 64))")
        )
        #expect(imageLost(image, isBackup: true, snapshots: 1).message.contains("it alone has"))
        #expect(imageLost(image, isBackup: false, snapshots: 1).message.contains("made anew"))
        #expect(imageLost(image, isBackup: false, snapshots: 0).message.contains("activate its snapshot"))
    }
}
