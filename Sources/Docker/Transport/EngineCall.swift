import AsyncHTTPClient
import NIOHTTP1

/// One request to the engine, before the version prefix is known.
struct EngineCall: Sendable {
    enum Body: Sendable {
        case none
        case json(JSONValue)
        case tar(HTTPClientRequest.Body)
    }

    /// In words, with its subject; becomes `DockerError.operation`.
    let operation: String
    let method: HTTPMethod
    /// Path below the version prefix, each segment already encoded.
    let path: String
    var body: Body = .none
    var headers: [(String, String)] = []

    /// Every dynamic part is percent-encoded here, so an identifier can never become another path or a query.
    init(
        _ operation: String,
        _ method: HTTPMethod,
        _ segments: [String],
        query: [(String, String)] = [],
        body: Body = .none,
        headers: [(String, String)] = []
    ) throws {
        for segment in segments { try Self.check(segment, operation) }
        self.operation = operation
        self.method = method
        self.body = body
        self.headers = headers
        let path = segments.map { "/" + percentEncoded($0) }.joined()
        let pairs = query.map { percentEncoded($0.0) + "=" + percentEncoded($0.1) }
        self.path = pairs.isEmpty ? path : path + "?" + pairs.joined(separator: "&")
    }

    /// The engine decodes and then cleans paths, so `..` is refused here rather than encoded.
    private static func check(_ segment: String, _ operation: String) throws {
        let parts = segment.split(separator: "/", omittingEmptySubsequences: false)
        let isClean = parts.allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." }
        let isPlain = segment.utf8.allSatisfy(isReferenceByte)
        guard isClean, isPlain, segment.utf8.count <= referenceBytesLimit else {
            throw DockerError.refused(
                operation: operation,
                "'\(segment.prefix(80))' is no identifier or reference of at most \(referenceBytesLimit) of the characters A-Za-z0-9._:/@-"
            )
        }
    }

    private static func isReferenceByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: "._:/@-".utf8.contains(byte)
        }
    }
}

/// An image reference is at most 255 bytes of name, a tag of 128 and a digest of 71.
private let referenceBytesLimit = 512

/// Encodes everything but RFC 3986's unreserved characters.
func percentEncoded(_ text: String) -> String {
    let digits = Array("0123456789ABCDEF".utf8)
    var bytes: [UInt8] = []
    for byte in text.utf8 {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"):
            bytes.append(byte)
        default:
            bytes += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
        }
    }
    return String(decoding: bytes, as: UTF8.self)
}
