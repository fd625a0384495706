import FoundationEssentials
import NIOCore
import NIOFoundationEssentialsCompat
import WebSockets

/// Writes an execution's frames to its client; a client that is gone gets none, and that is no error.
struct ExecutionClient: Sendable {
    private let socket: WebSocket
    private var escapers: [OutputStream: JSONTextEscaper] = [.stdout: JSONTextEscaper(), .stderr: JSONTextEscaper()]
    private(set) var isGone = false

    init(_ socket: WebSocket) {
        self.socket = socket
    }

    /// Sends a piece of output; a character may be split between pieces. Waits until the client took it.
    mutating func output(_ bytes: ByteBuffer, _ stream: OutputStream) async {
        guard !isGone else { return }
        await send(text: stream) { escaper, text in escaper.escape(bytes.readableBytesView, into: &text) }
    }

    /// Sends a line of our own.
    mutating func note(_ text: String) async {
        await output(ByteBuffer(string: "[martlet: \(text)]\n"), .stderr)
    }

    /// Ends the output: a character that was cut off is replaced.
    mutating func endOutput() async {
        for stream in OutputStream.allCases {
            await send(text: stream) { escaper, text in escaper.finish(into: &text) }
        }
    }

    mutating func error(_ failure: PythonFailure) async {
        await send(Frame(type: "error", name: failure.name, value: failure.value, traceback: failure.traceback))
    }

    mutating func control(_ text: String) async { await send(Frame(type: "control", text: text)) }

    private struct Frame: Encodable {
        var type: String
        var text: String?
        var name: String?
        var value: String?
        var traceback: String?
    }

    private mutating func send(_ frame: Frame) async {
        // A frame holds only strings, which always encode.
        guard let data = try? JSONEncoder().encode(frame) else { return }
        await send(ByteBuffer(data: data))
    }

    private mutating func send(
        text stream: OutputStream,
        _ write: (inout JSONTextEscaper, inout ByteBuffer) -> Void
    ) async {
        var frame = ByteBuffer(string: #"{"type":""# + stream.rawValue + #"","text":""#)
        let head = frame.readableBytes
        write(&escapers[stream]!, &frame)  // there is one for each stream
        guard frame.readableBytes > head else { return }
        frame.writeStaticString("\"}")
        await send(frame)
    }

    private mutating func send(_ frame: ByteBuffer) async {
        guard !isGone else { return }
        do {
            try await socket.send(.text(String(buffer: frame)))
        } catch {
            isGone = true
        }
    }
}
