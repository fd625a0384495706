import FoundationEssentials
import Hummingbird
import NIOCore

/// Bytes of partial output that the message of a timeout carries; the whole is in its `result`.
package let timeoutMessageOutputBytes = 4 << 10
/// Longest deadline that may be asked for, in seconds: a week.
package let timeoutLimitSeconds = 7 * 24 * 3600

/// `POST /process/execute`: a command in the sandbox's shell (WIRE-CONTRACT 5.1).
package struct ExecuteRoute: Sendable {
    struct Body: Decodable {
        var command: String
        var cwd: String?
        var envs: [String: String]?
        var timeout: Int?
    }

    let runner: ProgramRunner
    let environment: EnvironmentStore
    let workingDirectory: WorkingDirectory
    private let shells = ShellFinder()

    init(runner: ProgramRunner, environment: EnvironmentStore, workingDirectory: WorkingDirectory) {
        self.runner = runner
        self.environment = environment
        self.workingDirectory = workingDirectory
    }

    func callAsFunction(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(Body.self)
        guard !body.command.allSatisfy(\.isWhitespace) else {
            throw ToolboxError.badRequest("field 'command' is empty")
        }
        guard !body.command.utf8.contains(0) else { throw ToolboxError.badRequest("field 'command' holds a NUL") }
        let deadline = try checkedTimeout(body.timeout)
        let variables = try environment.merged(with: body.envs ?? [:])
        let directory = try workingDirectory.resolve(body.cwd ?? ".")
        guard let shell = try await shells.find(in: variables) else {
            return try jsonResponse(
                [
                    "exitCode": JSONScalar.int(-1),
                    "result": .string("this image has no shell: none of zsh, bash, sh is in PATH"),
                ])
        }
        let program = try await shell.program(
            for: body.command,
            environment: variables,
            directory: directory,
            spoolDirectory: runner.spoolDirectory
        )
        let result = try await runner.run(program, deadline: deadline, for: call)
        return try await programResponse(result, deadline: deadline, to: call)
    }
}

/// - Throws: 400 unless the timeout is nil or between 0 and `timeoutLimitSeconds`; 0 is no timeout.
func checkedTimeout(_ seconds: Int?) throws -> Duration? {
    guard let seconds, seconds != 0 else { return nil }
    guard (1...timeoutLimitSeconds).contains(seconds) else {
        throw ToolboxError.badRequest("field 'timeout' is \(seconds), not between 0 and \(timeoutLimitSeconds) seconds")
    }
    return .seconds(seconds)
}

/// The answer to a program that ended: 200 with code and output, or 408 with the output so far. Large output is streamed.
func programResponse(
    _ result: ProgramResult,
    deadline: Duration?,
    artifacts: String? = nil,
    to call: ToolboxCall
) async throws -> Response {
    let fields: String
    if result.timedOut {
        fields = try await timeoutFields(result, deadline: deadline, call)
    } else {
        fields = "\"exitCode\":\(result.exitCode)"
    }
    var head = "{\(fields)"
    if result.output.truncation != nil { head += ",\"truncated\":true" }
    if let artifacts { head += ",\"artifacts\":\(artifacts)" }
    head += ",\"result\":\""
    let note = [result.output.truncation, result.reasons].compactMap { $0 }.map { "\n[martlet: \($0)]\n" }.joined()
    return Response(
        status: result.timedOut ? .requestTimeout : .ok,
        headers: [.contentType: "application/json"],
        body: try await textBody(head: head, output: result.output, note: note)
    )
}

/// One buffer for what is in memory anyway, else a stream.
private func textBody(head: String, output: SpooledOutput, note: String) async throws -> ResponseBody {
    var text = EscapedOutput(head: head, output: output, note: note)
    if output.count <= spoolMemoryLimitBytes {
        var whole = ByteBuffer()
        while let piece = try await text.next() { whole.writeImmutableBuffer(piece) }
        return ResponseBody(byteBuffer: whole)
    }
    return ResponseBody { [text] writer in
        var text = text
        while let piece = try await text.next() { try await writer.write(piece) }
        try await writer.finish(nil)
    }
}

/// The pieces of a JSON object whose last field, opened by `head`, is a program's output.
private struct EscapedOutput: Sendable {
    private var head: ByteBuffer?
    private var pieces: SpooledOutput.Pieces?
    private var escaper = JSONTextEscaper()
    private let note: String

    init(head: String, output: SpooledOutput, note: String) {
        self.head = ByteBuffer(string: head)
        pieces = output.pieces()
        self.note = note
    }

    mutating func next() async throws -> ByteBuffer? {
        if let first = head {
            head = nil
            return first
        }
        guard pieces != nil else { return nil }
        var escaped = ByteBuffer()
        if let piece = try await pieces?.next() {
            escaped.reserveCapacity(piece.readableBytes + piece.readableBytes / 16)
            escaper.escape(piece.readableBytesView, into: &escaped)
            return escaped
        }
        pieces = nil
        escaper.finish(into: &escaped)
        escaper.escape(ByteBuffer(string: note).readableBytesView, into: &escaped)
        escaped.writeString("\"}")
        return escaped
    }
}

private func timeoutFields(_ result: ProgramResult, deadline: Duration?, _ call: ToolboxCall) async throws -> String {
    let seconds = deadline?.components.seconds ?? 0
    var message = "timed out: not finished after \(seconds) s, its timeout; all its processes were killed"
    if let reasons = result.reasons { message += "; \(reasons)" }
    let partial = try await result.output.tail(timeoutMessageOutputBytes)
    if !partial.isEmpty { message += "; output until then:\n\(partial)" }
    let error = ToolboxError(.requestTimeout, "PROCESS_EXECUTION_TIMEOUT", message)
    let body = ErrorBody(error, path: call.request.uri.path, method: call.request.method.rawValue)
    let text = String(decoding: try JSONEncoder().encode(body), as: UTF8.self)
    return String(text.dropFirst().dropLast())
}

/// A value of a small JSON object.
enum JSONScalar: Encodable, Sendable {
    case int(Int)
    case string(String)

    func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .int(let value): try container.encode(value)
        case .string(let value): try container.encode(value)
        }
    }
}
