import NIOCore
import Testing

@testable import Toolbox

@Suite("Parsing")
struct ParsingTests {
    @Test("However a multipart body is cut, the same parts come out")
    func anyCutting() throws {
        var random = SeededGenerator()
        for _ in 0..<400 {
            let (text, expected) = makeForm(&random)
            var parser = MultipartParser(boundary: "b-b")
            var events: [MultipartParser.Event] = []
            var rest = Array(text.utf8)[...]
            while !rest.isEmpty {
                let count = Int.random(in: 1...min(rest.count, 9), using: &random)
                events += try parser.take(ByteBuffer(bytes: rest.prefix(count)))
                rest = rest.dropFirst(count)
            }
            try parser.finish()
            #expect(join(events) == expected, "seed \(random.seed): \(text.debugDescription)")
        }
    }

    /// Contents are made of the delimiter's own pieces, which are the hard ones.
    private func makeForm(_ random: inout SeededGenerator) -> (String, JoinedParts) {
        var text = ["", "preamble\r\n"].randomElement(using: &random) ?? ""
        var expected = JoinedParts(ended: true)
        for number in 0..<Int.random(in: 0...4, using: &random) {
            let pieces = ["\r\n", "--", "b-b", "\r", "\n", "-", "\r\n--b-", "x", "\r\n--b"]
            let content = (0..<Int.random(in: 0...6, using: &random)).map { _ in
                pieces.randomElement(using: &random) ?? ""
            }.joined()
            if "\r\n\(content)\r\n--b-b".dropLast(2).contains("\r\n--b-b") && content.contains("\r\n--b-b") { continue }
            text +=
                "--b-b\(["", " \t"].randomElement(using: &random) ?? "")\r\nX: y\r\nContent-Disposition: form-data; name=\"n\(number)\"\r\n\r\n\(content)\r\n"
            expected.names.append("n\(number)")
            expected.contents.append(content)
        }
        return (text + "--b-b--\r\nepilogue", expected)
    }

    @Test("No bytes make the parser trap, and its memory stays bounded")
    func garbage() {
        var random = SeededGenerator()
        for _ in 0..<500 {
            var parser = MultipartParser(boundary: "b")
            for _ in 0..<20 {
                let alphabet = Array("\r\n-b: ;=\"\\name".utf8) + [0, 255]
                let bytes = (0..<Int.random(in: 0...40, using: &random)).map { _ in
                    alphabet.randomElement(using: &random) ?? 0
                }
                guard (try? parser.take(ByteBuffer(bytes: bytes))) != nil else { break }
            }
        }
        _ = parseHeaderValue(";;=;\"")
    }

    @Test("Headers that never end and too many parts are refused")
    func multipartLimits() throws {
        var long = MultipartParser(boundary: "b")
        #expect(throws: MultipartError.self) {
            _ = try long.take(ByteBuffer(string: "--b\r\n"))
            for _ in 0..<100 { _ = try long.take(ByteBuffer(repeating: UInt8(ascii: "x"), count: 1000)) }
        }
        var many = MultipartParser(boundary: "b")
        #expect(throws: MultipartError.self) {
            for _ in 0...MultipartLimit.parts { _ = try many.take(ByteBuffer(string: "--b\r\n\r\n\r\n\r\n")) }
        }
        #expect(throws: MultipartError.self) {
            _ = try MultipartParser.boundary(ofContentType: "text/plain; boundary=x")
        }
        #expect(
            try MultipartParser.boundary(ofContentType: "Multipart/Form-Data; charset=utf-8; boundary=\"a;b\"") == "a;b"
        )
    }

    @Test("Globs agree with the obvious recursion")
    func globModel() throws {
        var random = SeededGenerator()
        let (patternLetters, nameLetters) = (["*", "?", "a", "b", "[ab]", "[!a]", "*", "\\*"], ["a", "b", "c", "*"])
        for _ in 0..<5000 {
            let tokens = (0..<Int.random(in: 0...6, using: &random)).map { _ in
                patternLetters.randomElement(using: &random) ?? ""
            }
            let name = (0..<Int.random(in: 0...7, using: &random)).map { _ in
                nameLetters.randomElement(using: &random) ?? ""
            }.joined()
            let matches = try Glob(tokens.joined()).matches(name)
            #expect(
                matches == recursiveMatch(tokens[...], name[...]),
                "seed \(random.seed): \(tokens.joined()) on \(name)"
            )
        }
    }

    private func recursiveMatch(_ tokens: ArraySlice<String>, _ name: Substring) -> Bool {
        guard let token = tokens.first else { return name.isEmpty }
        if token == "*" {
            return recursiveMatch(tokens.dropFirst(), name)
                || (!name.isEmpty && recursiveMatch(tokens, name.dropFirst()))
        }
        guard let first = name.first else { return false }
        let fits =
            switch token {
            case "?": true
            case "[ab]": first == "a" || first == "b"
            case "[!a]": first != "a"
            case "\\*": first == "*"
            default: token == String(first)
            }
        return fits && recursiveMatch(tokens.dropFirst(), name.dropFirst())
    }

    @Test("A glob made to be slow is not", .timeLimit(.minutes(5)))
    func globTime() throws {
        let glob = try Glob(String(repeating: "*a", count: 100) + "*b")
        for _ in 0..<100 { #expect(!glob.matches(String(repeating: "a", count: 255))) }
        #expect(throws: ToolboxError.self) { _ = try Glob(String(repeating: "a", count: globLimitBytes + 1)) }
    }

    @Test("Query strings are form-encoded; broken escapes stay as they are")
    func query() throws {
        let query = QueryParameters("a=1+2%2B&b=%zz%4&a=9&c&%C3%B6=%FF&flag=true")
        #expect(query["a"] == "1 2+" && query["b"] == "%zz%4" && query["c"] == "" && query["ö"] == "\u{FFFD}")
        #expect(try query.flag("flag"))
        #expect(throws: ToolboxError.self) { _ = try query.flag("a") }
        #expect(throws: ToolboxError.self) { _ = try query.required("c") }
        #expect(throws: ToolboxError.self) { _ = try query.number("b", in: 0...9) }
    }

    @Test("Accounts are read as the C library would, first of equals first")
    func accounts() {
        let accounts = Accounts(
            passwd:
                "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/toor:/bin/sh\n\nbad:line\nme:x:1000:1000:Me:/home/me:/bin/zsh",
            group: "root:x:0:\nusers:x:100:me\n"
        )
        #expect(accounts.userName(0) == "root" && accounts.userID("toor") == 0 && accounts.userName(7) == "7")
        #expect(accounts.groupID("users") == 100 && accounts.groupID("55") == 55 && accounts.groupID("none") == nil)
        #expect(accounts.home(of: 1000) == "/home/me" && accounts.home(of: 5) == nil)
    }

    @Test("The parent of a path", arguments: [("/a/b", "/a"), ("/a", "/"), ("/", "/"), ("/a//b//", "/a"), ("a", ".")])
    func parent(path: String, parent: String) {
        #expect(parentPath(path) == parent)
    }
}
