import FoundationEssentials
import Glibc
import Hummingbird
import NIOCore

/// Most bytes of charts that one run answers; more are dropped as a whole.
package let chartsLimitBytes = 64 << 20

/// `POST /process/code-run`: code in one of three languages (WIRE-CONTRACT 5.2).
package struct CodeRunRoute: Sendable {
    struct Body: Decodable {
        var code: String
        var language: String?
        var argv: [String]?
        var envs: [String: String]?
        var timeout: Int?
    }

    let runner: ProgramRunner
    let environment: EnvironmentStore
    let workingDirectory: WorkingDirectory

    func callAsFunction(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(Body.self)
        let deadline = try checkedTimeout(body.timeout)
        let arguments = body.argv ?? []
        guard !arguments.contains(where: { $0.utf8.contains(0) }) else {
            throw ToolboxError.badRequest("field 'argv' holds a NUL")
        }
        let run = CodeRun(
            code: body.code,
            arguments: arguments,
            environment: try environment.merged(with: body.envs ?? [:]),
            directory: workingDirectory.path,
            spoolDirectory: runner.spoolDirectory,
            runner: runner,
            call: call,
            expiry: deadline.map { ContinuousClock.now + $0 }
        )
        let outcome: (result: ProgramResult, charts: [Chart])
        switch body.language ?? "" {
        case "python", "": outcome = try await run.python()
        case "javascript": outcome = (try await run.javaScript(body.code), [])
        case "typescript": outcome = (try await run.typeScript(), [])
        case let other:
            throw ToolboxError.badRequest("field 'language' is '\(other)', not one of python, javascript, typescript")
        }
        return try await programResponse(
            outcome.result,
            deadline: deadline,
            artifacts: try artifacts(outcome.charts),
            to: call
        )
    }

    private func artifacts(_ charts: [Chart]) throws -> String? {
        charts.isEmpty ? nil : try Chart.artifacts(charts)
    }
}

/// One run of code, on the runtime that the image has.
struct CodeRun: Sendable {
    let code: String
    let arguments: [String]
    let environment: [String: String]
    let directory: String
    let spoolDirectory: String
    let runner: ProgramRunner
    let call: ToolboxCall
    let expiry: ContinuousClock.Instant?

    func python() async throws -> (ProgramResult, [Chart]) {
        guard let python = try await find(["python3", "python"]) else { return (missing("Python", "python3"), []) }
        let charts = try await onBlockingThread { [spoolDirectory] in try OpenFile.anonymous(in: spoolDirectory) }
        var program = program(python, ["-u", "-c", pythonBootstrap] + arguments)
        program.source = try await script(code)
        program.artifacts = charts
        let result = try await runner.run(program, deadline: remaining(), for: call)
        return (result, try await onBlockingThread { try readCharts(charts) })
    }

    /// Code on standard input: modules are found from the working directory, nothing is left on disk.
    func javaScript(_ code: String) async throws -> ProgramResult {
        guard let node = try await find(["node", "nodejs"]) else { return missing("Node.js", "node") }
        var program = program(node, ["--enable-source-maps", "-"] + arguments)
        program.input = try await script(withoutScriptSlot(code))
        return try await runner.run(program, deadline: remaining(), for: call)
    }

    func typeScript() async throws -> ProgramResult {
        if let tsx = try await find(["tsx"]) { return try await runFile(tsx, []) }
        if let tsNode = try await find(["ts-node"]) { return try await runFile(tsNode, ["-T"]) }
        if let esbuild = try await find(["esbuild"]) { return try await runTranspiled(by: esbuild) }
        if let bun = try await find(["bun"]) { return try await runFile(bun, ["run"]) }
        if let node = try await find(["node", "nodejs"]), try await stripsTypes(node) {
            return try await runFile(node, ["--experimental-strip-types", "--no-warnings"])
        }
        return missing("a TypeScript runner", "tsx, ts-node, esbuild, bun or node 22.6 or later")
    }

