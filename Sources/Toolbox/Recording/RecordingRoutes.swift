import FoundationEssentials
import Glibc
import HTTPTypes
import Hummingbird
import NIOCore

/// Registers the routes of recordings: Martlet's own, not of Daytona's API.
func addRecordingRoutes(to routes: inout RouteMap, _ recordings: RecordingTable) {
    let its = RecordingRoutes(recordings: recordings)
    routes.on(.get, "/process/recordings") { try await its.list($0) }
    routes.on(.get, "/process/recordings/{id}") { try await its.get($0) }
    routes.on(.delete, "/process/recordings/{id}") { try await its.delete($0) }
    routes.on(.get, "/process/recordings/{id}/download") { try await its.download($0) }
}

/// Listing, downloading and deleting of recordings.
struct RecordingRoutes: Sendable {
    private struct Listing: Encodable {
        /// Whether terminals that are opened from now on are recorded.
        var recordsTerminals: Bool
        var recordings: [Description]
    }

    private struct Description: Encodable {
        var id: String
        var kind: RecordingKind
        var terminal: String
        var title: String
        var cols: Int
        var rows: Int
        var startedAt: String
        /// Whether it goes on.
        var active: Bool
        var durationSeconds: Double
        var sizeBytes: Int
        /// Absent while it goes on.
        var endReason: String?

        init(_ recording: Recording) {
            let header = recording.header
            let ending = recording.ending
            id = recording.id.text
            kind = header.martlet.kind
            terminal = header.martlet.terminal
            title = header.title
            (cols, rows) = (header.width, header.height)
            startedAt = isoTimestamp(Date(timeIntervalSince1970: header.timestamp))
            active = ending == nil
            durationSeconds = ending?.seconds ?? recording.seconds
            sizeBytes = recording.sizeBytes
            endReason = ending?.reason
        }
    }

    let recordings: RecordingTable

    /// `GET /process/recordings`.
    func list(_ call: ToolboxCall) async throws -> Response {
        let all = try await recordings.all()
        return try jsonResponse(
            Listing(recordsTerminals: recordings.isOn, recordings: all.map(Description.init))
        )
    }

    /// `GET /process/recordings/{id}`.
    func get(_ call: ToolboxCall) async throws -> Response {
        try jsonResponse(Description(try await recordings.recording(call.parameters["id"] ?? "")))
    }

    /// `DELETE /process/recordings/{id}`.
    func delete(_ call: ToolboxCall) async throws -> Response {
        try await recordings.delete(call.parameters["id"] ?? "")
        return emptyResponse(.noContent)
    }

    /// `GET /process/recordings/{id}/download`: of one that goes on, what is in its file by now. Always whole lines.
    func download(_ call: ToolboxCall) async throws -> Response {
        let recording = try await recordings.recording(call.parameters["id"] ?? "")
        let (file, count) = try await onBlockingThread { try recording.open() }
        var headers: HTTPFields = [.contentType: "application/x-asciicast"]
        headers[.contentDisposition] = "attachment; \(fileNameParameters("\(recording.id.text).cast"))"
        let body: @Sendable @concurrent (inout any ResponseBodyWriter) async throws -> Void = { writer in
            var pieces = FilePieces(file, count: count)
            while let piece = try await pieces.next() { try await writer.write(piece) }
            // An error ends the connection, as the only way left to tell that it is not complete.
            guard pieces.offset == count else { throw IOError(errnoCode: EIO, reason: "the recording became shorter") }
            try await writer.finish(nil)
        }
        return Response(status: .ok, headers: headers, body: ResponseBody(contentLength: count, body))
    }
}
