import Domain
import Foundation
import Synchronization
import Testing

@testable import Runner

/// No thread that hangs in a volume holds up whoever asked, nor other volumes.
@Suite struct VolumeCallsTests {
    private let calls = VolumeCalls.shared
    private let patience = Duration.seconds(30)

    @Test func aFileSystemAnswersOrIsDead() async throws {
        #expect(try await calls.isAlive("/proc"))
        #expect(try await !calls.isAlive("/proc/no-such-file"))
    }

    @Test func whatIsDoneIsReturnedAndThrown() async throws {
        let done = Mutex(false)
        try await calls.work(on: .random()) { done.withLock { $0 = true } }
        #expect(done.withLock { $0 })
        await #expect(throws: RunnerError(.stateDirectory, "full")) {
            try await calls.work(on: .random()) { throw RunnerError(.stateDirectory, "full") }
        }
    }

    @Test func whatHangsIsLeftAloneUntilItEnds() async throws {
        let (hanging, other) = (VolumeID.random(), VolumeID.random())
        let end = DispatchSemaphore(value: 0)
        await #expect(throws: RunnerError.self) {
            try await calls.work(on: hanging, within: .milliseconds(200)) { _ = end.wait(timeout: .now() + 60) }
        }
        await #expect(throws: RunnerError.self, "refused without a thread") {
            try await calls.work(on: hanging, within: patience) { Issue.record("it was begun") }
        }
        try await calls.work(on: other, within: patience) {}
        end.signal()
        let deadline = ContinuousClock.now + patience
        while true {
            do {
                try await calls.work(on: hanging, within: patience) {}
                break
            } catch is RunnerError where ContinuousClock.now < deadline {
                try await Task.sleep(for: .milliseconds(5))
            }
        }
    }

    /// Ended by its deadline and by cancellation, in any order with the call's own end: nothing stays counted.
    @Test func nothingStaysCounted() async throws {
        let volume = VolumeID.random()
        for round in 0..<100 {
            let task = Task {
                try await calls.work(on: volume, within: .microseconds(round * 5)) { usleep(useconds_t(round)) }
            }
            if round % 3 == 0 { task.cancel() }
            _ = await task.result
        }
        let deadline = ContinuousClock.now + patience
        while (try? await calls.work(on: volume, within: patience) {}) == nil, ContinuousClock.now < deadline {
            try await Task.sleep(for: .milliseconds(5))
        }
        try await calls.work(on: volume, within: patience) {}
    }
}
