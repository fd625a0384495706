/// Longest glob pattern, in bytes.
package let globLimitBytes = 1024

/// A pattern for file names: `*` any run, `?` one character, `[a-z]` and `[!a-z]` sets, `\` takes the next literally.
/// Matching remembers only the last `*`, so its time is at most name times pattern, whatever they are.
package struct Glob: Sendable {
    private enum Token: Sendable {
        case any
        case one
        case literal(Character)
        case set([ClosedRange<Character>], negated: Bool)
    }

    private let tokens: [Token]

    /// - Throws: 400 for a pattern that is too long or a set that is not closed.
    package init(_ pattern: String) throws {
        guard pattern.utf8.count <= globLimitBytes else {
            throw ToolboxError.badRequest(
                "the pattern is \(pattern.utf8.count) bytes long, the limit is \(globLimitBytes)"
            )
        }
        var tokens: [Token] = []
        var rest = Substring(pattern)
        while let character = rest.popFirst() {
            switch character {
            case "*": tokens.append(.any)
            case "?": tokens.append(.one)
            case "[": tokens.append(try Self.readSet(&rest, of: pattern))
            case "\\": tokens.append(.literal(rest.popFirst() ?? "\\"))
            default: tokens.append(.literal(character))
            }
        }
        self.tokens = tokens
    }

    /// Whether the whole name fits.
    package func matches(_ name: String) -> Bool {
        let name = Array(name)
        var (at, token) = (0, 0)
        var lastAny: (token: Int, at: Int)?
        while at < name.count {
            if token < tokens.count, case .any = tokens[token] {
                lastAny = (token, at)
                token += 1
            } else if token < tokens.count, fits(tokens[token], name[at]) {
                at += 1
                token += 1
            } else if let (anyToken, anyAt) = lastAny {
                lastAny = (anyToken, anyAt + 1)
                at = anyAt + 1
                token = anyToken + 1
            } else {
                return false
            }
        }
        return tokens[token...].allSatisfy { if case .any = $0 { true } else { false } }
    }

    private func fits(_ token: Token, _ character: Character) -> Bool {
        switch token {
        case .any: false
        case .one: true
        case .literal(let wanted): wanted == character
        case .set(let ranges, let negated): ranges.contains { $0.contains(character) } != negated
        }
    }

    private static func readSet(_ rest: inout Substring, of pattern: String) throws -> Token {
        let negated = rest.first == "!" || rest.first == "^"
        if negated { rest.removeFirst() }
        var ranges: [ClosedRange<Character>] = []
        var first = true
        while let character = rest.popFirst() {
            if character == "]" && !first { return .set(ranges, negated: negated) }
            first = false
            let low = character == "\\" ? rest.popFirst() ?? "\\" : character
            var high = low
            if rest.first == "-", let end = rest.dropFirst().first, end != "]" {
                rest.removeFirst(2)
                high = end
            }
            if low <= high { ranges.append(low...high) }
        }
        throw ToolboxError.badRequest("the pattern '\(pattern)' has a '[' without ']'")
    }
}
