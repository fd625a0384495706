/// A Dockerfile, read as far as it must be judged before a builder runs it.
///
/// The classic builder of the Docker Engine runs it, under limits. What that builder does by itself from the host's own network
/// (`ADD` of a URL, in the file or as a trigger of a base image), and what it does not know, is refused here in words.
package struct Dockerfile: Sendable, Hashable {
    package static let byteLimit = 128 << 10
    package static let instructionLimit = 1000

    /// One instruction, its continued lines joined.
    package struct Instruction: Sendable, Hashable {
        /// Of its first line, from 1.
        package var line: Int { lines.lowerBound }
        /// All of them, also comments between.
        package let lines: ClosedRange<Int>
        /// In upper case.
        package let keyword: String
        package let arguments: String

        /// `--name=value` before everything else.
        package var flags: [Substring] { Array(words.prefix { $0.hasPrefix("--") }) }

        /// What follows the flags.
        package var rest: [Substring] { Array(words.drop { $0.hasPrefix("--") }) }

        private var words: [Substring] { arguments.words() }
    }

    /// Where an image or stage is named: the instruction is `before`, the name, and `after`.
    fileprivate struct Mention: Sendable, Hashable {
        let lines: ClosedRange<Int>
        /// Without variables.
        let name: String
        /// Neither one of the file's own stages nor `scratch`.
        let isImage: Bool
        let before: String
        let after: String
    }

    package let text: String
    package let instructions: [Instruction]
    private let mentions: [Mention]
    /// Everything that is wrong with it, a sentence each; empty if a builder may have it.
    package let problems: [String]

    package init(_ text: String) {
        self.text = text
        guard text.utf8.count <= Self.byteLimit, !text.utf8.contains(0) else {
            let size =
                "is \(text.utf8.count) bytes long, but must have at most \(Self.byteLimit), and no NUL among them"
            (instructions, mentions, problems) = ([], [], [size])
            return
        }
        let instructions = Self.read(text)
        var judge = Judge()
        judge.judgeDirectives(text)
        judge.judgeEnds(of: Self.lines(of: text))
        judge.judge(instructions)
        self.instructions = instructions
        (problems, mentions) = (judge.problems, judge.mentions)
    }

    /// Images that it begins with or copies from, each once, as they are written there; without its own stages and `scratch`.
    package var images: [String] {
        mentions.reduce(into: []) { images, its in
            if its.isImage, !images.contains(its.name) { images.append(its.name) }
        }
    }

    /// The same file, where these images have other names, and nothing that is named has variables: what the builder begins with
    /// and copies from is what was judged here, however it reads the rest. Lines keep their numbers.
    package func text(naming names: [String: String]) -> String {
        var lines = Self.lines(of: text).map { String($0) ?? "" }  // lines of a text are text
        for mention in mentions {
            for line in mention.lines { lines[line - 1] = "" }
            lines[mention.lines.lowerBound - 1] =
                mention.before + (mention.isImage ? names[mention.name] ?? mention.name : mention.name) + mention.after
        }
        return lines.joined(separator: "\n")
    }

    /// The image, if all that the file says is to take this image as it is.
    package var plainImage: String? {
        guard problems.isEmpty, instructions.count == 1, instructions[0].rest.count == 1 else { return nil }
        return images.first
    }

    /// Joins and skips lines exactly as the builder does, or what is judged here would be another file than what is run there.
    /// By bytes: to Swift's characters a newline after a carriage return, or a slash before an accent, is another character.
    private static func read(_ text: String) -> [Instruction] {
        var instructions: [Instruction] = []
        var (pending, start) = ("", 0)
        for (index, bytes) in lines(of: text).enumerated() {
            let line = Substring(bytes.last == UInt8(ascii: "\r") ? bytes.dropLast() : bytes)
            let visible = line.trimmed
            if visible.isEmpty || visible.utf8.first == UInt8(ascii: "#") { continue }
            if pending.isEmpty { start = index + 1 }
            let body = line.utf8.droppingLast { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }
            if body.last == UInt8(ascii: "\\") {
                pending += Substring(body.dropLast())
            } else {
                instructions.append(instruction(pending + line, lines: start...(index + 1)))
                pending = ""
            }
        }
        if !pending.isEmpty { instructions.append(instruction(pending, lines: start...lines(of: text).count)) }
        return instructions
    }

    private static func lines(of text: String) -> [Substring.UTF8View] {
        text[...].utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).map { Substring($0).utf8 }
    }

    private static func instruction(_ text: String, lines: ClosedRange<Int>) -> Instruction {
        let parts = text.words(atMost: 2)
        return Instruction(
            lines: lines,
            keyword: parts.first.map { $0.uppercased() } ?? "",
            arguments: parts.count == 2 ? String(parts[1].trimmed) : ""
        )
    }
}

