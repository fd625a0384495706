import CLinux
import Glibc
import HTTPTypes
import Hummingbird
import NIOCore

/// Limits of searches.
package enum SearchLimit {
    /// Matches and files that one search answers. More are cut off, which the header `X-Martlet-Truncated` says.
    package static let results = 10_000
    /// Bytes of a matching line that are shown.
    package static let lineBytes = 4 << 10
    /// Longest text to look for, in bytes.
    package static let patternBytes = 64 << 10
    /// Files that one replacement may name.
    package static let files = 10_000
}

/// `GET /files/find`, `GET /files/search` and `POST /files/replace` (WIRE-CONTRACT 5.7).
package struct SearchRoutes: Sendable {
    private struct Found: Encodable, Sendable {
        var files: [String] = []
    }

    private struct ReplaceBody: Decodable {
        var files: [String]
        var pattern: String
        var newValue: String
    }

    private struct Replaced: Encodable, Sendable {
        var file: String
        var success: Bool
        var error: String?
    }

    let workingDirectory: WorkingDirectory

    /// Lines that hold a text, in one file or in all below a directory.
    func find(_ call: ToolboxCall) async throws -> Response {
        let path = try workingDirectory.resolve(call.query["path"].flatMap { $0.isEmpty ? nil : $0 } ?? ".")
        let search = ContentSearch(pattern: try checkedPattern(call.query["pattern"] ?? ""))
        return try searchResponse(try await onTreeThread { try search.run(path) }) { $0 }
    }

    /// Files and directories whose name fits a glob.
    func search(_ call: ToolboxCall) async throws -> Response {
        let path = try workingDirectory.resolve(call.query["path"].flatMap { $0.isEmpty ? nil : $0 } ?? ".")
        let pattern = try call.query.required("pattern")
        let glob = try Glob(pattern.hasPrefix("**/") ? String(pattern.dropFirst(3)) : pattern)
        let names = try await onTreeThread { try findNames(glob, below: path) }
        return try searchResponse(names) { Found(files: $0) }
    }

    /// Replaces a text in files, each as a whole or not at all; a failure of one does not touch the others.
    func replace(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(ReplaceBody.self)
        let pattern = try checkedPattern(body.pattern)
        guard body.files.count <= SearchLimit.files else {
            throw ToolboxError.badRequest(
                "field 'files' has \(body.files.count) entries, the limit is \(SearchLimit.files)"
            )
        }
        var results: [Replaced] = []
        for file in body.files {
            do {
                let path = try workingDirectory.resolve(file)
                let replacement = TextReplacement(pattern: pattern, newValue: Array(body.newValue.utf8))
                try await onTreeThread { try replacement.run(path) }
                results.append(Replaced(file: file, success: true))
            } catch let error as ToolboxError {
                results.append(Replaced(file: file, success: false, error: error.message))
            }
        }
        return try jsonResponse(results)
    }

    private func checkedPattern(_ pattern: String) throws -> [UInt8] {
        guard !pattern.isEmpty else { throw ToolboxError.badRequest("'pattern' is empty") }
        guard pattern.utf8.count <= SearchLimit.patternBytes else {
            throw ToolboxError.badRequest(
                "'pattern' is \(pattern.utf8.count) bytes long, the limit is \(SearchLimit.patternBytes)"
            )
        }
        return Array(pattern.utf8)
    }

    private func searchResponse<Element, Body: Encodable>(_ all: [Element], _ body: ([Element]) -> Body) throws
        -> Response
    {
        var response = try jsonResponse(body(Array(all.prefix(SearchLimit.results))))
        if all.count > SearchLimit.results, let name = HTTPField.Name("X-Martlet-Truncated") {
            response.headers[name] = "true"
        }
        return response
    }
}

/// Ends a walk that found enough.
private struct EnoughFound: Error {}

private func findNames(_ glob: Glob, below path: String) throws -> [String] {
    var found: [String] = []
    var walk = TreeWalk()
    do {
        try walk.visit(path) { entry in
            guard glob.matches(entry.name.text) else { return }
            found.append(entry.path)
            if found.count > SearchLimit.results { throw EnoughFound() }
        }
    } catch is EnoughFound {}
    return found
}

/// A line that holds the text.
package struct ContentMatch: Encodable, Sendable, Equatable {
    package var file: String
    package var line: Int
    package var content: String
}

