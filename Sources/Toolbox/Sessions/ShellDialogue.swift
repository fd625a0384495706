/// What a shell tells about a command.
enum ShellReport: Equatable, Sendable {
    /// It has opened the command's streams.
    case began(Int)
    case ended(Int, code: Int)
}

/// The descriptors of the daemon's that a shell opens for a command.
struct ShellDescriptors: Sendable {
    /// The command's text.
    var source: CInt
    /// Nothing is on its standard input if nil.
    var input: CInt?
    var output: CInt
    var errors: CInt
}

/// What is said to a shell so that it runs commands in its own process, in words that zsh, bash, dash and busybox share.
///
/// It reads these lines from its standard input and reports on descriptor 8; a command sees neither, only what the redirections
/// of its line give it. The text is sourced and not evaluated, so that `return` ends the command alone and line numbers
/// are right. `command` keeps an error in it from ending the shell, as that of a special built-in would.
struct ShellDialogue: Sendable {
    /// Longest line that a shell may report; longer ones are no reports.
    static let reportLimitBytes = 64

    private let sourcing: String
    private let daemon: Int32

    /// - Parameters:
    ///   - shell: its path; zsh has another word for "not a function of the user's".
    ///   - daemon: the process whose descriptors the shell opens.
    init(shell: String, daemon: Int32) {
        sourcing = shell.hasSuffix("/zsh") ? "\\builtin ." : "\\command ."
        self.daemon = daemon
    }

    /// What the shell writes outside of commands (traces, traps) comes on one pipe.
    var opening: String { "exec 2>&1\n" }

    /// Runs a command.
    /// - Parameters:
    ///   - number: what the reports name it by.
    ///   - status: what `$?` is at its beginning.
    func run(_ number: Int, after status: Int, _ descriptors: ShellDescriptors) -> String {
        // The outer redirections of nothing but our own words keep `set -x` from showing them.
        let restore = status == 0 ? "" : " (exit \(status & 0xFF));"
        let begin = "{ \\printf 'b \(number)\\n' >&8;\(restore) } 2>/dev/null"
        let source = "\(sourcing) \(path(descriptors.source)) 8>&-"
        let input = descriptors.input.map { path($0) } ?? "/dev/null"
        let streams = "<\(input) >\(path(descriptors.output)) 2>\(path(descriptors.errors))"
        return "{ \(begin); \(source); } \(streams); { \\printf 'e \(number) %s\\n' \"$?\" >&8; } 2>/dev/null\n"
    }

    private func path(_ descriptor: CInt) -> String { "/proc/\(daemon)/fd/\(descriptor)" }

    /// What a line on descriptor 8 means; nil if it is none of ours.
    static func report(_ line: Substring) -> ShellReport? {
        let words = line.split(separator: " ")
        guard words.count >= 2, let number = Int(words[1]) else { return nil }
        switch (words[0], words.count) {
        case ("b", 2): return .began(number)
        case ("e", 3): return Int(words[2]).map { .ended(number, code: $0) }
        default: return nil
        }
    }
}

/// Cuts what comes from a shell into reports.
struct ShellReportParser: Sendable {
    private var line: [UInt8] = []
    private var isTooLong = false

    /// The reports that are completed by some bytes.
    mutating func parse(_ bytes: some Sequence<UInt8>) -> [ShellReport] {
        var reports: [ShellReport] = []
        for byte in bytes {
            if byte == UInt8(ascii: "\n") {
                if !isTooLong, let report = ShellDialogue.report(Substring(String(decoding: line, as: UTF8.self))) {
                    reports.append(report)
                }
                (line, isTooLong) = ([], false)
            } else if line.count < ShellDialogue.reportLimitBytes {
                line.append(byte)
            } else {
                isTooLong = true
            }
        }
        return reports
    }
}
