import Domain
import Store

extension SandboxService {
    /// Decides on the sandbox as it stands, and asks for a capture only if it still stands so; else decides again.
    func capture(
        _ idOrName: String,
        for caller: Caller,
        as purpose: CapturePurpose,
        named name: String? = nil,
        _ decide: (SandboxRecord) -> CaptureDecision
    ) async throws -> SandboxRecord {
        try await attempt(idOrName, for: caller, decide) { sandbox in
            let isRequested = try await database.captures.request(
                purpose,
                of: sandbox.id,
                in: caller.organization,
                generation: sandbox.generation,
                name: name,
                by: caller.actor
            )
            return isRequested ? try await find("\(sandbox.id)", for: caller) : nil
        }
    }

    /// A child that starts from what the sandbox is now.
    func fork(_ idOrName: String, for caller: Caller, named name: String?) async throws -> SandboxRecord {
        try await attempt(idOrName, for: caller, CaptureDecision.fork) { sandbox in
            let child = try await database.captures.fork(
                sandbox.id,
                in: caller.organization,
                generation: sandbox.generation,
                name: name,
                by: caller.actor
            )
            guard let child else { return nil }
            return try await find("\(child)", for: caller)
        }
    }

    /// - Parameter request: returns nil where the sandbox is not as it was decided on.
    private func attempt(
        _ idOrName: String,
        for caller: Caller,
        _ decide: (SandboxRecord) -> CaptureDecision,
        _ request: (SandboxRecord) async throws -> SandboxRecord?
    ) async throws -> SandboxRecord {
        var sandbox = try await find(idOrName, for: caller)
        for _ in 0..<Self.attemptLimit {
            switch decide(sandbox) {
            case .answerAsItIs: return sandbox
            case .refuse(let error): throw error
            case .request:
                if let requested = try await request(sandbox) { return requested }
                sandbox = try await find("\(sandbox.id)", for: caller)
            }
        }
        throw Self.restless
    }
}