    private func runTranspiled(by esbuild: String) async throws -> ProgramResult {
        let transpiled = try await onBlockingThread { [spoolDirectory] in try OpenFile.anonymous(in: spoolDirectory) }
        var program = program(
            esbuild,
            [
                "--loader=ts", "--format=cjs", "--platform=node", "--sourcemap=inline", "--sourcefile=main.ts",
                "--log-level=error",
            ]
        )
        program.input = try await script(code)
        program.standardOutput = transpiled
        let result = try await runner.run(program, deadline: remaining(), for: call)
        guard result.exitCode == 0, !result.timedOut else { return result }
        let text = try await onBlockingThread {
            guard let size = FileStatus.of(transpiled)?.size else { return "" }
            return String(buffer: try transpiled.read(max(1, size), at: 0))
        }
        return try await javaScript(text)
    }

    private func runFile(_ runtime: String, _ options: [String]) async throws -> ProgramResult {
        let text = withoutScriptSlot(code)
        let folder = try await onBlockingThread { [spoolDirectory] in try writeScriptFolder(text, in: spoolDirectory) }
        var program = program(runtime, options + ["\(folder)/main.ts"] + arguments)
        if program.environment["TS_NODE_COMPILER_OPTIONS"] == nil {
            program.environment["TS_NODE_COMPILER_OPTIONS"] = #"{"module":"CommonJS"}"#
        }
        let result: ProgramResult
        do {
            result = try await runner.run(program, deadline: remaining(), for: call)
        } catch {
            try? await onBlockingThread { removeScriptFolder(folder) }
            throw error
        }
        try await onBlockingThread { removeScriptFolder(folder) }
        return result
    }

    private func stripsTypes(_ node: String) async throws -> Bool {
        let result = try await runner.run(program(node, ["--version"]), deadline: remaining(), for: call)
        let version = try await result.output.tail(64).dropFirst().split(separator: ".").prefix(2).compactMap {
            Int($0)
        }
        return version.count == 2 && (version[0], version[1]) >= (22, 6)
    }

    private func program(_ path: String, _ arguments: [String]) -> ProgramSpecification {
        ProgramSpecification(
            executable: path,
            arguments: [path] + arguments,
            environment: environment,
            directory: directory
        )
    }

    private func script(_ text: String) async throws -> OpenFile {
        try await onBlockingThread { [spoolDirectory] in try scriptFile(text, in: spoolDirectory) }
    }

    private func find(_ names: [String]) async throws -> String? {
        try await onBlockingThread { [environment] in
            names.lazy.compactMap { ProgramSearch.find($0, in: environment) }.first
        }
    }

    private func remaining() -> Duration? {
        expiry.map { max(.milliseconds(1), $0 - .now) }
    }

    /// As a shell says it: 127.
    private func missing(_ what: String, _ name: String) -> ProgramResult {
        var output = SpooledOutput()
        output.memory.writeString(
            "\(what) is not in this sandbox: \(name) was not found in PATH; install it or use an image that has it\n"
        )
        return ProgramResult(exitCode: 127, output: output)
    }
}

/// Removes the script's own place from `process.argv`, so that the first argument has index 1. In front of the first line, so
/// that line numbers stay right, but behind a directive, which must come first.
func withoutScriptSlot(_ code: String) -> String {
    if code.hasPrefix("#!") { return code }
    let directive = ["\"use strict\"", "'use strict'"].contains { code.drop(while: \.isWhitespace).hasPrefix($0) }
    return (directive ? "'use strict';" : "") + "process.argv.splice(1,1);" + code
}

private func readCharts(_ file: OpenFile) throws -> [Chart] {
    guard let size = FileStatus.of(file)?.size, size > 0, size <= chartsLimitBytes else { return [] }
    return Chart.parse(lines: try file.read(size, at: 0).readableBytesView)
}

private func writeScriptFolder(_ text: String, in directory: String) throws -> String {
    var template = Array("\(directory)/martlet-code-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw ToolboxError.file(errno, "create a directory in", directory) }
    let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let file = try OpenFile.open("\(folder)/main.ts", O_WRONLY | O_CREAT | O_EXCL, mode: 0o600, to: "write")
    try file.write(ByteBuffer(string: text).readableBytesView)
    return folder
}

private func removeScriptFolder(_ folder: String) {
    unlink("\(folder)/main.ts")
    rmdir(folder)
}
