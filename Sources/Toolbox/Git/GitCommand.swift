package import NIOCore

/// One run of git. Options can only come from our own source: they are `StaticString`s. What a request said is a checked
/// `GitOperand`, and goes behind `--` or behind an option's `=`.
package struct GitCommand: Sendable {
    private var settings: [String] = []
    private var words: [String]
    private var operands: [String]?
    /// What git reads on its standard input.
    package var input = ByteBuffer()
    /// Variables of this run only.
    package var variables: [String: String] = [:]

    package init(_ name: StaticString, _ options: StaticString...) {
        words = [name.description] + options.map(\.description)
    }

    /// Everything behind `git`.
    package var arguments: [String] {
        // Names of files are names: `*` and `:(exclude)` mean nothing in them.
        settings + ["--literal-pathspecs"] + words + (operands.map { ["--"] + $0 } ?? [])
    }

    /// For error messages: `git push`.
    package var title: String { "git \(words[0])" }

    package mutating func add(_ option: StaticString) {
        words.append(option.description)
    }

    package mutating func add(_ option: StaticString, _ value: some GitOperand) {
        words.append("\(option)=\(value.operand)")
    }

    package mutating func add(_ option: StaticString, _ value: Int) {
        words.append("\(option)=\(value)")
    }

    /// A revision, which must stand before the `--`.
    package mutating func add(revision: some GitPlainOperand) {
        words.append(revision.operand)
    }

    /// Ends the options: what follows, perhaps nothing, is never taken for one.
    package mutating func addOperands(_ values: any GitOperand...) {
        operands = (operands ?? []) + values.map(\.operand)
    }

    /// Paths by standard input, since there may be more of them than arguments have room for.
    package mutating func add(paths: [String]) {
        words += ["--pathspec-from-file=-", "--pathspec-file-nul"]
        for path in paths {
            input.writeString(path)
            input.writeInteger(UInt8(0))
        }
    }

    /// A setting for this run only. It is visible in the list of processes: no secrets.
    package mutating func set(_ key: String, to value: String) {
        settings += ["-c", "\(key)=\(value)"]
    }
}
