import FoundationEssentials
import Glibc
import NIOCore
import Testing

@testable import Toolbox

/// What a log's readers see.
private struct Seen: Equatable {
    var output = ""
    var errors = ""
    var gaps = 0

    mutating func add(_ piece: LogPiece) {
        var records = piece.records
        if piece.followsGap { gaps += 1 }
        while let record = LogRecord.read(from: &records) {
            switch record.stream {
            case .standardOutput: output += String(buffer: record.payload)
            case .standardError: errors += String(buffer: record.payload)
            }
        }
    }

    static func all(of log: OutputLog) async -> Seen {
        var seen = Seen()
        var cursor = LogCursor(log, upTo: log.end)
        while let piece = await cursor.next() { seen.add(piece) }
        return seen
    }
}

@Suite("Logs", .timeLimit(.minutes(5))) struct LogTests {
    /// A parent of log directories that goes away.
    private func withDirectory(_ body: (String, LogDirectory) async throws -> Void) async throws {
        let parent = try makeTemporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: parent) }
        try await body(parent, LogDirectory(in: [parent]))
    }

    private func files(below parent: String) throws -> [String] {
        try FileManager.default.subpathsOfDirectory(atPath: parent).filter {
            !$0.hasPrefix(".martlet") || $0.contains("/")
        }
    }

    @Test("Both streams keep their order, in memory and in files, and small logs make no file")
    func order() async throws {
        try await withDirectory { parent, directory async throws in
            let small = OutputLog(in: directory, limit: 1 << 20)
            small.append(.standardOutput, ByteBuffer(string: "out"))
            small.append(.standardError, ByteBuffer(string: "err"))
            small.finish()
            #expect(await Seen.all(of: small) == Seen(output: "out", errors: "err"))
            #expect(try FileManager.default.contentsOfDirectory(atPath: parent) == [])
            let large = OutputLog(in: directory, limit: 1 << 20)
            var expected = Seen()
            for number in 0..<2000 {
                let text = "\(number) " + String(repeating: "x", count: number % 200)
                await large.store(ByteBuffer(string: text), of: number % 3 == 0 ? .standardError : .standardOutput)
                if number % 3 == 0 { expected.errors += text } else { expected.output += text }
            }
            large.finish()
            #expect(await Seen.all(of: large) == expected)
            #expect(try await eventually { large.usage.files > 200_000 })
            large.discard(forGood: true)
            #expect(try files(below: parent) == [])
            #expect(await Seen.all(of: large) == Seen(gaps: 1))
            directory.remove()
            #expect(try FileManager.default.contentsOfDirectory(atPath: parent) == [])
        }
    }

    @Test("Beyond the limit the oldest is forgotten, and readers are told of the gap")
    func limit() async throws {
        try await withDirectory { parent, directory async throws in
            let limit = 8 * 128 << 10
            let log = OutputLog(in: directory, limit: limit)
            var cursor = LogCursor(log, upTo: nil)
            await log.store(ByteBuffer(string: "first\n"), of: .standardOutput)
            _ = await cursor.next()
            for number in 0..<400 {
                await log.store(
                    ByteBuffer(string: "\(number):" + String(repeating: "y", count: 10_000)),
                    of: .standardOutput
                )
            }
            await log.store(ByteBuffer(string: "last"), of: .standardOutput)
            log.finish()
            #expect(try await eventually { log.usage.files > limit / 2 })
            #expect(log.usage.files <= limit)
            var seen = Seen()
            while let piece = await cursor.next() { seen.add(piece) }
            #expect(seen.gaps == 1)
            #expect(seen.output.hasSuffix("last") && seen.output.contains(":yyy"))
            #expect(seen.output.utf8.count <= limit + 4 * LogLimit.memoryBytes)
            let size = try files(below: parent).reduce(0) {
                $0 + (try FileStatus.of("\(parent)/\($1)")?.size ?? 0)
            }
            #expect(size <= limit)
        }
    }

    @Test("Without a place for files the newest stays in memory")
    func noDisk() async throws {
        let log = OutputLog(in: LogDirectory(in: ["/nowhere"]), limit: 1 << 20)
        for number in 0..<100 {
            await log.store(
                ByteBuffer(string: "\(number) " + String(repeating: "z", count: 10_000)),
                of: .standardOutput
            )
        }
        log.finish()
        #expect(try await eventually { log.usage.memory > 0 })
        let seen = await Seen.all(of: log)
        #expect(seen.gaps == 1 && seen.output.contains("99 zz"))
        #expect(seen.output.utf8.count < 4 * LogLimit.memoryBytes)
    }

    @Test("Removing the directory or writing into its files harms nothing but what was in them")
    func meddling() async throws {
        try await withDirectory { parent, directory async throws in
            let log = OutputLog(in: directory, limit: 1 << 20)
            func fill() async { await log.store(ByteBuffer(repeating: 0x61, count: 300_000), of: .standardOutput) }
            await fill()
            #expect(try await eventually { log.usage.files > 250_000 })
            for file in try files(below: parent) {
                try Data(repeating: 0xFF, count: 1000).write(to: URL(filePath: "\(parent)/\(file)"))
            }
            var seen = await Seen.all(of: log)
            #expect(seen.gaps > 0)
            var follower = LogCursor(log, upTo: nil)
            seen = Seen()
            while seen.gaps == 0, let piece = await follower.next() { seen.add(piece) }
            log.append(.standardError, ByteBuffer(string: "more"))
            while seen.errors.isEmpty, let piece = await follower.next() { seen.add(piece) }
            #expect(seen.errors == "more")
            for name in try FileManager.default.contentsOfDirectory(atPath: parent) {
                try FileManager.default.removeItem(atPath: "\(parent)/\(name)")
            }
            await fill()
            await log.store(ByteBuffer(string: "end"), of: .standardError)
            log.finish()
            seen = await Seen.all(of: log)
            #expect(seen.errors.hasSuffix("end"))
        }
    }

    @Test("What a killed daemon left is removed by the next one, what a living one uses is not")
    func abandoned() async throws {
        try await withDirectory { parent, living async throws in
            let file = try living.makeFile()
            try file.write(ByteBuffer(string: "kept"), at: 0)
            let abandoned = "\(parent)/.martlet-logs-abcdef"
            #expect(mkdir(abandoned, 0o700) == 0)
            try Data("old".utf8).write(to: URL(filePath: "\(abandoned)/1"))
            let next = LogDirectory(in: [parent])
            _ = try next.makeFile()
            #expect(access(abandoned, F_OK) != 0)
            #expect(String(buffer: try file.read(100, at: 0)) == "kept")
            next.remove()
            living.remove()
            #expect(try FileManager.default.contentsOfDirectory(atPath: parent) == [])
        }
    }

    @Test("A reader waits for more, and is woken by output, by the end, and by being cancelled")
    func waiting() async throws {
        try await withDirectory { _, directory async throws in
            let log = OutputLog(in: directory, limit: 1 << 20)
            async let read: Seen = {
                var seen = Seen()
                var cursor = LogCursor(log, upTo: nil)
                while let piece = await cursor.next() { seen.add(piece) }
                return seen
            }()
            for number in 0..<50 {
                log.append(.standardOutput, ByteBuffer(string: "\(number),"))
                await Task.yield()
            }
            log.finish()
            #expect(await read.output == (0..<50).map { "\($0)," }.joined())
            let endless = OutputLog(in: directory, limit: 1 << 20)
            let waiting = Task {
                var cursor = LogCursor(endless, upTo: nil)
                return await cursor.next() == nil
            }
            waiting.cancel()
            #expect(await waiting.value)
            for _ in 0..<LogLimit.followers { #expect(endless.addFollower()) }
            #expect(!endless.addFollower())
            endless.removeFollower()
            #expect(endless.addFollower())
        }
    }

    @Test("Whatever a program prints, the SDK's reader gives each byte that it keeps to the right stream")
    func markers() {
        var random = SeededGenerator()
        for _ in 0..<300 {
            var framer = MarkerFramer()
            var wire = framer.begin()
            var written: [LogStream: [UInt8]] = [.standardOutput: [], .standardError: []]
            for _ in 0..<Int.random(in: 0...6, using: &random) {
                var records = ByteBuffer()
                for _ in 0..<Int.random(in: 1...4, using: &random) {
                    let stream = LogStream.allCases.randomElement(using: &random)!  // not empty
                    let base: UInt8 = stream == .standardOutput ? 0x61 : 0x41
                    let bytes = (0..<Int.random(in: 1...12, using: &random)).map { _ -> UInt8 in
                        Bool.random(using: &random) ? base : .random(in: 1...2, using: &random)
                    }
                    written[stream]! += bytes  // has both
                    LogRecord.write(stream, ByteBuffer(bytes: bytes), to: &records)
                }
                wire.writeImmutableBuffer(framer.frame(LogPiece(records: records, next: 0), gapNote: ""))
            }
            let read = decode(Array(wire.readableBytesView))
            for stream in LogStream.allCases {
                let letter: UInt8 = stream == .standardOutput ? 0x61 : 0x41
                let (got, wanted) = (read[stream, default: []], written[stream]!)  // has both
                #expect(got.filter { $0 > 2 } == wanted.filter { $0 > 2 }, "seed \(random.seed)")
                #expect(got.allSatisfy { $0 <= 2 || $0 == letter }, "seed \(random.seed)")
            }
        }
    }

    /// Takes the first three equal marker bytes for a marker, as the SDK does.
    private func decode(_ wire: [UInt8]) -> [LogStream: [UInt8]] {
        var read: [LogStream: [UInt8]] = [:]
        var current: LogStream?
        var rest = wire[...]
        while let first = rest.first {
            if let stream = LogStream(rawValue: first), rest.prefix(3).elementsEqual([first, first, first]) {
                current = stream
                rest = rest.dropFirst(3)
            } else {
                if let current { read[current, default: []].append(first) }
                rest = rest.dropFirst()
            }
        }
        return read
    }

    @Test("A shell's reports are read in pieces of any size; what is none is skipped")
    func reports() {
        let text =
            "b 1\ne 1 0\n\nnonsense\nb\nb x\ne 1\ne 2 3 4\n" + String(repeating: "e 9 9", count: 99) + "\ne 2 130\n"
        let expected: [ShellReport] = [.began(1), .ended(1, code: 0), .ended(2, code: 130)]
        for size in [1, 2, 7, 4096] {
            var parser = ShellReportParser()
            var rest = Array(text.utf8)[...]
            var reports: [ShellReport] = []
            while !rest.isEmpty {
                reports += parser.parse(rest.prefix(size))
                rest = rest.dropFirst(size)
            }
            #expect(reports == expected)
        }
    }
}
