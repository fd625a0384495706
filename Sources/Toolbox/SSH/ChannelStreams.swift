import CLibSSH
import Glibc
import NIOCore

/// Moves what a descriptor gives to a channel, as fast as the client takes it.
struct OutboundStream {
    private let file: OpenFile
    private let isErrors: Bool
    /// Of the terminal whose output this is.
    private let recording: Recording?
    private var pending: [UInt8] = []
    /// There is nothing more to read.
    private var atEnd = false

    /// - Parameter file: never blocks.
    init(_ file: OpenFile, isErrors: Bool = false, recording: Recording? = nil) {
        self.file = file
        self.isErrors = isErrors
        self.recording = recording
    }

    /// All has been read and sent.
    var isFinished: Bool { atEnd && pending.isEmpty }

    /// What to wait for: nothing while the client takes no more.
    func interest(_ channel: ssh_channel, _ session: SSHSession) -> pollfd? {
        guard !atEnd, pending.isEmpty, ssh_channel_window_size(channel) > 0, !session.isCongested else { return nil }
        return pollfd(fd: file.descriptor, events: Int16(POLLIN), revents: 0)
    }

    /// Moves what there is, without waiting.
    /// - Returns: whether there may be more for which there was no turn.
    mutating func move(to channel: ssh_channel, _ session: SSHSession) -> Bool {
        for _ in 0..<SSHLimit.piecesPerTurn {
            if !pending.isEmpty {
                let rest = pending
                let sent = rest.withUnsafeBytes { send($0, to: channel, session) }
                pending.removeFirst(sent)
                guard pending.isEmpty else { return false }
            }
            guard !atEnd, !session.isCongested else { return false }
            let window = Int(ssh_channel_window_size(channel))
            guard window > 0 else { return false }
            let count = read(file.descriptor, session.scratch.baseAddress, min(window, session.scratch.count))
            if count < 0 && errno == EINTR { continue }
            if count < 0 && errno == EAGAIN { return false }
            guard count > 0 else {
                atEnd = true  // a terminal that nobody has open any more says EIO
                return false
            }
            let piece = UnsafeRawBufferPointer(rebasing: session.scratch[..<count])
            recording?.output(ByteBuffer(bytes: piece))
            let sent = send(piece, to: channel, session)
            if sent < count { pending = Array(piece[sent...]) }
        }
        return true
    }

    private mutating func send(
        _ bytes: UnsafeRawBufferPointer,
        to channel: ssh_channel,
        _ session: SSHSession
    ) -> Int {
        if let sent = session.send(bytes, on: channel, asErrors: isErrors) { return sent }
        atEnd = true  // the channel is closed: nobody wants the rest
        return bytes.count
    }
}

/// Moves what a client sends on a channel to a descriptor, as fast as that takes it. What comes after the reader is gone is
/// dropped, so that the client is not stopped by it.
struct InboundStream {
    private var file: OpenFile?
    private let isSocket: Bool
    private var pending: ArraySlice<UInt8> = []
    /// Nobody reads what is written.
    private(set) var isBroken = false

    /// - Parameter file: never blocks. A socket's writing is shut down at the end, all else is closed.
    init(_ file: OpenFile, isSocket: Bool = false) {
        self.file = file
        self.isSocket = isSocket
    }

    /// The client has ended its side and all of it is written, or nobody reads it.
    var isFinished: Bool { file == nil }

    /// What to wait for: nothing while there is nothing to write.
    var interest: pollfd? {
        guard let file, !pending.isEmpty else { return nil }
        return pollfd(fd: file.descriptor, events: Int16(POLLOUT), revents: 0)
    }

    /// Moves what there is, without waiting.
    /// - Returns: whether there may be more for which there was no turn.
    mutating func move(from channel: ssh_channel, _ session: SSHSession) -> Bool {
        for _ in 0..<SSHLimit.piecesPerTurn {
            guard flush() else { return false }
            let piece = session.receive(from: channel)
            guard !piece.isEmpty else {
                if ssh_channel_is_eof(channel) != 0 { end() }
                return false
            }
            if !isBroken { pending = Array(piece)[...] }
        }
        return true
    }

    /// Whether nothing is pending any more.
    private mutating func flush() -> Bool {
        guard let file else {
            pending = []
            return true
        }
        while !pending.isEmpty {
            let written = pending.withUnsafeBytes { write(file.descriptor, $0.baseAddress, $0.count) }
            if written < 0 && errno == EINTR { continue }
            if written < 0 && errno == EAGAIN { return false }
            guard written > 0 else {
                isBroken = true
                pending = []
                end()
                return true
            }
            pending = pending.dropFirst(written)
        }
        return true
    }

    private mutating func end() {
        if isSocket, let file { shutdown(file.descriptor, CInt(SHUT_WR)) }
        file = nil
    }
}
