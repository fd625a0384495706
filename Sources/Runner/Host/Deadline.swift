/// Runs `work` and cancels it when `limit` has passed: throws `late` then, once `work` has ended.
func withDeadline<Value: Sendable>(
    _ limit: Duration,
    orThrow late: RunnerError,
    _ work: @escaping @Sendable () async throws -> Value
) async throws -> Value {
    try await withThrowingTaskGroup(of: Value.self) { group in
        group.addTask { try await work() }
        group.addTask {
            try await Task.sleep(for: limit)
            throw late
        }
        defer { group.cancelAll() }
        guard let value = try await group.next() else { throw CancellationError() }
        return value
    }
}
