import FoundationEssentials
import Glibc

/// Where the sandbox's SSH server is, and what it is known by.
struct SandboxServer: Decodable, Equatable {
    var port: Int
    var hostKey: String
}

/// `POST /ssh/authorized-keys` of a sandbox's daemon: has our key let in, which starts the server there if need be. Done
/// without waiting, on a socket that never blocks.
struct KeyRequest {
    private struct Body: Encodable {
        var keys: [String]
        var expiresInSeconds: Int
    }

    private let socket: OwnedSocket
    private let answerLimit: Int
    private var unsent: ArraySlice<UInt8>
    private var answer: [UInt8] = []

    /// - Parameter tokenLine: the header that the daemon asks of everybody, CRLF at its end.
    init(_ socket: OwnedSocket, key: String, tokenLine: String, limits: GatewayLimits) {
        self.socket = socket
        answerLimit = limits.daemonAnswerBytes
        // Encoding two strings and a number cannot fail.
        let body = (try? JSONEncoder().encode(Body(keys: [key], expiresInSeconds: limits.keySeconds))) ?? Data()
        let head =
            "POST /ssh/authorized-keys HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\(tokenLine)"
            + "Content-Type: application/json\r\nContent-Length: \(body.count)\r\n\r\n"
        unsent = (Array(head.utf8) + Array(body))[...]
    }

    var interest: pollfd {
        pollfd(fd: socket.descriptor, events: Int16(unsent.isEmpty ? POLLIN : POLLOUT), revents: 0)
    }

    enum Outcome: Equatable {
        case pending
        case done(SandboxServer)
        case failed(String)
    }

    /// Does what can be done now.
    mutating func advance() -> Outcome {
        while !unsent.isEmpty {
            let count = unsent.withUnsafeBytes { send(socket.descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
            if count < 0 && errno == EINTR { continue }
            if count < 0 && errno == EAGAIN { return .pending }
            guard count > 0 else { return Self.noAnswer }
            unsent = unsent.dropFirst(count)
        }
        var piece = [UInt8](repeating: 0, count: 4096)
        while answer.count <= answerLimit {
            let count = read(socket.descriptor, &piece, piece.count)
            if count < 0 && errno == EINTR { continue }
            if count < 0 && errno == EAGAIN { return .pending }
            guard count > 0 else { return Self.outcome(answer) }
            answer += piece[..<count]
        }
        return .failed("the sandbox's daemon gave too long an answer")
    }

    private static let noAnswer = Outcome.failed("the sandbox's daemon did not answer; try again in a moment")

    /// What a whole answer says.
    static func outcome(_ answer: [UInt8]) -> Outcome {
        struct Refusal: Decodable { var message: String }
        guard let head = answer.firstRange(of: Array("\r\n\r\n".utf8)), answer.starts(with: "HTTP/1.1 ".utf8) else {
            return noAnswer
        }
        let body = Data(answer[head.upperBound...])
        guard answer.starts(with: "HTTP/1.1 200 ".utf8) else {
            let message = (try? JSONDecoder().decode(Refusal.self, from: body))?.message
            return .failed(message.map { "the sandbox's daemon says: \($0)" } ?? "the sandbox's daemon refused our key")
        }
        guard let server = try? JSONDecoder().decode(SandboxServer.self, from: body), (1...65535).contains(server.port)
        else {
            return .failed(
                "the sandbox's daemon gave a wrong answer; is it of an older version? Stop and start the sandbox"
            )
        }
        return .done(server)
    }
}
