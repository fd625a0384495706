/// Limits of the SSH server.
package enum SSHLimit {
    /// Connections at a time, each of which has a thread; more are closed at once.
    package static let connections = 64
    /// Channels of a connection, those included that are being opened: sessions and forwarded connections.
    package static let channels = 256
    /// Ports that a connection may have forwarded to its client.
    package static let listeners = 32
    /// Keys that are refused before the connection is closed.
    package static let attempts = 6
    /// Time from the connection to a key that is accepted.
    package static let login = Duration.seconds(60)
    /// Time that connecting to a forwarded address may take, with the look-up of its name.
    package static let connecting = Duration.seconds(30)
    /// Look-ups of names at a time in one connection, each of which has a thread.
    package static let lookups = 16
    /// Variables that a session's client may set, and their bytes together.
    package static let variables = 256
    package static let variableBytes = 64 << 10
    /// Signals of a client that are kept until its channel has its turn; more are dropped, as the kernel would.
    package static let pendingSignals = 64
    /// Time between hanging up on programs whose client is gone, and killing them.
    package static let hangUpGrace = Duration.seconds(1)
    /// Time that the output of a terminal may still take to appear after its program ended.
    package static let terminalDrain = Duration.milliseconds(500)
    /// Keys that may be authorised at a time.
    package static let keys = 256
    /// Longest line of a key, in bytes.
    package static let keyBytes = 16 << 10
    /// Longest that a key may be authorised for, in seconds: 30 days.
    package static let keySeconds = 30 * 24 * 3600
    /// Bytes moved at a time between a channel and a descriptor.
    package static let pieceBytes = 32 << 10
    /// Pieces that one stream may move before the others have their turn.
    package static let piecesPerTurn = 8
    /// Reads of the connection, of 4 KiB each, before the channels have their turn.
    package static let readsPerTurn = 64
    /// Bytes that are read of a client that does not take the answers.
    package static let unansweredBytes = 4 << 20
    /// Stack of the thread that looks up a name.
    package static let lookupStackBytes = 256 << 10
}

/// Limits of file transfer.
package enum SFTPLimit {
    /// Files and directories that a session may have open.
    package static let handles = 256
    /// Longest packet in either direction, as OpenSSH's.
    package static let packetBytes = 256 << 10
    /// Most that one read or write moves.
    package static let dataBytes = packetBytes - 1024
    /// Answers that wait for the client; no request is begun while there are more.
    package static let answerBytes = 256 << 10
    /// Entries of a directory in one answer.
    package static let entries = 100
}
