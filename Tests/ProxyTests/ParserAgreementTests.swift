import Foundation
import NIOCore
import NIOEmbedded
import NIOHTTP1
import Testing

@testable import Proxy

/// The proxy's own parser against llhttp: what it accepts, llhttp accepts too and reads alike. (It accepts less.)
@Suite struct ParserAgreementTests {
    private static let fragments = [
        "GET", "POST", "PUT", "HEAD", " ", "  ", "/", "/a?b=c", "*", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "\r\n", "\n",
        "\r", "\r\n\r\n",
        "Host: x\r\n", "Content-Length: 3\r\n", "Content-Length: 0\r\n", "Content-Length: 3 \r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: Chunked\r\n", "Connection: close\r\n", "X: y\r\n", "X:\r\n", "X : y\r\n", " X: y\r\n",
        "X: \ty\t \r\n", "\u{0}", "\u{7f}",
        "\t", ":", "abc", "3\r\nabc\r\n", "0\r\n\r\n", "3;x=y\r\nabc\r\n", "00\r\n\r\n", "T: a\r\n", "é",
    ]
    /// llhttp knows a list of methods; the proxy passes any token.
    private static let methods = ["GET", "POST", "PUT", "HEAD"]
    private static let seeds = [
        "GET /a HTTP/1.1\r\nHost: x\r\n\r\n", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "PUT /a HTTP/1.0\r\nX: y\r\nX: z\r\nContent-Length: 3\r\n\r\nabc",
    ]

    struct Reading: Equatable {
        var method: String
        var target: String
        var minor: Int
        var fields: [String]
        var body: [UInt8]
    }

    /// A whole message as the proxy reads it; nil where it refuses or wants more.
    private static func ours(_ bytes: ByteBuffer) -> Reading? {
        var rest = bytes
        var search = HeadSearch()
        guard let length = search.length(in: rest), let headBytes = rest.readSlice(length: length),
            let head = try? RequestHead(headBytes, limits: ProxyLimits())
        else { return nil }
        var scanner = BodyScanner(head.framing, allowsTrailers: false)
        var body: [UInt8] = []
        guard
            let taken = try? rest.withScanned(
                &scanner,
                visit: { body += Array(rest.getBytes(at: rest.readerIndex + $0.lowerBound, length: $0.count)!) }
            ),
            scanner.isComplete, taken == rest.readableBytes
        else { return nil }
        let fields = head.fields.list.map { head.text($0.name) + "=" + head.text($0.value) }
        return Reading(
            method: head.text(head.method),
            target: head.text(head.target),
            minor: head.minorVersion,
            fields: fields,
            body: body
        )
    }

    private static func llhttp(_ bytes: ByteBuffer) -> Reading? {
        let channel = EmbeddedChannel(
            handler: ByteToMessageHandler(HTTPRequestDecoder(leftOverBytesStrategy: .dropBytes))
        )
        defer { _ = try? channel.finish(acceptAlreadyClosed: true) }
        guard (try? channel.writeInbound(bytes)) != nil else { return nil }
        var reading: Reading?
        while let part = try? channel.readInbound(as: HTTPServerRequestPart.self) {
            switch part {
            case .head(let head):
                guard reading == nil else { return nil }
                reading = Reading(
                    method: head.method.rawValue,
                    target: head.uri,
                    minor: head.version.minor,
                    // llhttp leaves white space behind a value.
                    fields: head.headers.map { "\($0.name)=\($0.value.trimmingCharacters(in: .whitespaces))" },
                    body: []
                )
            case .body(let data): reading?.body += Array(data.readableBytesView)
            case .end: return reading
            }
        }
        return nil
    }

    @Test func whatWeAcceptIsReadAlikeByAnother() throws {
        let seed = ProcessInfo.processInfo.environment["SEED"].flatMap(UInt64.init) ?? .random(in: .min ... .max)
        print("SEED=\(seed)")
        var random = SplitMix(state: seed)
        var accepted = 0
        for _ in 0..<20_000 {
            var text = Array(Self.seeds.randomElement(using: &random)!.utf8)
            for _ in 0..<Int.random(in: 0...3, using: &random) {
                let place = Int.random(in: 0...text.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: text.insert(contentsOf: Array(Self.fragments.randomElement(using: &random)!.utf8), at: place)
                case 1: if place < text.count { text.remove(at: place) }
                default: if place < text.count { text[place] = UInt8.random(in: .min ... .max, using: &random) }
                }
            }
            guard let reading = Self.ours(ByteBuffer(bytes: text)), Self.methods.contains(reading.method) else {
                continue
            }
            accepted += 1
            #expect(
                Self.llhttp(ByteBuffer(bytes: text)) == reading,
                "SEED=\(seed): \(String(decoding: text, as: UTF8.self).debugDescription)"
            )
        }
        #expect(accepted > 2_000)
    }

    @Test func piecesAreReadLikeTheWhole() throws {
        for seed in Self.seeds {
            let whole = try #require(Self.ours(ByteBuffer(string: seed)))
            for cut in 0...seed.utf8.count {
                var search = HeadSearch()
                var bytes = ByteBuffer(bytes: Array(seed.utf8).prefix(cut))
                let early = search.length(in: bytes)
                bytes.writeBytes(Array(seed.utf8).dropFirst(cut))
                let length = try #require(early ?? search.length(in: bytes))
                var rest = bytes
                let head = try RequestHead(rest.readSlice(length: length)!, limits: ProxyLimits())
                var scanner = BodyScanner(head.framing, allowsTrailers: false)
                var body: [UInt8] = []
                for byte in rest.readableBytesView {
                    let one = ByteBuffer(bytes: [byte])
                    _ = try one.withScanned(&scanner) { if !$0.isEmpty { body.append(byte) } }
                }
                #expect(scanner.isComplete && body == whole.body)
            }
        }
    }
}

/// A small generator that can be repeated.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }
}
