import Hummingbird

/// The daemon's version, also `GET /version`.
package let daemonVersion = "0.1.0"

/// Small answers about the sandbox, and its environment (WIRE-CONTRACT 5.10).
package struct InfoRoutes: Sendable {
    private struct EnvironmentUpdate: Decodable {
        var set: [String: String]?
        var unset: [String]?
        var unsetValuePrefix: String?
    }

    let environment: EnvironmentStore
    let workingDirectory: WorkingDirectory
    let home: String

    func version(_ call: ToolboxCall) async throws -> Response {
        try jsonResponse(["version": daemonVersion])
    }

    func workDirectory(_ call: ToolboxCall) async throws -> Response {
        try jsonResponse(["dir": workingDirectory.path])
    }

    func homeDirectory(_ call: ToolboxCall) async throws -> Response {
        try jsonResponse(["dir": home])
    }

    func updateEnvironment(_ call: ToolboxCall) async throws -> Response {
        let update = try await call.decode(EnvironmentUpdate.self)
        try environment.update(
            set: update.set ?? [:],
            unset: update.unset ?? [],
            unsetValuePrefix: update.unsetValuePrefix
        )
        return try jsonResponse(["message": "environment updated"])
    }

    /// The control plane's greeting. The daemon was given its token at start, so nothing is left to do.
    func initialize(_ call: ToolboxCall) async throws -> Response {
        await call.drain()
        return try jsonResponse(["message": "initialized"])
    }
}
