package import HTTPTypes

/// The secret that the proxy adds to each request. It keeps out what can reach the loopback but was not let in by Martlet: a
/// page in a browser in the sandbox, a program that forwards requests for others. It is no barrier between the programs of a
/// sandbox, which can do by themselves whatever the daemon does for them.
package struct AccessToken: Sendable {
    private let expected: [UInt8]

    package static let header = HTTPField.Name("X-Martlet-Token")!  // a constant that is a valid name

    package init(_ token: String) {
        expected = Array(token.utf8)
    }

    /// - Throws: 401 unless the header holds the token. Takes the same time for every wrong token of the right length.
    package func check(_ headers: HTTPFields) throws {
        let given = Array((headers[Self.header] ?? "").utf8)
        guard !expected.isEmpty, given.count == expected.count else { throw Self.refusal }
        var difference: UInt8 = 0
        for (a, b) in zip(expected, given) { difference |= a ^ b }
        guard difference == 0 else { throw Self.refusal }
    }

    private static let refusal = ToolboxError(
        .unauthorized,
        "UNAUTHORIZED",
        "header X-Martlet-Token is missing or wrong; call the toolbox through Martlet's proxy"
    )
}
