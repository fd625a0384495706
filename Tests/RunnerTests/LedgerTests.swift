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

    @Test func aFullDiskIsSaidAtOnce() {
        guard case .settle(let reason, true) = judgeFailure(failure(.noSpace), attempts: 1) else {
            Issue.record("a full disk is recoverable")
            return
        }
        #expect(reason.contains("disk is full"))
    }
}
