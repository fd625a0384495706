import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import Synchronization
import Testing

@testable import Toolbox

extension DaemonSuites {
    @Suite("Files", .serialized, .timeLimit(.minutes(5)))
    struct FileTests {
        struct Uploaded: Decodable {
            struct File: Decodable, Equatable {
                var path: String
                var bytes: Int
            }
            var files: [File]
            var errors: [String]?
        }

        struct Described: Decodable {
            var name: String
            var path: String
            var size: Int
            var mode: String
            var permissions: String
            var isDir: Bool
            var owner: String
        }

        // MARK: - Transfer

        @Test("Uploads come in either order of fields, make directories, ignore the part's file name, and overwrite")
        func upload() async throws {
            try await TestDaemon.run { daemon async throws in
                let pathsFirst = form([
                    ("files[0].path", "a/b/one"), ("files[1].path", "two"), ("files[0].file", "1"),
                    ("files[1].file", "22"),
                ])
                let first = try await sendUpload(daemon, pathsFirst)
                #expect(first.status == 200)
                #expect(first.body.files == [.init(path: "a/b/one", bytes: 1), .init(path: "two", bytes: 2)])
                let pairs = form([("files[0].path", daemon.path("two")), ("files[0].file", "new")])
                #expect(try await sendUpload(daemon, pairs).status == 200)
                #expect(try daemon.read("a/b/one") == "1" && daemon.read("two") == "new")
            }
        }

        @Test("One bad file does not stop the others, and the errors are listed")
        func uploadErrors() async throws {
            try await TestDaemon.run { daemon async throws in
                #expect(mkfifo(daemon.path("fifo"), 0o600) == 0)
                let body = form([
                    ("files[0].path", "/dev/null"), ("files[0].file", "x"), ("files[1].path", "fifo"),
                    ("files[1].file", "x"),
                    ("files[2].file", "x"), ("files[3].path", "nul\0byte"), ("files[3].file", "x"),
                    ("files[4].path", "."),
                    ("files[4].file", "x"), ("files[5].path", "good"), ("files[5].file", "ok"), ("other", "x"),
                    ("files[6].path", "good/below"), ("files[6].file", "x"),
                ])
                let answer = try await sendUpload(daemon, body)
                #expect(answer.status == 400)
                #expect(answer.body.files == [.init(path: "good", bytes: 2)])
                #expect(answer.body.errors?.count == 6, "\(answer.body.errors ?? [])")
                let broken = try await sendUpload(daemon, String(body.dropLast(20)))
                #expect(broken.status == 400 && broken.body.errors?.last?.contains("closing boundary") == true)
                let names = try FileManager.default.contentsOfDirectory(atPath: daemon.directory)
                #expect(!names.contains { $0.hasPrefix(".martlet") }, "temporary files are left: \(names)")
            }
        }

        @Test("Writing through a link changes its target; mode is kept; a reader of the old file keeps the old content")
        func replacement() async throws {
            try await TestDaemon.run { daemon async throws in
                try daemon.write("old", to: "target")
                #expect(chmod(daemon.path("target"), 0o751) == 0)
                #expect(symlink("target", daemon.path("link")) == 0)
                let reader = try OpenFile.open(daemon.path("target"), O_RDONLY, to: "read")
                #expect(
                    try await sendUpload(daemon, form([("files[0].path", "link"), ("files[0].file", "new")])).status
                        == 200
                )
                #expect(try daemon.read("target") == "new")
                #expect(readLink(daemon.path("link")) == "target")
                #expect((try FileStatus.of(daemon.path("target")))?.permissions == 0o751)
                #expect(String(buffer: try reader.read(10, at: 0)) == "old")
            }
        }