/// Looks for a text in files, line by line. Files with a NUL among their first 512 bytes are passed over.
package struct ContentSearch: Sendable {
    private static let sniffBytes = 512
    private static let pieceBytes = 256 << 10

    package let pattern: [UInt8]

    package init(pattern: [UInt8]) {
        self.pattern = pattern
    }

    /// One more than `SearchLimit.results` matches at most. Blocks.
    package func run(_ path: String) throws -> [ContentMatch] {
        guard let status = try FileStatus.of(path) else { throw ToolboxError.file(ENOENT, "search", path) }
        var matches: [ContentMatch] = []
        do {
            if status.kind == .directory {
                var walk = TreeWalk()
                try walk.visit(path) { entry in
                    guard entry.status.kind == .regular else { return }
                    try searchEntry(entry, &matches)
                }
            } else {
                try search(OpenFile.open(path, O_RDONLY, to: "search"), path, &matches)
            }
        } catch is EnoughFound {}
        return matches
    }

    private func searchEntry(_ entry: TreeWalk.Entry, _ matches: inout [ContentMatch]) throws {
        let descriptor = openat(entry.directory, entry.name.bytes, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        do {
            try search(OpenFile(owning: descriptor), entry.path, &matches)
        } catch is IOError {
            // A file that cannot be read is passed over, as grep -s does.
        }
    }

    private func search(_ file: OpenFile, _ path: String, _ matches: inout [ContentMatch]) throws {
        guard let status = FileStatus.of(file), status.kind == .regular else {
            throw ToolboxError.invalidPath("cannot search \(path): it is not a regular file")
        }
        let start = try file.read(Self.sniffBytes, at: 0)
        if start.readableBytesView.contains(0) { return }
        var line = 1
        var offset: Int64 = 0
        var pending = ByteBuffer()
        while true {
            let piece = try file.read(Self.pieceBytes, at: offset)
            offset += Int64(piece.readableBytes)
            pending.writeImmutableBuffer(piece)
            try scan(&pending, &line, atEnd: piece.readableBytes == 0, path, &matches)
            if piece.readableBytes == 0 { return }
            pending.discardReadBytes()
        }
    }

    /// Consumes whole lines; one that is longer than four pieces is looked at in parts of that size.
    private func scan(
        _ pending: inout ByteBuffer,
        _ line: inout Int,
        atEnd: Bool,
        _ path: String,
        _ matches: inout [ContentMatch]
    ) throws {
        while pending.readableBytes > 0 {
            let end = pending.readableBytesView.firstIndex(of: 0x0A).map { $0 - pending.readerIndex }
            guard
                let length = end ?? (atEnd || pending.readableBytes > 4 * Self.pieceBytes ? pending.readableBytes : nil)
            else {
                return
            }
            let text = pending.readSlice(length: length)?.readableBytesView ?? ByteBufferView()
            if firstOffset(of: pattern, in: text) != nil {
                let shown = String(decoding: text.prefix(SearchLimit.lineBytes), as: UTF8.self)
                matches.append(ContentMatch(file: path, line: line, content: shown))
                if matches.count > SearchLimit.results { throw EnoughFound() }
            }
            if end != nil {
                pending.moveReaderIndex(forwardBy: 1)
                line += 1
            }
        }
    }
}

/// Replaces every occurrence of a text in a file, in one pass and with little memory.
package struct TextReplacement: Sendable {
    private static let pieceBytes = 256 << 10

    package let pattern: [UInt8]
    package let newValue: [UInt8]

    package init(pattern: [UInt8], newValue: [UInt8]) {
        self.pattern = pattern
        self.newValue = newValue
    }

    /// A file without the text is not written. Blocks.
    package func run(_ path: String) throws {
        let file = try OpenFile.open(path, O_RDONLY, to: "replace in")
        guard let status = FileStatus.of(file), status.kind == .regular else {
            throw ToolboxError.invalidPath("cannot replace in \(path): it is not a regular file")
        }
        guard try copy(file, into: nil) > 0 else { return }
        let replacement = try FileReplacement(of: path, makesParents: false)
        _ = try copy(file, into: replacement)
        try replacement.commit()
    }

    /// Counts the occurrences (without `target` only up to the first), writing the new content on the way.
    private func copy(_ file: OpenFile, into target: FileReplacement?) throws -> Int {
        var count = 0
        var offset: Int64 = 0
        var pending = ByteBuffer()
        while true {
            let piece = try file.read(Self.pieceBytes, at: offset)
            offset += Int64(piece.readableBytes)
            pending.writeImmutableBuffer(piece)
            var output = ByteBuffer()
            while let found = firstOffset(of: pattern, in: pending.readableBytesView) {
                count += 1
                if target == nil { return count }
                output.writeImmutableBuffer(pending.readSlice(length: found) ?? ByteBuffer())
                output.writeBytes(newValue)
                pending.moveReaderIndex(forwardBy: pattern.count)
            }
            let atEnd = piece.readableBytes == 0
            let settled = atEnd ? pending.readableBytes : max(0, pending.readableBytes - (pattern.count - 1))
            output.writeImmutableBuffer(pending.readSlice(length: settled) ?? ByteBuffer())
            try target?.write(output)
            if atEnd { return count }
            pending.discardReadBytes()
        }
    }
}

/// Where a text begins in bytes, or nil.
private func firstOffset(of needle: [UInt8], in hay: ByteBufferView) -> Int? {
    let found = hay.withUnsafeBytes { martlet_find($0.baseAddress, $0.count, needle, needle.count) }
    return found < 0 ? nil : found
}
