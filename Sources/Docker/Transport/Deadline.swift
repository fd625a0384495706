/// Runs `work` and cancels it when `limit` has passed.
///
/// Throws `DockerError` (`.timeout`) then; otherwise what `work` returns or throws. Returns only after `work` has ended.
func withDeadline<Value: Sendable>(
    _ limit: Duration,
    operation: String,
    _ work: @escaping @Sendable () async throws -> Value
) async throws -> Value {
    try await withThrowingTaskGroup(of: Value.self) { group in
        group.addTask { try await work() }
        group.addTask {
            try await Task.sleep(for: limit)
            throw DockerError(
                operation: operation,
                kind: .timeout,
                message: "no answer within \(limit); look whether the engine is overloaded"
            )
        }
        defer { group.cancelAll() }
        guard let value = try await group.next() else { throw CancellationError() }
        return value
    }
}
