import CLibSSH
import Glibc
import SSHServing

/// One side of a relay: libssh up to keys and login, and after that packets as they come and go. All of it happens on the
/// connection's thread.
final class RelayLeg {
    typealias PacketHandler = (_ type: UInt8, _ bytes: UnsafeRawBufferPointer) -> Void

    /// Who gets the packets; its address is what libssh's side holds.
    private final class Sink {
        var handler: PacketHandler?
    }

    private let sink: Sink
    private let leg: OpaquePointer
    private var bytesSeen: UInt64 = 0

    /// The side of whoever connected to us, on a socket that is taken over; nil if memory is short.
    static func server(_ connection: CInt, _ hostKey: KeyPair) -> RelayLeg? {
        RelayLeg { martlet_ssh_server_leg(connection, hostKey.raw, handlePacket, $0) }
    }

    /// The side of a server that we connect to, likewise.
    static func client(_ connection: CInt) -> RelayLeg? {
        RelayLeg { martlet_ssh_client_leg(connection, handlePacket, $0) }
    }

    private init?(_ make: (UnsafeMutableRawPointer) -> OpaquePointer?) {
        let sink = Sink()
        guard let leg = make(Unmanaged.passUnretained(sink).toOpaque()) else { return nil }
        self.sink = sink
        self.leg = leg
    }

    deinit { martlet_ssh_free_leg(leg) }

    private static let handlePacket: martlet_ssh_packet_handler = { type, bytes, length, context in
        guard let context else { return }
        let sink = Unmanaged<Sink>.fromOpaque(context).takeUnretainedValue()
        sink.handler?(type, UnsafeRawBufferPointer(start: bytes, count: Int(length)))
    }

    /// What is done with packets of the connection protocol; without it they are dropped.
    func handlePackets(_ handler: PacketHandler?) { sink.handler = handler }

    var session: ssh_session { martlet_ssh_leg_session(leg) }
    var descriptor: CInt { ssh_get_fd(session) }
    var isOpen: Bool {
        ssh_is_connected(session) != 0 && ssh_get_status(session) & (SSH_CLOSED | SSH_CLOSED_ERROR) == 0
    }

    /// Something waits until the socket takes it. What libssh still holds for one that is closed will never be written.
    var isWriting: Bool { isOpen && martlet_ssh_is_writing(leg) != 0 }

    /// Bytes of packets that wait, and of those that were sent since none did, libssh's own answers among them.
    var unwritten: Int { martlet_ssh_unwritten(leg) }

    /// New keys are being agreed on; packets wait for them.
    var isChangingKeys: Bool { martlet_ssh_is_changing_keys(leg) != 0 }

    /// Bytes that came from the peer.
    var bytesRead: UInt64 { martlet_ssh_bytes_read(leg) }

    /// Something came since `read`: libssh reads in many of its functions. So waiting for the socket could be in vain.
    var hasUnseen: Bool { bytesRead != bytesSeen }

    /// What to wait for on the socket.
    func interest(reading: Bool) -> pollfd {
        let events = (reading ? POLLIN : 0) | (isWriting ? POLLOUT : 0)
        return pollfd(fd: descriptor, events: Int16(events), revents: 0)
    }

    /// Reads and handles what came, without waiting, as long as `wantsMore` and at most `limit` pieces.
    /// - Returns: false once the connection is closed or broken.
    func read(atMost limit: Int, while wantsMore: () -> Bool = { true }) -> Bool {
        for _ in 0..<limit where wantsMore() {
            let result = martlet_ssh_read_some(leg)
            if result == SSH_ERROR { return false }
            if result == SSH_AGAIN { break }
        }
        return markSeen()
    }

    /// What libssh has read by itself is dealt with.
    /// - Returns: false once the connection is closed or broken.
    func markSeen() -> Bool {
        bytesSeen = bytesRead
        return isOpen
    }

    /// Writes what the socket takes, and reads nothing.
    /// - Returns: false if the connection is broken.
    func write() -> Bool { martlet_ssh_write_some(leg) == 0 }

    /// Throws away what came, at most `limit` pieces of 16 KiB, without looking at it.
    /// - Returns: false once the peer has ended its side.
    func discardInput(atMost limit: Int) -> Bool {
        var piece = [UInt8](repeating: 0, count: 16 << 10)
        for _ in 0..<limit {
            let count = recv(descriptor, &piece, piece.count, CInt(MSG_DONTWAIT))
            if count > 0 || count < 0 && errno == EINTR { continue }
            return count < 0 && errno == EAGAIN
        }
        return true
    }

    /// Sends a packet; it waits in memory until the socket takes it.
    /// - Returns: false if the connection is broken.
    @discardableResult
    func send(_ type: UInt8, _ bytes: UnsafeRawBufferPointer) -> Bool {
        martlet_ssh_send_packet(leg, type, bytes.baseAddress, UInt32(bytes.count)) == 0
    }

    @discardableResult
    func send(_ packet: PacketWriter) -> Bool { packet.bytes.withUnsafeBytes { send(packet.type, $0) } }

    /// The next message of login among what was read, nil if there is none.
    func nextMessage() -> SSHMessage? { martlet_ssh_next_message(session).map { SSHMessage($0) } }
}
