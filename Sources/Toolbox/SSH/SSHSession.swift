import CLibSSH
import Glibc
import SSHServing

/// libssh's side of a connection. All of it happens on the connection's thread.
final class SSHSession {
    let raw: ssh_session
    private let event: ssh_event
    private let counter = UnsafeMutablePointer<ssh_counter_struct>.allocate(capacity: 1)
    /// Bytes that had been read when the client last had taken all that was sent to it.
    private var bytesAnswered: UInt64 = 0
    /// Bytes that had been read when the turn began.
    private var bytesSeen: UInt64 = 0
    /// Where pieces are on their way between channels and descriptors.
    let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: SSHLimit.pieceBytes, alignment: 8)

    /// A server on a connected socket, which it takes over; nil if memory is short.
    init?(_ connection: CInt, hostKey: KeyPair) {
        guard let session = martlet_ssh_accept(connection, hostKey.raw) else { return nil }
        raw = session
        event = ssh_event_new()
        counter.initialize(to: ssh_counter_struct())
        ssh_set_counters(session, counter, nil)
    }

    /// Takes the exchange of keys a step further.
    /// - Returns: SSH_OK once it is done, SSH_AGAIN until then.
    func exchangeKeys() -> CInt {
        let result = ssh_handle_key_exchange(raw)
        // Only now libssh has what an event waits for.
        if result != SSH_ERROR { ssh_event_add_session(event, raw) }
        return result
    }

    deinit {
        ssh_event_remove_session(event, raw)
        ssh_event_free(event)
        ssh_free(raw)
        counter.deallocate()
        scratch.deallocate()
    }

    var descriptor: CInt { ssh_get_fd(raw) }

    /// The client takes no more at present: what is written waits in memory. While that is so nothing but answers is.
    private(set) var isCongested = false

    /// The client asks for much and takes none of the answers: it is not listened to until it does.
    private var isStuck: Bool { counter.pointee.in_bytes - bytesAnswered >= SSHLimit.unansweredBytes }

    /// Something came since `exchange`: libssh reads in most of its functions. So waiting for the socket could be in vain.
    var hasUnseen: Bool { counter.pointee.in_bytes != bytesSeen }

    /// What to wait for on the connection's socket.
    var interest: CInt { (isStuck ? 0 : POLLIN) | (isCongested ? POLLOUT : 0) }

    /// Reads what came and writes what can be, without waiting.
    /// - Parameter writable: the socket takes bytes.
    /// - Returns: false once the connection is closed or broken.
    func exchange(writable: Bool) -> Bool {
        for _ in 0..<SSHLimit.readsPerTurn {
            guard !isStuck || writable else { break }
            let result = ssh_event_dopoll(event, 0)
            if result == SSH_ERROR { return false }
            flush()
            if result == SSH_AGAIN { break }
        }
        bytesSeen = counter.pointee.in_bytes
        return isOpen
    }

    /// Sends a piece on a channel that has room for it.
    /// - Returns: how much is on its way, or nil if the channel is closed.
    func send(_ bytes: UnsafeRawBufferPointer, on channel: ssh_channel, asErrors: Bool = false) -> Int? {
        let count = UInt32(bytes.count)
        let sent =
            asErrors
            ? ssh_channel_write_stderr(channel, bytes.baseAddress, count)
            : ssh_channel_write(channel, bytes.baseAddress, count)
        flush()
        return sent < 0 ? nil : Int(sent)
    }

    /// Reads what the client sent on a channel into `scratch`.
    func receive(from channel: ssh_channel) -> UnsafeRawBufferPointer {
        guard !isStuck, ssh_channel_poll(channel, 0) > 0 else { return UnsafeRawBufferPointer(rebasing: scratch[..<0]) }
        let count = ssh_channel_read_nonblocking(channel, scratch.baseAddress, UInt32(scratch.count), 0)
        return UnsafeRawBufferPointer(rebasing: scratch[..<max(0, Int(count))])
    }

    private func flush() {
        isCongested = ssh_blocking_flush(raw, 0) == SSH_AGAIN
        if !isCongested { bytesAnswered = counter.pointee.in_bytes }
    }

    var isOpen: Bool { ssh_is_connected(raw) != 0 && ssh_get_status(raw) & (SSH_CLOSED | SSH_CLOSED_ERROR) == 0 }

    /// The next message, nil if there is none yet.
    func nextMessage() -> SSHMessage? { isStuck ? nil : ssh_message_get(raw).map { SSHMessage($0) } }

    /// Says goodbye, and waits for nothing.
    func disconnect() { ssh_disconnect(raw) }
}