        @Test("Downloads: parts in order, odd names, errors in their place, closing boundary")
        func download() async throws {
            try await TestDaemon.run { daemon async throws in
                let odd = "ö \"quoted\" \\ 100%.txt"
                try daemon.write("odd", to: odd)
                try daemon.write("", to: "empty")
                #expect(mkfifo(daemon.path("fifo"), 0o600) == 0)
                let wanted = [odd, "empty", "missing", ".", "fifo", "/dev/zero", "", "/proc/self/status"]
                let request = String(decoding: try JSONEncoder().encode(["paths": wanted]), as: UTF8.self)
                let answer = try await daemon.client.call(.POST, "/files/bulk-download", body: request)
                #expect(answer.status == 200)
                var parser = MultipartParser(
                    boundary: try MultipartParser.boundary(ofContentType: answer.headers["content-type"].first ?? "")
                )
                let events = join(try parser.take(answer.body))
                try parser.finish()
                #expect(events.names == ["file", "file", "error", "error", "error", "error", "error", "file"])
                #expect(events.contents[0] == "odd" && events.contents[1].isEmpty)
                #expect(events.contents[7].contains("Name:"))
                let codes = try events.contents[2...6].map {
                    try JSONDecoder().decode(PartError.self, from: Data($0.utf8)).code
                }
                #expect(codes == ["FILE_NOT_FOUND"] + Array(repeating: "INVALID_FILE_PATH", count: 4))
                #expect(answer.text.contains("filename*=utf-8''%C3%B6%20%22quoted%22%20%5C%20100%25.txt"))
            }
        }

        @Test("500 MB up and down, in little memory")
        func largeTransfer() async throws {
            try await TestDaemon.run { daemon async throws in
                let (head, tail) = formAround(path: "big")
                let block = ByteBuffer(bytes: (0..<(1 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) })
                let pieces =
                    [ByteBuffer(string: head)] + Array(repeating: block, count: 500) + [ByteBuffer(string: tail)]
                let received = Mutex(0)
                let growth = try await peakMemoryGrowth {
                    let up = try await daemon.client.call(
                        .POST,
                        "/files/bulk-upload",
                        headers: multipart,
                        bodyLength: nil,
                        pieces: pieces
                    )
                    #expect(up.status == 200)
                    let down = try await daemon.client.call(
                        .GET,
                        "/files/download?path=big",
                        bodyLength: 0,
                        pieces: [],
                        onPiece: { piece in
                            received.withLock { offset in
                                let at = offset % (1 << 20)
                                #expect(holds(piece, patternOf: block, from: at))
                                offset += piece.readableBytes
                            }
                        }
                    )
                    #expect(down.status == 200)
                }
                #expect(received.withLock { $0 } == 500 << 20)
                #expect(growth < 48 << 10, "grew by \(growth) KiB")
            }
        }

