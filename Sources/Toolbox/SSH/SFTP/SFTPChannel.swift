import CLibSSH
import Glibc

/// File transfer on a channel: requests are done one after the other, and none while the client does not take the answers.
final class SFTPChannel {
    private let raw: ssh_channel
    private let session: SSHSession
    private let server: SFTPServer
    private var received: [UInt8] = []
    private var isRefused = false

    init(_ raw: ssh_channel, _ session: SSHSession, _ server: SFTPServer) {
        (self.raw, self.session, self.server) = (raw, session, server)
    }

    /// Only the client is waited for.
    func addInterests(to list: inout [pollfd]) {}

    func serve() -> ChannelTurn {
        for _ in 0..<SSHLimit.piecesPerTurn {
            guard sendAnswers() else { return .waiting }
            if isRefused { return finish(code: 1) }
            if handlePackets() { continue }
            let piece = session.receive(from: raw)
            guard !piece.isEmpty else {
                return ssh_channel_is_eof(raw) != 0 ? finish(code: received.isEmpty ? 0 : 1) : .waiting
            }
            received.append(contentsOf: piece)
        }
        return .busy
    }

    /// Whether all answers are on their way.
    private func sendAnswers() -> Bool {
        while server.answers.count > 0 {
            let window = Int(ssh_channel_window_size(raw))
            guard window > 0, !session.isCongested else { return false }
            let sent = server.answers.next.prefix(min(window, SSHLimit.pieceBytes)).withUnsafeBytes {
                session.send($0, on: raw)
            }
            guard let sent else {
                isRefused = true
                server.answers.take(server.answers.count)
                return true
            }
            server.answers.take(sent)
        }
        return true
    }

    /// Whether there were whole packets.
    private func handlePackets() -> Bool {
        var at = 0
        while !isRefused, received.count - at >= 4, server.answers.count < SFTPLimit.answerBytes {
            let length = received[at..<at + 4].reduce(0) { $0 << 8 | Int($1) }
            guard (1...SFTPLimit.packetBytes).contains(length) else {
                isRefused = true
                break
            }
            guard received.count - at - 4 >= length else { break }
            isRefused = !server.handle(received[at + 4..<at + 4 + length])
            at += 4 + length
        }
        received.removeFirst(at)
        return at > 0 || isRefused
    }

    private func finish(code: CInt) -> ChannelTurn {
        ssh_channel_send_eof(raw)
        ssh_channel_request_send_exit_status(raw, code)
        return .finished
    }
}
