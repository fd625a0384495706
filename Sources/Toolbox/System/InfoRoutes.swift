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

    /// Likewise: whether terminals that are opened from now on are recorded.
    static let recordingHeader = HTTPField.Name("X-Martlet-Record-Terminals")!  // a constant that is a valid name

    let metrics: SystemMetrics
    let recordings: RecordingTable
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

    /// The runner's greeting after each start, which brings the token (see `AccessToken`) and what only the runner knows. Comes
    /// again when a setting changes.
    func initialize(_ call: ToolboxCall) async throws -> Response {
        await call.drain()
        if let limit = call.request.headers[Self.diskLimitHeader].flatMap({ Int($0) }), limit > 0 {
            metrics.setDiskLimit(limit)
            Legacy.keep(limit, as: .diskLimit)
        }
        if let records = call.request.headers[Self.recordingHeader].flatMap({ Bool($0) }) {
            recordings.isOn = records
            Legacy.keep(records ? 1 : 0, as: .recording)
        }
        return try jsonResponse(["message": "initialized", "version": daemonVersion])
    }
}
