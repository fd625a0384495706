import Testing

@testable import Runner

/// Build contexts are hostile: what of them reaches the engine's builder, and what does not.
@Suite struct ArchiveFilterTests {
    private static let end = ArchiveFilter.ending

    /// An archive of these entries.
    private func archive(_ entries: [(TarHeader, [UInt8])], ending: [UInt8] = end) -> [UInt8] {
        entries.flatMap { header, content in
            header.block + content + [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
        } + ending
    }

    private func file(_ name: String, _ text: String = "content") -> (TarHeader, [UInt8]) {
        let content = Array(text.utf8)
        return (TarHeader(name: Array(name.utf8), kind: .file, mode: 0o100644, bytes: content.count), content)
    }

    private func other(_ kind: TarHeader.Kind, _ name: String, link: String = "") -> (TarHeader, [UInt8]) {
        (TarHeader(name: Array(name.utf8), kind: kind, mode: 0o4755, bytes: 0, linkName: Array(link.utf8)), [])
    }

    private func records(_ pairs: [(String, String)]) -> (TarHeader, [UInt8]) {
        let content = pairs.flatMap { key, value -> [UInt8] in
            let rest = " \(key)=\(value)\n"
            var length = rest.utf8.count
            while "\(length)\(rest)".utf8.count != length { length = "\(length)\(rest)".utf8.count }
            return Array("\(length)\(rest)".utf8)
        }
        return (TarHeader(name: Array("x".utf8), kind: .extended, mode: 0, bytes: content.count), content)
    }

    private func filtered(_ archives: [[UInt8]], chunk: Int = .max, limits: ArchiveLimits = ArchiveLimits()) throws
        -> [UInt8]
    {
        var filter = ArchiveFilter(limits: limits, reserved: "ours")
        var output: [UInt8] = []
        for archive in archives {
            var rest = archive[...]
            while !rest.isEmpty {
                output += try filter.take(Array(rest.prefix(chunk)))
                rest = rest.dropFirst(chunk)
            }
            try filter.endArchive()
        }
        return output
    }

    /// What a tar says, read with the same header but nothing else of the filter.
    private func listing(_ tar: [UInt8]) throws -> [String] {
        var (rest, lines) = (tar[...], [String]())
        while rest.count >= 512, let header = try TarHeader(reading: Array(rest.prefix(512))) {
            let content = rest.dropFirst(512).prefix(header.bytes)
            lines.append(
                [
                    String(decoding: header.name, as: UTF8.self), "\(header.kind)", String(header.mode, radix: 8),
                    String(decoding: header.linkName, as: UTF8.self), String(decoding: content, as: UTF8.self),
                ].joined(separator: "|")
            )
            rest = rest.dropFirst(512 + (header.bytes + 511) / 512 * 512)
        }
        return lines
    }

    @Test(arguments: [1, 7, 511, 512, 513, 4096, .max])
    func copiesFilesFoldersAndLinksHoweverTheyArrive(chunk: Int) throws {
        let first = archive([
            other(.directory, "ctx/"), file("ctx/a.txt", String(repeating: "x", count: 700)), file("./ctx//b", ""),
            other(.symbolicLink, "ctx/l", link: "../ctx/a.txt"), other(.hardLink, "ctx/h", link: "ctx/a.txt"),
        ])
        let output = try filtered([first, archive([file("second")])], chunk: chunk)
        #expect(
            try listing(output) == [
                "ctx|directory|755||", "ctx/a.txt|file|644||\(String(repeating: "x", count: 700))", "ctx/b|file|644||",
                "ctx/l|symbolicLink|755|../ctx/a.txt|", "ctx/h|hardLink|755|ctx/a.txt|", "second|file|644||content",
            ]
        )
        #expect(output.count.isMultiple(of: 512))
    }

    @Test func longNamesComeThrough() throws {
        let name = Array(repeating: "folder-with-a-name", count: 8).joined(separator: "/") + "/ö"
        let archives = [
            archive([records([("path", name), ("mtime", "1.5")]), file("short")]),
            archive([
                (TarHeader(name: [], kind: .longName, mode: 0, bytes: name.utf8.count + 3), Array("\(name)-2\0".utf8)),
                file("short"),
            ]),
        ]
        let lines = try listing(try filtered(archives, chunk: 100))
        #expect(lines.count == 4)
        #expect(lines[0].contains("path=\(name)\n"))
        #expect(lines[2].contains("path=\(name)-2\n"))
        #expect(lines[3] == "long|file|644||content")
    }

