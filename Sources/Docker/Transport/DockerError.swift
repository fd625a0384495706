/// What went wrong between us and the Docker Engine.
package struct DockerError: Error, Sendable, CustomStringConvertible {
    /// The classes of failure a caller may have to tell apart. 304 ("already so") is success and never arrives here.
    package enum Kind: String, Sendable, Hashable, CaseIterable {
        /// 404: no such container, image or network.
        case notFound
        /// 409: the name is taken, or the object's state forbids the operation.
        case conflict
        /// 400, or refused by this client before sending: repeating it cannot help.
        case badRequest
        /// A registry wants another login for what was asked of it.
        case unauthorized
        /// The engine's socket refused, or it closed the connection in the middle.
        case unavailable
        /// The call's deadline passed. Whether the engine acted is unknown.
        case timeout
        /// The host's (or the storage driver's) disk is full.
        case noSpace
        /// Any other failure of the engine.
        case server
    }

    /// The operation in words, naming its subject: `create container martlet-…`.
    package let operation: String
    package let kind: Kind
    /// HTTP status, if the engine answered at all.
    package let status: Int?
    /// The engine's own words, or ours.
    package let message: String

    package init(operation: String, kind: Kind, status: Int? = nil, message: String) {
        self.operation = operation
        self.kind = kind
        self.status = status
        self.message = message
    }

    /// Whether the same request may succeed later. `false` only where the request itself is at fault.
    package var isRetryable: Bool {
        switch kind {
        case .badRequest, .unauthorized: false
        case .notFound, .conflict, .unavailable, .timeout, .noSpace, .server: true
        }
    }

    package var description: String {
        let code = status.map { " (\($0))" } ?? ""
        return "cannot \(operation): \(kind.rawValue)\(code): \(message)"
    }

    /// A request that this client refuses to send.
    static func refused(operation: String, _ message: String) -> DockerError {
        DockerError(operation: operation, kind: .badRequest, message: message)
    }

    /// Classifies an answer of the engine.
    static func answered(operation: String, status: Int, message: String) -> DockerError {
        DockerError(
            operation: operation,
            kind: kind(status: status, message: message),
            status: status,
            message: message
        )
    }

    /// Classifies what another client of a registry printed, as if the engine had said it.
    package static func saidByRegistry(operation: String, message: String) -> DockerError {
        let status = message.firstMatch(of: #/StatusCode: (401|403|404)/#).flatMap { Int($0.1) }
        return answered(operation: operation, status: status ?? 500, message: message).judgedAsRegistrys()
    }

    /// The same, where the engine may have passed on what a registry said: it does so under several statuses.
    func judgedAsRegistrys() -> DockerError {
        guard [.server, .badRequest, .notFound].contains(kind), let status,
            let kind = Self.registrysKind(status: status, message: message)
        else { return self }
        return DockerError(operation: operation, kind: kind, status: status, message: message)
    }

    private static func registrysKind(status: Int, message: String) -> Kind? {
        let text = message.lowercased()
        func says(_ words: String...) -> Bool { words.contains { text.contains($0) } }
        if status == 401 || status == 403
            || says("unauthorized", "denied", "authentication required", "no basic auth credentials")
        {
            return .unauthorized
        }
        if says("not found", "manifest unknown", "name unknown", "blob unknown", "unknown blob") { return .notFound }
        return says("no matching manifest", "invalid reference format", "unsupported") ? .badRequest : nil
    }

    private static func kind(status: Int, message: String) -> Kind {
        if isFullDisk(message) { return .noSpace }
        switch status {
        case 400: return .badRequest
        case 404: return .notFound
        case 409: return .conflict
        case 503: return .unavailable
        default: return .server
        }
    }

    private static func isFullDisk(_ message: String) -> Bool {
        let text = message.lowercased()
        return text.contains("no space left on device") || text.contains("disk quota exceeded")
    }
}
