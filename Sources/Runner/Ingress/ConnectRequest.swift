import Domain
import NIOCore

/// One CONNECT, parsed strictly: there is one way to write it, and every other is refused.
struct ConnectRequest: Equatable {
    var sandbox: SandboxID
    var port: Int
    var epoch: Int
    var token: TunnelGrant

    /// The head's length with its empty line, or nil while it is not complete.
    static func headLength(in bytes: ByteBufferView) -> Int? {
        let end: [UInt8] = [13, 10, 13, 10]
        guard bytes.count >= end.count else { return nil }
        for start in bytes.startIndex...(bytes.endIndex - end.count) where bytes[start] == 13 {
            if bytes[start..<(start + end.count)].elementsEqual(end) { return start + end.count - bytes.startIndex }
        }
        return nil
    }

    /// Parses a complete head. Throws `IngressRefusal.malformed`, or `.badToken` where the credential is missing.
    init(head: String) throws {
        var lines = head.split(separator: "\r\n", omittingEmptySubsequences: false)[...]
        guard let requestLine = lines.popFirst() else { throw IngressRefusal.malformed("no request line") }
        let authority = try Self.authority(of: requestLine)
        (sandbox, port) = try Self.parse(authority: authority)
        let fields = try Self.fields(in: lines)
        guard fields["host"].map({ $0 == authority }) ?? false else {
            throw IngressRefusal.malformed("Host is not the CONNECT authority")
        }
        guard let epoch = fields["x-martlet-epoch"].flatMap({ CanonicalInteger.parse($0) }) else {
            throw IngressRefusal.malformed("X-Martlet-Epoch is not a canonical integer")
        }
        self.epoch = epoch
        guard let token = fields["proxy-authorization"].flatMap(TunnelGrant.init(field:)) else {
            throw IngressRefusal.badToken
        }
        self.token = token
    }

    private static func authority(of line: Substring) throws -> Substring {
        let words = line.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 3, words[0] == "CONNECT", words[2] == "HTTP/1.1" else {
            throw IngressRefusal.malformed("only CONNECT over HTTP/1.1 is served")
        }
        return words[1]
    }

    private static func parse(authority: Substring) throws -> (SandboxID, Int) {
        let parts = authority.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let sandbox = SandboxID(parts[0]) else {
            throw IngressRefusal.malformed("the authority is not <sandbox id>:<port>")
        }
        guard let port = CanonicalInteger.parse(parts[1]), (1...65535).contains(port) else {
            throw IngressRefusal.malformed("the port is not a canonical integer of 1 to 65535")
        }
        return (sandbox, port)
    }

    /// The fields by lower-case name. A name twice, an unknown shape or a control character refuses the whole.
    private static func fields(in lines: ArraySlice<Substring>) throws -> [String: Substring] {
        var fields: [String: Substring] = [:]
        for line in lines where !line.isEmpty {
            guard let colon = line.firstIndex(of: ":"), colon > line.startIndex,
                line.utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7f })
            else { throw IngressRefusal.malformed("a header field has no name or holds control characters") }
            let name = line[..<colon].lowercased()
            guard !name.contains(" ") else { throw IngressRefusal.malformed("a header name holds a space") }
            let value = line[line.index(after: colon)...].drop { $0 == " " }
            guard fields.updateValue(value, forKey: name) == nil else {
                throw IngressRefusal.malformed("a header field is given twice")
            }
        }
        return fields
    }
}

/// Decimal digits with one spelling for each number: no sign, no leading zero, no other digits than ASCII's.
enum CanonicalInteger {
    static func parse(_ text: Substring) -> Int? {
        guard (1...18).contains(text.utf8.count), text.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
        guard text.utf8.first != 48 || text.utf8.count == 1 else { return nil }
        return Int(text)
    }
}