        @Test("upload-v2 takes one field and answers name and path; single downloads refuse what is no file")
        func signedRoutes() async throws {
            try await TestDaemon.run { daemon async throws in
                let up = try await daemon.client.call(
                    .POST,
                    "/files/upload-v2?path=sub%2Fa+b.txt",
                    headers: multipart,
                    body: form([("file", "content")])
                )
                #expect(up.status == 200 && up.text.contains(#""name":"a b.txt""#))
                let down = try await daemon.client.call(.GET, "/files/download?path=sub/a+b.txt")
                #expect(down.text == "content" && down.headers["content-length"] == ["7"])
                for (path, status) in [
                    ("sub", 400), ("none", 404), ("/dev/zero", 400), ("a%00b", 400), ("", 400),
                    ("x/../sub/../none", 404),
                ] {
                    #expect(
                        try await daemon.client.call(.GET, "/files/download?path=\(path)").status == status,
                        "\(path)"
                    )
                }
                #expect(
                    try await daemon.client.call(
                        .POST,
                        "/files/upload-v2?path=x",
                        headers: multipart,
                        body: form([("f", "c")])
                    ).status == 400
                )
                #expect(try await daemon.client.call(.POST, "/files/bulk-upload", body: "x").status == 400)
            }
        }

        // MARK: - Other calls

        @Test("List, info, folder, permissions")
        func listing() async throws {
            try await TestDaemon.run { daemon async throws in
                #expect(try await daemon.client.call(.POST, "/files/folder?path=a/b/c&mode=700").status == 201)
                #expect(try await daemon.client.call(.POST, "/files/folder?path=a/b/c&mode=755").status == 201)
                try daemon.write("12345", to: "a/file")
                #expect(symlink("/nowhere", daemon.path("a/link")) == 0)
                #expect(try await list(daemon, "path=a").map(\.name) == ["b", "file", "link"])
                let deep = try await list(daemon, "path=a&depth=3")
                #expect(deep.map(\.path) == ["b", "b/c", "file", "link"].map { daemon.path("a/\($0)") })
                #expect(deep.map(\.mode) == ["drwxr-xr-x", "drwx------", "-rw-r--r--", "lrwxrwxrwx"])
                #expect(deep[0].isDir && !deep[2].isDir && deep[2].size == 5)
                #expect(
                    try await daemon.client.call(.POST, "/files/permissions?path=a/file&mode=4711&owner=root&group=0")
                        .status == 200
                )
                let info = try await daemon.client.call(.GET, "/files/info?path=a/file")
                let described = try JSONDecoder().decode(Described.self, from: Data(info.body.readableBytesView))
                #expect(described.mode == "-rws--x--x" && described.permissions == "4711" && described.owner == "root")
                for (target, status) in [
                    ("/files?path=a/file", 400), ("/files?path=none", 404), ("/files?path=a&depth=0", 400),
                    ("/files/info?path=none", 404),
                    ("/files/info?path=a/link", 404),
                ] {
                    #expect(try await daemon.client.call(.GET, target).status == status, "\(target)")
                }
                for (target, status) in [
                    ("/files/permissions?path=a/file&mode=9", 400),
                    ("/files/permissions?path=a/file&owner=nobody-knows", 400),
                    ("/files/permissions?path=none&mode=644", 404), ("/files/folder?path=a/file&mode=755", 400),
                    ("/files/folder?path=", 400),
                ] {
                    #expect(try await daemon.client.call(.POST, target).status == status, "\(target)")
                }
            }
        }

        @Test("Move never overwrites; delete needs recursive for a directory and never follows links")
        func moveAndDelete() async throws {
            try await TestDaemon.run { daemon async throws in
                #expect(mkdir(daemon.path("kept"), 0o755) == 0 && mkdir(daemon.path("d"), 0o755) == 0)
                try daemon.write("k", to: "kept/file")
                try daemon.write("1", to: "one")
                try daemon.write("2", to: "two")
                #expect(symlink("../kept", daemon.path("d/link")) == 0)
                #expect(mkdir(daemon.path("d/inner"), 0o755) == 0)
                for (query, status) in [
                    ("source=one&destination=two", 409), ("source=one&destination=no/where", 404),
                    ("source=none&destination=x", 404),
                    ("source=one&destination=three", 200), ("source=d&destination=e", 200),
                    ("source=&destination=x", 400),
                ] {
                    #expect(try await daemon.client.call(.POST, "/files/move?\(query)").status == status, "\(query)")
                }
                for (query, status) in [
                    ("path=e", 400), ("path=e&recursive=maybe", 400), ("path=e&recursive=true", 204),
                    ("path=e&recursive=true", 404),
                    ("path=two", 204), ("path=two", 404), ("path=three&recursive=false", 204),
                ] {
                    #expect(try await daemon.client.call(.DELETE, "/files?\(query)").status == status, "\(query)")
                }
                #expect(try daemon.read("kept/file") == "k")
            }
        }

        @Test("Find, search and replace")
        func searching() async throws {
            try await TestDaemon.run { daemon async throws in
                #expect(mkdir(daemon.path("s"), 0o755) == 0 && mkdir(daemon.path("s/deep.py"), 0o755) == 0)
                try daemon.write("first\nneedle here\n\nand needle", to: "s/a.py")
                try daemon.write("\0binary needle", to: "s/b.py")
                try daemon.write("nothing", to: "s/deep.py/c.txt")
                #expect(mkfifo(daemon.path("s/fifo"), 0o600) == 0)
                let found = try await daemon.client.call(.GET, "/files/find?path=s&pattern=needle")
                let matches = try JSONDecoder().decode([Match].self, from: Data(found.body.readableBytesView))
                #expect(
                    matches.map(\.line) == [2, 4] && matches[1].content == "and needle"
                        && matches[0].file == daemon.path("s/a.py")
                )
                #expect(
                    try await daemon.client.call(.GET, "/files/find?path=s/a.py&pattern=first").text.contains(
                        #""line":1"#
                    )
                )
                #expect(try await daemon.client.call(.GET, "/files/find?path=s&pattern=absent").text == "[]")
                let names = try await daemon.client.call(.GET, "/files/search?path=s&pattern=*.py")
                #expect(
                    ["a.py", "b.py", "deep.py"].allSatisfy { names.text.contains("/s/\($0)\"") }
                        && !names.text.contains("c.txt")
                )
                #expect(try await daemon.client.call(.GET, "/files/search?path=s&pattern=[").status == 400)
                #expect(try await daemon.client.call(.GET, "/files/search?path=none&pattern=x").status == 404)
                let body = #"{"files":["s/a.py","none","s/fifo"],"pattern":"needle","newValue":"pin"}"#
                let replaced = try await daemon.client.call(.POST, "/files/replace", body: body)
                #expect(replaced.status == 200 && replaced.text.contains(#""success":true"#))
                #expect(
                    replaced.text.split(separator: #""success":false"#, omittingEmptySubsequences: false).count == 3
                )
                #expect(try daemon.read("s/a.py") == "first\npin here\n\nand pin")
            }
        }

        @Test("Replacing agrees with Swift's own, also over the borders of pieces")
        func replacingModel() throws {
            let directory = try makeTemporaryDirectory()
            defer { try? FileManager.default.removeItem(atPath: directory) }
            let filler = String(repeating: "ab", count: (256 << 10) / 2 - 1)
            for text in ["", "abc", filler + "aba" + filler + "abaaba", "aaaa", "xabax"] {
                try Data(text.utf8).write(to: URL(filePath: "\(directory)/f"))
                try TextReplacement(pattern: Array("aba".utf8), newValue: Array("Z".utf8)).run("\(directory)/f")
                let content = String(decoding: try Data(contentsOf: URL(filePath: "\(directory)/f")), as: UTF8.self)
                #expect(content == text.replacing("aba", with: "Z"))
            }
        }

        // MARK: - Tools

        private struct Match: Decodable {
            var file: String
            var line: Int
            var content: String
        }

        private struct PartError: Decodable {
            var code: String
        }

        /// Compared by the C library, because this test is about 500 MB and may be built without optimisation.
        private func holds(_ piece: ByteBuffer, patternOf block: ByteBuffer, from start: Int) -> Bool {
            var compared = 0
            while compared < piece.readableBytes {
                let at = (start + compared) % block.readableBytes
                let count = min(piece.readableBytes - compared, block.readableBytes - at)
                let same = piece.withUnsafeReadableBytes { given in
                    block.withUnsafeReadableBytes {
                        memcmp(given.baseAddress! + compared, $0.baseAddress! + at, count) == 0
                    }
                }
                guard same else { return false }
                compared += count
            }
            return true
        }

        private let multipart = [("Content-Type", "multipart/form-data; boundary=xyz")]

        private func form(_ fields: [(String, String)]) -> String {
            fields.map { "--xyz\r\nContent-Disposition: form-data; name=\"\($0)\"; filename=\"x;y\"\r\n\r\n\($1)\r\n" }
                .joined() + "--xyz--\r\n"
        }

        private func formAround(path: String) -> (String, String) {
            let mark = "@@"
            let parts = form([("files[0].path", path), ("files[0].file", mark)]).split(separator: mark)
            return (String(parts[0]), String(parts[1]))
        }

        private func sendUpload(_ daemon: TestDaemon, _ body: String) async throws -> (status: Int, body: Uploaded) {
            let answer = try await daemon.client.call(.POST, "/files/bulk-upload", headers: multipart, body: body)
            return (answer.status, try JSONDecoder().decode(Uploaded.self, from: Data(answer.body.readableBytesView)))
        }

        private func list(_ daemon: TestDaemon, _ query: String) async throws -> [Described] {
            let answer = try await daemon.client.call(.GET, "/files?\(query)")
            return try JSONDecoder().decode([Described].self, from: Data(answer.body.readableBytesView))
        }
    }
}

/// Parts as a whole, without how their content was cut.
struct JoinedParts: Equatable {
    var names: [String] = []
    var contents: [String] = []
    var ended = false
}

func join(_ events: [MultipartParser.Event]) -> JoinedParts {
    var joined = JoinedParts()
    for event in events {
        switch event {
        case .part(let name):
            joined.names.append(name)
            joined.contents.append("")
        case .content(let piece):
            joined.contents[joined.contents.count - 1] += String(
                decoding: piece.readableBytesView,
                as: Unicode.ASCII.self
            )
        case .endOfPart: break
        case .end: joined.ended = true
        }
    }
    return joined
}
