import AsyncHTTPClient
package import NIOCore
import NIOHTTP1

// What is for capturing a container's files as an image.
extension DockerEngine {
    /// Stops every process of a container where it stands. One that does not run, or is paused already, throws `.conflict`.
    package func pauseContainer(_ id: String) async throws {
        try await send(
            EngineCall("pause container \(id)", .POST, ["containers", id, "pause"]),
            within: limits.lifecycle
        )
    }

    /// Lets a paused container go on; one that is not paused is success.
    package func resumeContainer(_ id: String) async throws {
        let call = try EngineCall("resume container \(id)", .POST, ["containers", id, "unpause"])
        do {
            try await send(call, within: limits.lifecycle)
        } catch let error as DockerError where error.message.contains("is not paused") {
            return
        }
    }

    /// Loads the images of an archive (`docker load`); `limit` covers all of it. Layers that the engine has already may be left
    /// out of the archive.
    package func loadImages<Chunks: AsyncSequence & Sendable>(
        _ archive: Chunks,
        bytes: Int64,
        within limit: Duration
    ) async throws where Chunks.Element == ByteBuffer {
        let call = try EngineCall(
            "load an image",
            .POST,
            ["images", "load"],
            query: [("quiet", "1")],
            body: .tar(.stream(archive, length: .known(bytes)))
        )
        try await forEachLine(call, within: limit) { line in _ = try ProgressMessage.read(line, call) }
    }
}