/// Goes through the instructions once, with what it has to remember of those before.
private struct Judge {
    private static let keywords: Set = [
        "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "RUN",
        "SHELL",
        "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
    ]

    private(set) var problems: [String] = []
    private(set) var mentions: [Dockerfile.Mention] = []
    /// Defaults of ARG before the first FROM.
    private var globals: [String: String] = [:]
    private var stages = 0
    private var stageNames: Set<String> = []

    mutating func judge(_ instructions: [Dockerfile.Instruction]) {
        if instructions.count > Dockerfile.instructionLimit {
            problems.append("has \(instructions.count) instructions; the limit is \(Dockerfile.instructionLimit)")
            return
        }
        for instruction in instructions { judge(instruction) }
        if stages == 0, problems.isEmpty { problems.append("has no FROM, with which a build begins") }
    }

    /// Another escape character would join lines that are apart here.
    mutating func judgeDirectives(_ text: String) {
        let directive = /(?m)^[ \t]*#[ \t]*[Ee][Ss][Cc][Aa][Pp][Ee][ \t]*=/.matchingSemantics(.unicodeScalar)
        if text.contains(directive) {
            problems.append("has the directive 'escape', which is not supported here: use \\ at the end of lines")
        }
    }

    /// Some builders go on in the next line there, and some do not.
    mutating func judgeEnds(of lines: [Substring.UTF8View]) {
        for (index, line) in lines.enumerated() {
            let end = line.droppingLast { " \t\r".utf8.contains($0) }.suffix(2)
            if end.count == 2, end.allSatisfy({ $0 == UInt8(ascii: "\\") }) {
                problems.append(
                    "line \(index + 1): ends in two backslashes, which builders read in different ways: end it with one, or a blank and a quote"
                )
                return
            }
        }
    }

    private mutating func judge(_ its: Dockerfile.Instruction) {
        if stages == 0, its.keyword != "FROM", its.keyword != "ARG", Self.keywords.contains(its.keyword) {
            return complain(its, "stands before the first FROM; only ARG may")
        }
        switch its.keyword {
        case "FROM": judgeFrom(its)
        case "ARG" where stages == 0: takeGlobal(its)
        case "RUN":
            for flag in its.flags.prefix(1) {
                complain(its, "has \(flag), which needs BuildKit; builds here run without")
            }
        case "COPY": judgeCopy(its)
        case "ADD": judgeAdd(its)
        case "ONBUILD": complain(its, "is not supported here: write the instruction where it is needed")
        default:
            if !Self.keywords.contains(its.keyword) {
                complain(its, "is no instruction. (Here-documents need BuildKit; builds here run without)")
            }
        }
    }

    private mutating func complain(_ its: Dockerfile.Instruction, _ problem: String) {
        // One build has one author: a few complaints are enough to begin with.
        guard problems.count < 20 else { return }
        problems.append("line \(its.line): \(its.keyword.prefix(32)) \(problem)")
    }

    private mutating func takeGlobal(_ its: Dockerfile.Instruction) {
        guard let (name, value) = its.arguments.splitOnce("=") else { return }
        globals[String(name)] = value.unquoted
    }

    private mutating func judgeFrom(_ its: Dockerfile.Instruction) {
        stages += 1
        if let flag = its.flags.first {
            return complain(its, "has \(flag); a build is for the architecture of its runner")
        }
        let words = its.rest
        guard its.arguments.utf8.allSatisfy({ $0 < 128 }) else {
            return complain(its, "may have letters, digits and signs of ASCII only")
        }
        guard words.count == 1 || words.count == 3 && words[1].lowercased() == "as" else {
            return complain(its, "must be: FROM image, or FROM image AS name")
        }
        guard let image = expanded(words[0]) else {
            return complain(
                its,
                "names '\(words[0].prefix(80))', of which no ARG before the first FROM gives the value"
            )
        }
        let name = words.count == 3 ? " AS \(words[2])" : ""
        note(image, its, before: "FROM ", after: name)
        if words.count == 3 { stageNames.insert(words[2].lowercased()) }
    }

