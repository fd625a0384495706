/// Runs `work` and cancels it when `limit` has passed: throws `late` then, else what `work` throws. Returns only after `work` has
/// ended.
package func withDeadline<Value: Sendable>(
    _ limit: Duration,
    orThrow late: any Error,
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

/// The same for a call to the engine: throws `DockerError` (`.timeout`) when it is late.
func withDeadline<Value: Sendable>(
    _ limit: Duration,
    operation: String,
    _ work: @escaping @Sendable () async throws -> Value
) async throws -> Value {
    let late = DockerError(
        operation: operation,
        kind: .timeout,
        message: "no answer within \(limit); look whether the engine is overloaded"
    )
    return try await withDeadline(limit, orThrow: late, work)
}
