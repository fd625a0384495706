#if DEBUG
    #if canImport(Glibc)
        import Glibc
    #else
        import Musl
    #endif
    import Synchronization
#endif

/// Places where a test may make the process fail. Nothing at all in release builds.
///
/// From outside by environment, `MARTLET_FAULT="after-create-container:crash@2,after-start:delay:500,other:throw"`: the second
/// passage of the first place kills the process (SIGKILL), each passage of the second waits 500 ms, each of the third throws.
/// From inside a test by `FaultPoint.$plan.withValue(...)`.
package enum FaultPoint {
    /// What happens at a place.
    package enum Action: Sendable, Hashable {
        /// The process ends as if by `kill -9`.
        case crash
        case raise
        case delay(Duration)
    }

    /// An action at one place; `passage` counts from 1, nil means every passage.
    package struct Fault: Sendable, Hashable {
        package let name: String
        package let action: Action
        package let passage: Int?

        package init(name: String, action: Action, passage: Int? = nil) {
            self.name = name
            self.action = action
            self.passage = passage
        }
    }

    /// Thrown where a fault says `throw`.
    package struct Raised: Error, Hashable {
        package let name: String
    }

    /// The faults of the current task, with counters of their own.
    package final class Plan: Sendable {
        let faults: [Fault]
        #if DEBUG
            private let passages = Mutex<[String: Int]>([:])
        #endif

        package init(_ faults: [Fault]) {
            self.faults = faults
        }

        #if DEBUG
            func action(at name: String) -> Action? {
                let passage = passages.withLock { counts in
                    counts[name, default: 0] += 1
                    return counts[name, default: 0]
                }
                return faults.first { $0.name == name && ($0.passage == nil || $0.passage == passage) }?.action
            }
        #endif
    }

    /// Takes the place of the environment's faults in the current task and its children.
    @TaskLocal package static var plan: Plan?

    /// Marks a place. Throws only `Raised` or, while delaying, `CancellationError`.
    package static func hit(_ name: String) async throws {
        #if DEBUG
            guard let action = (plan ?? environmentPlan).action(at: name) else { return }
            switch action {
            case .crash: kill(getpid(), SIGKILL)
            case .raise: throw Raised(name: name)
            case .delay(let duration): try await Task.sleep(for: duration)
            }
        #endif
    }

    /// Reads the notation of `MARTLET_FAULT`; nil if any part is not understood.
    static func parse(_ text: String) -> [Fault]? {
        let parts = text.split(separator: ",").map { parseOne($0) }
        return parts.contains { $0 == nil } ? nil : parts.compactMap { $0 }
    }

    private static func parseOne(_ text: Substring) -> Fault? {
        let halves = text.split(separator: "@", omittingEmptySubsequences: false)
        let words = halves[0].split(separator: ":", omittingEmptySubsequences: false)
        guard halves.count <= 2, words.count >= 2, !words[0].isEmpty else { return nil }
        let passage = halves.count == 2 ? Int(halves[1]) : nil
        if halves.count == 2, passage == nil { return nil }
        guard let action = parseAction(words.dropFirst()) else { return nil }
        return Fault(name: String(words[0]), action: action, passage: passage)
    }

    private static func parseAction(_ words: ArraySlice<Substring>) -> Action? {
        switch (words.first, words.count) {
        case ("crash", 1): .crash
        case ("throw", 1): .raise
        case ("delay", 2): words.last.flatMap { Int($0) }.map { .delay(.milliseconds($0)) }
        default: nil
        }
    }

    #if DEBUG
        private static let environmentPlan: Plan = {
            guard let text = getenv("MARTLET_FAULT").map({ String(cString: $0) }), !text.isEmpty else {
                return Plan([])
            }
            guard let faults = parse(text) else {
                // Debug builds only, and by whoever runs a test: one whose faults are misspelt would pass for nothing.
                fatalError("MARTLET_FAULT='\(text)' is not understood; write name:crash|throw|delay:<ms>[@passage],…")
            }
            return Plan(faults)
        }()
    #endif
}