    private mutating func judgeCopy(_ its: Dockerfile.Instruction) {
        guard areFlagsPlain(its) else { return }
        for flag in its.flags {
            guard let (name, value) = flag.splitOnce("="), ["--from", "--chown"].contains(name) else {
                complain(its, "has \(flag.prefix(80)), which needs BuildKit; builds here run without")
                continue
            }
            guard name == "--from" else { continue }
            if value.contains("$") {
                complain(its, "has --from with a variable; write the stage or image")
            } else if Int(value) == nil {
                let arguments = its.arguments
                note(
                    String(value),
                    its,
                    before: "COPY \(arguments[..<value.startIndex])",
                    after: String(arguments[value.endIndex...])
                )
            }
        }
    }

    /// The engine itself would fetch a URL, from the host's network. Without a colon there is none, and without backslashes
    /// and variables no colon can come about.
    private mutating func judgeAdd(_ its: Dockerfile.Instruction) {
        guard areFlagsPlain(its) else { return }
        for flag in its.flags where !flag.hasPrefix("--chown=") {
            complain(its, "has \(flag.prefix(80)), which needs BuildKit; builds here run without")
        }
        if its.rest.joined(separator: " ").utf8.contains(where: { ":\\$".utf8.contains($0) }) {
            complain(its, "may not have ':', '\\' or '$': what is remote is fetched by RUN with curl, wget or git")
        }
    }

    /// The builder takes quotes and escaped blanks as part of a flag: what are two words here may be one there, or the other way.
    private mutating func areFlagsPlain(_ its: Dockerfile.Instruction) -> Bool {
        guard let flag = its.flags.first(where: { $0.utf8.contains { "\"'\\".utf8.contains($0) } }) else { return true }
        complain(its, "has \(flag.prefix(80)); write flags without quotes and backslashes")
        return false
    }

    private mutating func note(_ name: String, _ its: Dockerfile.Instruction, before: String, after: String) {
        let isImage = name != "scratch" && !stageNames.contains(name.lowercased())
        do {
            if isImage { _ = try ImageName(parsing: name) }
            mentions.append(
                Dockerfile.Mention(lines: its.lines, name: name, isImage: isImage, before: before, after: after)
            )
        } catch {
            complain(its, "names '\(name.prefix(80))', which \(error)")
        }
    }

    /// With `$name` and `${name}` replaced; nil where one has no value, or is of another form.
    private func expanded(_ text: Substring) -> String? {
        var result = ""
        var rest = text
        while let dollar = rest.firstIndex(of: "$") {
            result += rest[..<dollar]
            rest = rest[rest.index(after: dollar)...]
            guard let match = rest.prefixMatch(of: /\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*)/),
                let value = (match.1 ?? match.2).flatMap({ globals[String($0)] })
            else { return nil }
            result += value
            rest = rest[match.range.upperBound...]
        }
        result += rest
        return result.isEmpty ? nil : result
    }
}

extension Substring.UTF8View {
    fileprivate func droppingLast(while predicate: (UInt8) -> Bool) -> Substring.UTF8View {
        lastIndex { !predicate($0) }.map { self[...$0] } ?? self[startIndex..<startIndex]
    }
}

// By scalars, as the builder does: of Swift's characters a blank with an accent is one, and white.
extension StringProtocol where SubSequence == Substring {
    fileprivate var trimmed: Substring {
        let scalars = unicodeScalars
        guard let start = scalars.firstIndex(where: { !$0.properties.isWhitespace }),
            let last = scalars.lastIndex(where: { !$0.properties.isWhitespace })
        else { return self[endIndex...] }
        return self[start..<scalars.index(after: last)]
    }

    /// What stands between white space; the last of `count` with all that follows.
    fileprivate func words(atMost count: Int = .max) -> [Substring] {
        var words: [Substring] = []
        var rest = trimmed
        while !rest.isEmpty {
            let end = rest.unicodeScalars.firstIndex { $0.properties.isWhitespace }
            guard words.count < count - 1, let end else { return words + [rest] }
            words.append(rest[..<end])
            rest = rest[end...].trimmed
        }
        return words
    }
}

extension StringProtocol {
    fileprivate func splitOnce(_ separator: Character) -> (SubSequence, SubSequence)? {
        firstIndex(of: separator).map { (self[..<$0], self[index(after: $0)...]) }
    }

    fileprivate var unquoted: String {
        guard count >= 2, let first, first == "\"" || first == "'", last == first else { return String(self) }
        return String(dropFirst().dropLast())
    }
}