    @Test func whatLeadsOutIsRefused() {
        let hostile: [(String, [(TarHeader, [UInt8])])] = [
            ("leads out", [file("../x")]), ("leads out", [file("a/../../x")]), ("absolute", [file("/etc/passwd")]),
            ("leads out", [records([("path", "../x")]), file("x")]),
            ("leads out", [other(.symbolicLink, "l", link: "..")]),
            ("leads out", [other(.symbolicLink, "l", link: "/etc")]),
            ("leads out", [other(.symbolicLink, "l", link: "a/../../b")]),
            ("leads out", [records([("linkpath", "/etc")]), other(.symbolicLink, "l", link: "a")]),
            ("below 'l'", [other(.symbolicLink, "l", link: "a"), file("l/x")]),
            ("below 'f'", [file("f"), file("f/x")]), ("no file before it", [other(.hardLink, "h", link: "nothing")]),
            ("no file before it", [other(.symbolicLink, "l", link: "a"), other(.hardLink, "h", link: "l")]),
            ("twice", [other(.symbolicLink, "l", link: "a"), file("l")]),
            ("twice", [file("l"), other(.symbolicLink, "l", link: "a")]),
            ("devices", [other(.other(UInt8(ascii: "3")), "null")]),
            ("devices", [other(.other(UInt8(ascii: "6")), "pipe")]),
            ("devices", [other(.other(UInt8(ascii: "S")), "sparse")]),
            ("sparse", [records([("GNU.sparse.major", "1")]), file("x")]),
            ("broken attributes", [(TarHeader(name: [], kind: .extended, mode: 0, bytes: 4), Array("9 x=".utf8))]),
            ("no number", [records([("size", "-1")]), file("x")]), ("without a name", [file(".")]),
            (
                "no file",
                [
                    (TarHeader(name: Array("d".utf8), kind: .directory, mode: 0, bytes: 3), Array("abc".utf8))
                ]
            ),
            ("64 folders", [records([("path", Array(repeating: "d", count: 65).joined(separator: "/"))]), file("x")]),
            ("where the Dockerfile itself is", [file("ours")]),
            ("where the Dockerfile itself is", [file("a"), file("./ours")]),
            ("where the Dockerfile itself is", [other(.directory, "ours/")]), ("below 'ours'", [file("ours/x")]),
            ("where the Dockerfile itself is", [other(.symbolicLink, "ours", link: "a")]),
            ("no file before it", [other(.hardLink, "h", link: "ours")]),
            ("holds more", [file("a"), records([("size", "\(Int.max)")]), file("b")]),
            ("UTF-8", [(TarHeader(name: [0xff], kind: .file, mode: 0, bytes: 0), [])]),
        ]
        for (words, entries) in hostile {
            do {
                _ = try filtered([archive(entries)])
                Issue.record("taken: \(words)")
            } catch {
                #expect("\(error)".contains(words), "\(error)")
            }
        }
    }

    @Test func whatIsNoArchiveOrNotWholeIsRefused() {
        let whole = archive([file("a", String(repeating: "x", count: 2000))], ending: [])
        for cut in [1, 511, 600, 2000, whole.count - 1] {
            #expect(throws: ArchiveProblem.self) { try filtered([Array(whole.prefix(cut))]) }
        }
        #expect(throws: ArchiveProblem.self) { try filtered([[UInt8](repeating: 65, count: 1024)]) }
        var damaged = whole
        damaged[3] ^= 1
        #expect(throws: ArchiveProblem.self) { try filtered([damaged]) }
        #expect(throws: Never.self) { try filtered([[], whole, Self.end]) }
    }

    @Test func isBounded() {
        var limits = ArchiveLimits()
        limits.entries = 3
        limits.bytes = 1 << 20
        #expect(throws: ArchiveProblem.self) { try filtered([archive((0..<4).map { file("f\($0)") })], limits: limits) }
        let large = String(repeating: "x", count: 600_000)
        #expect(throws: ArchiveProblem.self) {
            try filtered([archive([file("a", large)]), archive([file("b", large)])], limits: limits)
        }
        let claims = TarHeader(name: Array("a".utf8), kind: .file, mode: 0, bytes: 0o7777777777)
        #expect(throws: ArchiveProblem.self) { try filtered([claims.block], limits: limits) }
        let attributes = TarHeader(name: [], kind: .extended, mode: 0, bytes: 1 << 20)
        #expect(throws: ArchiveProblem.self) { try filtered([attributes.block], limits: limits) }
    }

    /// Random bytes, and archives with random damage: an answer or a refusal, never a trap.
    @Test func survivesNoise() {
        let whole = archive([
            file("a"), other(.directory, "d"), records([("path", "long/name")]),
            file("b", String(repeating: "y", count: 900)),
        ])
        var random = SystemRandomNumberGenerator()
        for _ in 0..<300 {
            var noisy = whole
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                noisy[Int.random(in: 0..<noisy.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            _ = try? filtered([noisy], chunk: Int.random(in: 1...2000, using: &random))
        }
    }
}
