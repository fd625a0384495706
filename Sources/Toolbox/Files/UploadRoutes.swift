import HTTPTypes
import Hummingbird
import NIOCore

/// `POST /files/bulk-upload` and `POST /files/upload-v2`: streaming to disk, a file at a time, of any size.
package struct UploadRoutes: Sendable {
    private struct UploadedFiles: Encodable {
        struct File: Encodable {
            var path: String
            var bytes: Int
        }
        var errors: [String]?
        var files: [File] = []
    }

    private struct UploadedFile: Encodable {
        var name: String
        var path: String
        var type = "file"
    }

    let workingDirectory: WorkingDirectory

    /// Pairs `files[i].path` (first) and `files[i].file`. One bad file does not stop the others.
    func bulk(_ call: ToolboxCall) async throws -> Response {
        var answer = UploadedFiles()
        var errors: [String] = []
        var paths: [Substring: String] = [:]
        try await receive(call, errors: &errors) { name in
            guard let index = fieldIndex(name) else { return .ignore }
            if index.kind == "path" { return .text { paths[index.number] = $0 } }
            guard let path = paths[index.number] else {
                throw ToolboxError.badRequest("field '\(name)' is not preceded by 'files[\(index.number)].path'")
            }
            return .file(try workingDirectory.resolve(path)) { answer.files.append(.init(path: path, bytes: $0)) }
        }
        if errors.isEmpty { return try jsonResponse(answer) }
        answer.errors = errors
        return try jsonResponse(answer, status: .badRequest)
    }

    /// One field `file`; its destination is the query's `path`, which the proxy's signature covers.
    func single(_ call: ToolboxCall) async throws -> Response {
        var errors: [String] = []
        var received = false
        let path: String
        do {
            path = try workingDirectory.resolve(try call.query.required("path"))
        } catch {
            await call.drain()
            throw error
        }
        try await receive(call, errors: &errors) { name in
            name == "file" && !received ? .file(path) { _ in received = true } : .ignore
        }
        if let first = errors.first { throw ToolboxError.badRequest(first) }
        guard received else { throw ToolboxError.badRequest("the multipart body has no field 'file'") }
        return try jsonResponse(UploadedFile(name: baseName(path), path: path))
    }

    private func fieldIndex(_ name: String) -> (number: Substring, kind: Substring)? {
        guard name.hasPrefix("files["), let bracket = name.firstIndex(of: "]") else { return nil }
        let number = name[name.index(name.startIndex, offsetBy: 6)..<bracket]
        let kind = name[name.index(after: bracket)...].dropFirst()
        guard kind == "path" || kind == "file", !number.isEmpty, number.allSatisfy(\.isNumber) else { return nil }
        return (number, kind)
    }

    /// Reads the whole body, whatever is wrong with it: a client that is still sending would miss an earlier answer.
    private func receive(
        _ call: ToolboxCall,
        errors: inout [String],
        _ begin: (String) throws -> UploadPart.Destination
    ) async throws {
        // A body can be iterated only once, so what is left after an error is read from the same iterator.
        var pieces = call.request.body.makeAsyncIterator()
        do {
            let type = call.request.headers[.contentType] ?? ""
            var parser = MultipartParser(boundary: try MultipartParser.boundary(ofContentType: type))
            var part: UploadPart?
            while let piece = try await pieces.next(isolation: #isolation) {
                for event in try parser.take(piece) {
                    try await handle(event, part: &part, errors: &errors, begin)
                }
            }
            try parser.finish()
        } catch let error as MultipartError {
            errors.append(error.message)
            while try await pieces.next(isolation: #isolation) != nil {}
        }
    }

    private func handle(
        _ event: MultipartParser.Event,
        part: inout UploadPart?,
        errors: inout [String],
        _ begin: (String) throws -> UploadPart.Destination
    ) async throws {
        do {
            switch event {
            case .part(let name): part = try await UploadPart(begin(name))
            case .content(let bytes): try await part?.take(bytes)
            case .endOfPart: try await part?.finish()
            case .end: break
            }
            if event == .endOfPart { part = nil }
        } catch let error as ToolboxError {
            errors.append(error.message)
            part = nil
        }
    }
}

/// One part of an upload on its way to where it goes.
private struct UploadPart {
    enum Destination {
        case ignore
        case text((String) -> Void)
        case file(String, (Int) -> Void)
    }

    /// Pieces are joined to this much before a blocking thread writes them.
    private static let writeBytes = 256 << 10

    private let destination: Destination
    private let replacement: FileReplacement?
    private var collected = ByteBuffer()
    private var written = 0

    init(_ destination: Destination) async throws {
        self.destination = destination
        guard case .file(let path, _) = destination else {
            replacement = nil
            return
        }
        replacement = try await onBlockingThread { try FileReplacement(of: path, makesParents: true) }
    }

    mutating func take(_ bytes: ByteBuffer) async throws {
        switch destination {
        case .ignore: return
        case .text:
            guard collected.readableBytes + bytes.readableBytes <= pathLimitBytes else {
                throw ToolboxError.invalidPath("a path is longer than \(pathLimitBytes) bytes, the limit")
            }
            collected.writeImmutableBuffer(bytes)
        case .file:
            collected.writeImmutableBuffer(bytes)
            if collected.readableBytes >= Self.writeBytes { try await flush() }
        }
    }

    mutating func finish() async throws {
        switch destination {
        case .ignore: return
        case .text(let done): done(String(buffer: collected))
        case .file(_, let done):
            try await flush()
            if let replacement { try await onBlockingThread { try replacement.commit() } }
            done(written)
        }
    }

    private mutating func flush() async throws {
        guard let replacement, collected.readableBytes > 0 else { return }
        let bytes = collected
        collected.clear()
        written += bytes.readableBytes
        try await onBlockingThread { try replacement.write(bytes) }
    }
}
