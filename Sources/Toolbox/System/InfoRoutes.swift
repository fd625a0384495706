import HTTPTypes
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

    static let initialization = "/init"
    /// On the runner's greeting: the sandbox's disk quota. Users cannot send it, the proxy lets no header of ours in.
    static let diskLimitHeader = HTTPField.Name("X-Martlet-Disk-Bytes")!  // a constant that is a valid name

    let metrics: SystemMetrics
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

    /// The runner's greeting after each start, which brings the token (see `AccessToken`) and what only the runner knows.
    func initialize(_ call: ToolboxCall) async throws -> Response {
        await call.drain()
        if let limit = call.request.headers[Self.diskLimitHeader].flatMap({ Int($0) }), limit > 0 {
            metrics.setDiskLimit(limit)
            Legacy.keep(limit, as: .diskLimit)
        }
        return try jsonResponse(["message": "initialized", "version": daemonVersion])
    }
}
