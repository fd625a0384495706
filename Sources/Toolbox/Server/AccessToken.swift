package import HTTPTypes
import Synchronization

/// The secret that the proxy adds to each request. It keeps out what can reach the loopback but was not let in by Martlet: a
/// page in a browser in the sandbox, a program that forwards requests for others. It is no barrier between the programs of a
/// sandbox, which can do by themselves whatever the daemon does for them.
///
/// It comes with the runner's first `POST /init`, and is then in this process's memory only: in no file, and in no variable,
/// which process 1 would keep in /proc/1/environ. The first to say it is believed: until then no program of the sandbox
/// runs (the entrypoint waits for it), and who comes through the ingress has it from the sandbox's row. Were another one
/// taken all the same, the runner would get 401 and the start would fail. The daemon's supervisor keeps it for a daemon that
/// follows (see `Legacy`): a program that comes after the old one has no chance to be the first.
package final class AccessToken: Sendable {
    private let expected: Mutex<[UInt8]?>
    private let known: AsyncStream<Void>
    private let becomesKnown: AsyncStream<Void>.Continuation

    package static let header = HTTPField.Name("X-Martlet-Token")!  // a constant that is a valid name

    /// - Parameter token: nil to wait for it.
    package init(_ token: String?) {
        expected = Mutex(token.map { Array($0.utf8) })
        (known, becomesKnown) = AsyncStream.makeStream()
        if token != nil { becomesKnown.finish() }
    }

    /// Returns once there is a token, or when cancelled. For one waiter.
    package func waitUntilKnown() async {
        for await _ in known {}
    }

    /// Takes the token from the header, if there is none yet.
    /// - Throws: 401 if there is another one, or none in the header.
    package func adopt(_ headers: HTTPFields) throws {
        let given = Array((headers[Self.header] ?? "").utf8)
        guard !given.isEmpty else { throw Self.refusal }
        let isFirst = expected.withLock { expected in
            guard expected == nil else { return false }
            Legacy.keep(given, as: .token)
            expected = given
            return true
        }
        if isFirst { becomesKnown.finish() } else { try check(headers) }
    }

    /// - Throws: 401 unless the header holds the token; 503 while there is none. Takes the same time for every wrong token of
    ///   the right length.
    package func check(_ headers: HTTPFields) throws {
        guard let expected = expected.withLock({ $0 }) else { throw Self.tooEarly }
        let given = Array((headers[Self.header] ?? "").utf8)
        guard !expected.isEmpty, given.count == expected.count else { throw Self.refusal }
        var difference: UInt8 = 0
        for (a, b) in zip(expected, given) { difference |= a ^ b }
        guard difference == 0 else { throw Self.refusal }
    }

    /// What `derive` makes of the token, which it must not keep; nil while there is none.
    func derived<Value>(_ derive: ([UInt8]) -> Value?) -> Value? { expected.withLock { $0 }.flatMap(derive) }

    private static let refusal = ToolboxError(
        .unauthorized,
        "UNAUTHORIZED",
        "header X-Martlet-Token is missing or wrong; call the toolbox through Martlet's proxy"
    )
    private static let tooEarly = ToolboxError(
        .serviceUnavailable,
        "SERVICE_UNAVAILABLE",
        "the sandbox is starting; try again in a second"
    )
}
