import FoundationEssentials
import HummingbirdCore
import NIOCore
import Synchronization
import WebSockets

/// The WebSockets of terminals: output as binary messages, control messages as text, input as either.
struct TerminalSockets: Sendable {
    /// Offered by clients that understand the message `exited`.
    static let exitControl = "X-Daytona-Pty-Exit-Control"
    /// Followed by the variables: base64url, without padding, of a JSON object.
    static let variablesPrefix = "X-Daytona-Pty-Envs~"

    let terminals: TerminalTable

    /// `/process/pty/create-connect`. The shell is started after the client was told `connected`.
    func createConnect(_ call: ToolboxCall) async throws -> WebSocketAnswer {
        let offered = try WebSocketHandshake(call.request.head).protocols
        let request = TerminalRequest(
            id: try call.query.required("id"),
            directory: call.query["cwd"].flatMap { $0.isEmpty ? nil : $0 },
            variables: try Self.variables(offered),
            size: try terminalSize(
                columns: try call.query.number("cols", in: TerminalLimit.size),
                rows: try call.query.number("rows", in: TerminalLimit.size)
            )
        )
        let session = try await terminals.create(request, on: call.channel.eventLoop)
        return answer(session, offered, Reservation(session, terminals))
    }

    /// `/process/pty/{id}/connect`.
    func connect(_ call: ToolboxCall) async throws -> WebSocketAnswer {
        let offered = try WebSocketHandshake(call.request.head).protocols
        return answer(try terminals.session(call.parameters["id"] ?? ""), offered, nil)
    }

    private func answer(
        _ session: TerminalSession,
        _ offered: [String],
        _ reservation: Reservation?
    ) -> WebSocketAnswer {
        let hasExitControl = offered.contains(Self.exitControl)
        var limits = WebSocketLimits()
        limits.messageBytes = TerminalLimit.messageBytes
        return .accept(protocol: hasExitControl ? Self.exitControl : nil, limits: limits) { socket in
            try await socket.send(.text(TerminalControl.connected.text))
            let client = TerminalClient(socket: socket, hasExitControl: hasExitControl)
            do {
                let attachment = try session.attach()
                reservation?.isUsed()
                await client.talk(with: attachment)
            } catch let error as ToolboxError {
                await client.end(.failed(error.message))
            }
        }
    }

    private static func variables(_ offered: [String]) throws -> [String: String] {
        guard let token = offered.first(where: { $0.hasPrefix(variablesPrefix) }) else { return [:] }
        var text = token.dropFirst(variablesPrefix.count)
            .replacing("-", with: "+").replacing("_", with: "/")
        text += String(repeating: "=", count: (4 - text.count % 4) % 4)
        guard let json = Data(base64Encoded: String(text)),
            let variables = try? JSONDecoder().decode([String: String].self, from: json)
        else {
            throw ToolboxError.badRequest(
                "sub-protocol \(variablesPrefix) is not followed by base64url of a JSON object of strings"
            )
        }
        return variables
    }
}

/// Holds the id of a terminal for the client that created it. If that goes away before its WebSocket opens, nothing is left
/// that would ever start or remove the terminal; so it is removed when this is freed.
private final class Reservation: Sendable {
    private let session: TerminalSession
    private let terminals: TerminalTable

    init(_ session: TerminalSession, _ terminals: TerminalTable) {
        self.session = session
        self.terminals = terminals
    }

    /// Keeps it alive until here.
    func isUsed() {}

    deinit {
        if session.isUnused { terminals.remove(session) }
    }
}

extension TerminalSession {
    fileprivate var isUnused: Bool {
        state.withLock { state in
            if case .idle = state.phase { return true }
            return false
        }
    }
}

/// A client on a WebSocket.
struct TerminalClient: Sendable {
    let socket: WebSocket
    let hasExitControl: Bool

    /// Until the terminal ended or the client is gone. The terminal outlives its clients.
    func talk(with attachment: TerminalAttachment) async {
        let session = attachment.session
        await withTaskGroup(of: Void.self) { tasks in
            tasks.addTask { await takeInput(for: session) }
            tasks.addTask { await showOutput(of: attachment) }
            await tasks.next()
            attachment.detach()
            tasks.cancelAll()
        }
    }

    /// Tells how the terminal ended, and closes.
    func end(_ end: TerminalEnd) async {
        let message = TerminalControl(ending: end)
        // If the client is gone there is nobody to be told.
        if hasExitControl || message.error != nil { try? await socket.send(.text(message.text)) }
        let code = end == .exited(0) ? WebSocketClose.normal : WebSocketClose.internalError
        await socket.close(code, TerminalControl(closing: end).text)
    }

    private func takeInput(for session: TerminalSession) async {
        for await message in socket.messages {
            let bytes: ByteBuffer
            switch message {
            case .binary(let content): bytes = content
            case .text(let text): bytes = ByteBuffer(string: text)
            }
            // When the terminal has ended, this client is about to be told so.
            try? await session.write(bytes)
        }
    }

    private func showOutput(of attachment: TerminalAttachment) async {
        do {
            while let event = await attachment.next() {
                switch event {
                case .output(let bytes): try await socket.send(.binary(bytes))
                case .missed(let count): try await socket.send(.binary(Self.notice(count)))
                case .ended(let end): await self.end(end)
                }
            }
        } catch {
            // The client is gone.
        }
    }

    private static func notice(_ count: Int) -> ByteBuffer {
        ByteBuffer(string: "\r\n[martlet: \(count) bytes of output are missing here, this client was too slow]\r\n")
    }
}
