import FoundationEssentials
import Glibc
import HTTPTypes
package import Hummingbird
import NIOCore

/// Most bytes that are read from a file that does not know its size (as in /proc).
package let unsizedFileLimitBytes = 64 << 20
/// Most files of one bulk download.
package let downloadCountLimit = 10_000

/// `GET /files/download` and `POST /files/bulk-download`: streaming from disk.
package struct DownloadRoutes: Sendable {
    private struct Body: Decodable {
        var paths: [String]
    }

    let workingDirectory: WorkingDirectory

    /// The bytes of one file.
    func single(_ call: ToolboxCall) async throws -> Response {
        let path = try workingDirectory.resolve(call.query["path"] ?? "")
        let file = try await onBlockingThread { try DownloadableFile(path) }
        var headers: HTTPFields = [.contentType: "application/octet-stream"]
        headers[.contentDisposition] = "attachment; \(fileNameParameters(baseName(path)))"
        let body: @Sendable @concurrent (inout any ResponseBodyWriter) async throws -> Void = { writer in
            try await file.send(to: &writer)
            try await writer.finish(nil)
        }
        guard let size = file.size else { return Response(status: .ok, headers: headers, body: ResponseBody(body)) }
        return Response(status: .ok, headers: headers, body: ResponseBody(contentLength: size, body))
    }

    /// One part for each path, in order, also for those that fail. The closing boundary says that nothing was cut off.
    func bulk(_ call: ToolboxCall) async throws -> Response {
        let paths = try await call.decode(Body.self).paths
        guard !paths.isEmpty else { throw ToolboxError.badRequest("field 'paths' is empty") }
        guard paths.count <= downloadCountLimit else {
            throw ToolboxError.badRequest(
                "field 'paths' has \(paths.count) entries, the limit is \(downloadCountLimit)"
            )
        }
        let boundary = "martlet-\(UUID().uuidString)"
        let body = ResponseBody { [workingDirectory] writer in
            for path in paths {
                try await writer.write(ByteBuffer(string: "--\(boundary)\r\n"))
                try await writePart(path, workingDirectory, to: &writer)
                try await writer.write(ByteBuffer(string: "\r\n"))
            }
            try await writer.write(ByteBuffer(string: "--\(boundary)--\r\n"))
            try await writer.finish(nil)
        }
        return Response(status: .ok, headers: [.contentType: "multipart/form-data; boundary=\(boundary)"], body: body)
    }
}

@concurrent
private func writePart(
    _ path: String,
    _ workingDirectory: WorkingDirectory,
    to writer: inout any ResponseBodyWriter
) async throws {
    let file: DownloadableFile
    do {
        let absolute = try workingDirectory.resolve(path)
        file = try await onBlockingThread { try DownloadableFile(absolute) }
    } catch let error as ToolboxError {
        return try await writer.write(try errorPart(error, path))
    }
    var head = "Content-Type: application/octet-stream\r\n"
    head += "Content-Disposition: form-data; name=\"file\"; \(fileNameParameters(path))\r\n"
    if let size = file.size { head += "Content-Length: \(size)\r\n" }
    try await writer.write(ByteBuffer(string: head + "\r\n"))
    try await file.send(to: &writer)
}

private func errorPart(_ error: ToolboxError, _ path: String) throws -> ByteBuffer {
    let body = try JSONEncoder().encode(ErrorBody(error, path: path, method: "POST"))
    var part = ByteBuffer(string: "Content-Type: application/json; charset=utf-8\r\n")
    part.writeString("Content-Disposition: form-data; name=\"error\"; \(fileNameParameters(path))\r\n\r\n")
    part.writeBytes(body)
    return part
}

/// `filename` for old readers (Latin-1, what it cannot spell as `_`) and `filename*`, which wins, for any name.
package func fileNameParameters(_ name: String) -> String {
    var plain = ""
    for scalar in name.unicodeScalars {
        switch scalar {
        case "\"", "\\": plain += "\\\(scalar)"
        case " "..."~": plain.unicodeScalars.append(scalar)
        default: plain += "_"
        }
    }
    var encoded = ""
    for byte in name.utf8 {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
            UInt8(ascii: "~"):
            encoded.unicodeScalars.append(Unicode.Scalar(byte))
        default:
            encoded += byte < 16 ? "%0" : "%"
            encoded += String(byte, radix: 16, uppercase: true)
        }
    }
    return "filename=\"\(plain)\"; filename*=utf-8''\(encoded)"
}

/// A regular file that was opened for reading, with the size it had then.
package struct DownloadableFile: Sendable {
    private let file: OpenFile
    private let path: String
    /// Nil where the file system does not know, as in /proc.
    package let size: Int?

    /// Opens first and looks at what was opened then, so nothing can be exchanged in between. Blocks.
    package init(_ path: String) throws {
        self.path = path
        file = try OpenFile.open(path, O_RDONLY, to: "read")
        guard let status = FileStatus.of(file) else { throw ToolboxError.file(errno, "read", path) }
        guard status.kind == .regular else {
            throw ToolboxError.invalidPath("cannot read \(path): it is a \(status.kind.name), not a regular file")
        }
        size = status.size > 0 ? status.size : nil
        if size == nil { try Self.checkReadable(file, path) }
    }

    /// Some files under /proc open and then refuse to be read; that must be known before the answer's head is sent.
    private static func checkReadable(_ file: OpenFile, _ path: String) throws {
        do {
            _ = try file.read(1, at: 0)
        } catch let error as IOError {
            throw ToolboxError.file(error.errnoCode, "read", path)
        }
    }

    /// Its content from the start, up to the size at opening.
    package func pieces() -> FilePieces { FilePieces(file, count: size ?? unsizedFileLimitBytes) }

    /// - Throws: if fewer bytes came than the size promised.
    package func checkComplete(_ pieces: FilePieces) throws {
        if let size, pieces.offset < size {
            throw IOError(errnoCode: EIO, reason: "\(path) became shorter while it was read")
        }
    }

    /// Sends the content. An error ends the connection, as the only way left to tell that it is not complete.
    @concurrent
    package func send(to writer: inout any ResponseBodyWriter) async throws {
        var pieces = pieces()
        while let piece = try await pieces.next() { try await writer.write(piece) }
        try checkComplete(pieces)
    }
}
