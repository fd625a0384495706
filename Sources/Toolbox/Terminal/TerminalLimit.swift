/// Limits of terminals.
package enum TerminalLimit {
    /// Terminals at a time.
    package static let sessions = 256
    /// Clients of one terminal at a time.
    package static let clients = 32
    /// Columns, and rows.
    package static let size = 1...1000
    package static let idBytes = 128
    /// Newest output that is kept of each terminal, in bytes: what a client that comes later is shown, and how far a client
    /// may be behind before the program waits for it.
    package static let historyBytes = 256 << 10
    /// Most output that a client gets in one message.
    package static let pieceBytes = 32 << 10
    /// Input that a program has not read yet, in bytes; what comes beyond is dropped, as a terminal does.
    package static let inputBytes = 1 << 20
    /// Longest message that a client may send.
    package static let messageBytes = 4 << 20
    /// How long a program waits for a client that does not take its output, each time; then the client misses some.
    package static let patience = Duration.seconds(30)
    /// The same while others of the terminal's clients keep up.
    package static let patienceAmongOthers = Duration.seconds(2)
    /// After the shell's end its last output is read until none came for so long; what it left running may hold the terminal.
    package static let quiet = Duration.milliseconds(100)
    /// Ids of ended terminals that are remembered, to tell "ended" from "never was".
    package static let remembered = 256
}
