/// Limits of the code interpreter. A context costs a Python process from its first execution on, about 10 MB.
package enum InterpreterLimit {
    /// Contexts at a time, without the default one. They do not expire: what they hold is what they are for.
    package static let contexts = 32
    /// Executions of one context that wait for their turn.
    package static let waiting = 64
    /// Longest code, in bytes.
    package static let codeBytes = 8 << 20
    /// Longest first message: the code, with its characters escaped, and the variables.
    package static let requestBytes = 2 * codeBytes
    /// Longest wait for a client's first message.
    package static let firstMessage = Duration.seconds(30)
    /// Longest time that Python may take to start.
    package static let start = Duration.seconds(60)
    /// Of an execution that names no timeout.
    package static let defaultTimeout = Duration.seconds(600)
    /// Time between SIGINT and killing.
    package static let interruptGrace = Duration.seconds(2)
    /// What is kept of the output that comes while nothing is executed, in bytes per stream; the oldest goes first.
    package static let leftoverBytes = 64 << 10
    /// Longest line that a worker reports: errors are cut by its script to less than half of this.
    package static let reportBytes = 2 << 20
}
