/// Reads rules as iptables-save prints them.
///
/// It knows the vocabulary of `Rule` and nothing more: a rule with any other word is foreign, hence different from every rule
/// of ours, hence replaced.
enum RuleParser {
    /// The words of a line; a double-quoted part is one word, with backslash escapes.
    static func words(_ line: Substring) -> [String] {
        var words: [String] = []
        var word: [UInt8] = []
        var (isQuoted, isEscaped, hasWord) = (false, false, false)
        for byte in line.utf8 {
            switch byte {
            case _ where isEscaped:
                word.append(byte)
                isEscaped = false
            case UInt8(ascii: "\\") where isQuoted: isEscaped = true
            case UInt8(ascii: "\""):
                isQuoted.toggle()
                hasWord = true
            case UInt8(ascii: " ") where !isQuoted:
                if hasWord { words.append(String(decoding: word, as: UTF8.self)) }
                word.removeAll(keepingCapacity: true)
                hasWord = false
            default:
                word.append(byte)
                hasWord = true
            }
        }
        if hasWord { words.append(String(decoding: word, as: UTF8.self)) }
        return words
    }

    /// The rule in `words` (those after `-A chain`); nil if it is foreign.
    static func rule(_ words: ArraySlice<String>) -> Rule? {
        var rest = words
        var fields = Fields()
        while let option = rest.popFirst() {
            guard let value = rest.popFirst(), fields.take(option, value) else { return nil }
        }
        return fields.rule
    }

    private struct Fields {
        var result = Rule(.drop)
        var hasVerdict = false
        var transport: Rule.Transport?
        var portNumber: UInt16?

        /// False for a word, value or repetition that a rule of ours never has.
        mutating func take(_ option: String, _ value: String) -> Bool {
            switch option {
            case "-s": return set(\.source, try? IPv4Range(parsing: value))
            case "--mac-source": return set(\.hardwareSource, HardwareAddress(parsing: value))
            case "-d": return set(\.destination, try? IPv4Range(parsing: value))
            case "-i": return set(\.inInterface, value)
            case "-o": return set(\.outInterface, value)
            case "--comment": return set(\.comment, value)
            case "-p":
                transport = Rule.Transport(rawValue: value)
                return transport != nil
            case "--dport":
                portNumber = UInt16(value)
                return portNumber != nil
            case "-m": return ["tcp", "udp", "addrtype", "conntrack", "comment", "mac"].contains(value)
            case "--dst-type":
                result.isToHost = true
                return value == "LOCAL"
            case "--ctstate":
                result.isReply = true
                return Set(value.split(separator: ",")) == ["RELATED", "ESTABLISHED"]
            case "-j": return setVerdict(value == "DROP" ? .drop : value == "RETURN" ? .pass : .jump(value))
            case "-g": return setVerdict(.goTo(value))
            default: return false
            }
        }

        private mutating func set<Value>(_ field: WritableKeyPath<Rule, Value?>, _ value: Value?) -> Bool {
            guard result[keyPath: field] == nil, let value else { return false }
            result[keyPath: field] = value
            return true
        }

        private mutating func setVerdict(_ verdict: Rule.Verdict) -> Bool {
            defer { hasVerdict = true }
            result.verdict = verdict
            return !hasVerdict
        }

        var rule: Rule? {
            var rule = result
            switch (transport, portNumber) {
            case (let transport?, let number?): rule.port = Rule.Port(transport: transport, number: number)
            case (nil, nil): break
            case (_?, nil), (nil, _?): return nil
            }
            return hasVerdict ? rule : nil
        }
    }
}
