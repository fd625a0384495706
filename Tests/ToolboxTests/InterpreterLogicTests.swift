import FoundationEssentials
import NIOCore
import Synchronization
import Testing
import WebSockets

@testable import Toolbox

@Suite("Interpreter logic", .timeLimit(.minutes(5)))
struct InterpreterLogicTests {
    @Test("Whatever happens in a queue, one has the turn, it goes by arrival, and nobody is forgotten")
    func queueModel() {
        var random = SeededGenerator()
        for _ in 0..<200 {
            var queue = TurnQueue(limit: 3)
            var model: [Int] = []
            for ticket in 0..<40 {
                if Bool.random(using: &random) {
                    let entry = queue.enter(ticket)
                    let expected: TurnQueue.Entry = model.isEmpty ? .turn : model.count <= 3 ? .waits : .full
                    #expect(entry == expected, "seed \(random.seed)")
                    if entry != .full { model.append(ticket) }
                } else if let leaver = model.randomElement(using: &random) {
                    let hadTurn = model.first == leaver
                    model.removeAll { $0 == leaver }
                    #expect(queue.leave(leaver) == (hadTurn ? model.first : nil), "seed \(random.seed)")
                }
                #expect(queue.holder == model.first && queue.waiting == Array(model.dropFirst()))
            }
            #expect(queue.close() == Array(model.dropFirst()))
            #expect(queue.enter(99) == .closed)
        }
    }

    @Test(
        "A line lets in by arrival, refuses beyond its limit, forgets who was cancelled, and wakes all when it closes"
    )
    func line() async throws {
        let line = TurnLine(limit: 2)
        let first = try await line.enter()
        let order = Order()
        let second = Task {
            let ticket = try await line.enter()
            order.add("second")
            line.leave(ticket)
        }
        #expect(try await eventually { line.waitingCount == 1 })
        let third = Task {
            let ticket = try await line.enter()
            order.add("third")
            line.leave(ticket)
        }
        #expect(try await eventually { line.waitingCount == 2 })
        await #expect(throws: TurnRefusal.full) { try await line.enter() }
        line.leave(first)
        try await second.value
        try await third.value
        #expect(order.names == ["second", "third"])

        let holder = try await line.enter()
        let cancelled = Task { try await line.enter() }
        #expect(try await eventually { line.waitingCount == 1 })
        cancelled.cancel()
        await #expect(throws: CancellationError.self) { try await cancelled.value }
        #expect(line.waitingCount == 0)
        let refused = Task { try await line.enter() }
        #expect(try await eventually { line.waitingCount == 1 })
        line.close()
        await #expect(throws: TurnRefusal.closed) { try await refused.value }
        line.leave(holder)
        await #expect(throws: TurnRefusal.closed) { try await line.enter() }
    }

    @Test("An execution is interrupted once, not before its code runs, then killed, then its client is given up")
    func stopping() {
        var machine = StopMachine()
        #expect(machine.begins() == [])
        #expect(machine.stop(.timeout) == [.interrupt, .startGrace])
        #expect(machine.stop(.clientGone) == [])
        #expect(machine.cause == .timeout && !machine.wasKilled)
        #expect(machine.graceIsOver() == [.kill, .startGrace])
        #expect(machine.wasKilled)
        #expect(machine.graceIsOver() == [.giveUpClient])
        #expect(machine.graceIsOver() == [])
        #expect(machine.cause == .timeout && machine.wasKilled)

        var early = StopMachine()
        #expect(early.stop(.clientGone) == [.startGrace])
        #expect(early.begins() == [.interrupt])
        #expect(early.phase == .interrupted(.clientGone))

        var late = StopMachine()
        #expect(late.stop(.clientGone) == [.startGrace])
        #expect(late.graceIsOver() == [.kill, .startGrace])
        #expect(late.begins() == [])

        var finished = StopMachine()
        _ = finished.begins()
        finished.finish()
        #expect(finished.stop(.timeout) == [] && finished.graceIsOver() == [] && finished.begins() == [])
        #expect(finished.phase == .finished && finished.cause == nil)
    }

    @Test("However a stream is cut, the mark is found and nothing else is lost or held back for good")
    func cutting() {
        var random = SeededGenerator()
        let mark: [UInt8] = [0xFF] + Array("ab\u{1}".utf8) + [0xFF]
        for _ in 0..<500 {
            // Made of the mark's own beginnings, which are the hard ones.
            let pieces: [[UInt8]] = [[0xFF], [0xFF, 0x61], Array(mark.dropLast()), [0x61], [0x78, 0x79], [0xC3]]
            func filling() -> [UInt8] {
                (0..<Int.random(in: 0...6, using: &random)).flatMap { _ in pieces.randomElement(using: &random) ?? [] }
            }
            let (output, rest) = (filling(), filling())
            guard ByteBuffer(bytes: output + mark).firstMark(mark) == output.count else { continue }
            var cutter = OutputCutter()
            cutter.begin(mark)
            var (seen, after, ends) = ([UInt8](), [UInt8](), 0)
            var all = (output + mark + rest)[...]
            while !all.isEmpty {
                let count = Int.random(in: 1...min(all.count, 7), using: &random)
                let cut = cutter.cut(ByteBuffer(bytes: all.prefix(count)))
                all = all.dropFirst(count)
                seen += Array(cut.output.readableBytesView)
                after += Array(cut.rest.readableBytesView)
                ends += cut.ended ? 1 : 0
            }
            #expect(seen == output && after == rest && ends == 1, "seed \(random.seed)")
        }
    }

    @Test("Ordinary text is never held back, and what is held at the end of the stream comes out")
    func holding() {
        var cutter = OutputCutter()
        cutter.begin([0xFF, 0x61, 0xFF])
        #expect(cutter.cut(ByteBuffer(string: "text é")).output == ByteBuffer(string: "text é"))
        #expect(cutter.cut(ByteBuffer(bytes: [0x62, 0xFF, 0x61])).output == ByteBuffer(bytes: [0x62]))
        #expect(cutter.finish() == ByteBuffer(bytes: [0xFF, 0x61]))
        #expect(cutter.cut(ByteBuffer(string: "x")).rest == ByteBuffer(string: "x"))
    }

    @Test("Reports are read whole, and everything else is nonsense")
    func reports() {
        var reader = ReportReader(limitBytes: 100)
        #expect(reader.read(ByteBuffer(string: #"{"ready":true}"#)) == [])
        #expect(reader.read(ByteBuffer(string: "\n{\"started\":1}\n{\"do")) == [.ready, .started(1)])
        let failure = PythonFailure(name: "E", value: "v", traceback: "t")
        let error = #"ne":1,"error":{"name":"E","value":"v","traceback":"t"},"interrupted":true}"# + "\n"
        #expect(reader.read(ByteBuffer(string: error)) == [.done(1, failure, interrupted: true)])
        let plain = #"{"done":2,"error":null,"interrupted":false}"# + "\n"
        #expect(reader.read(ByteBuffer(string: plain)) == [.done(2, nil, interrupted: false)])
        for line in [
            "", "{}", "7", "{", #"{"started":1,"done":1}"#, #"{"done":"x"}"#, "\u{0}", #"{"done":1,"error":7}"#,
        ] {
            #expect(reader.read(ByteBuffer(string: line + "\n")) == [.nonsense], "\(line)")
        }
        #expect(reader.read(ByteBuffer(repeating: 0x78, count: 101)) == [.nonsense])
        #expect(reader.read(ByteBuffer(bytes: [0xFF, 0x0A])) == [.nonsense])
    }

    @Test("Of what comes between executions the newest is kept, and the rest counted")
    func leftovers() {
        var leftover = Leftover(limitBytes: 10)
        for number in 0..<100 { leftover.append(ByteBuffer(string: "\(number % 10)")) }
        let taken = leftover.take()
        #expect(taken.bytes == ByteBuffer(string: "0123456789"))
        #expect(taken.droppedBytes == 90)
        #expect(leftover.take().bytes.readableBytes == 0)
    }

    @Test("The first message: defaults, and what is wrong with it")
    func requests() throws {
        let plain = try ExecutionRequest(.text(#"{"code":"1"}"#))
        #expect(plain.code == "1" && plain.contextID == nil && plain.variables == [:] && plain.timeout == .seconds(600))
        let full = #"{"code":"x","contextId":"c","envs":{"A":"1"},"timeout":7}"#
        let request = try ExecutionRequest(.binary(ByteBuffer(string: full)))
        #expect(request.contextID == "c" && request.variables == ["A": "1"] && request.timeout == .seconds(7))
        #expect(try ExecutionRequest(.text(#"{"code":"","contextId":"default","timeout":0}"#)).timeout == nil)
        #expect(try ExecutionRequest(.text(#"{"code":"","contextId":"default"}"#)).contextID == nil)
        let wrong = [
            ("{", "JSON"), ("[]", "message"), ("{}", "code"), (#"{"code":1}"#, "code"),
            (#"{"code":"","envs":[]}"#, "envs"),
            (#"{"code":"","envs":{"A B":""}}"#, "A B"), (#"{"code":"","timeout":-1}"#, "timeout"),
            (#"{"code":"","timeout":"1"}"#, "timeout"), (#"{"code":"","contextId":7}"#, "contextId"),
        ]
        for (text, named) in wrong {
            let error = #expect(throws: ToolboxError.self) { try ExecutionRequest(.text(text)) }
            #expect(error?.message.contains(named) == true, "\(text): \(error?.message ?? "")")
        }
        let long = #"{"code":""# + String(repeating: "x", count: InterpreterLimit.codeBytes + 1) + #""}"#
        #expect(throws: ToolboxError.self) { try ExecutionRequest(.text(long)) }
    }

    @Test("A handover keeps the order of each giver, holds nothing, and lets all go at its end")
    func handover() async {
        let handover = Handover<(Int, Int)>()
        await withTaskGroup(of: Void.self) { tasks in
            for giver in 0..<3 {
                tasks.addTask { for number in 0..<100 { await handover.give((giver, number)) } }
            }
            var next = [0, 0, 0]
            for _ in 0..<300 {
                guard let (giver, number) = await handover.take() else { break }
                #expect(number == next[giver])
                next[giver] += 1
            }
            #expect(next == [100, 100, 100])
        }
        async let given: Void = handover.give((0, 0))
        while handover.dropAll() == 0 { await Task.yield() }
        await given
        async let taken = handover.take()
        handover.finish()
        #expect(await taken == nil)
        await handover.give((1, 1))
    }
}

private final class Order: Sendable {
    private let state = Mutex<[String]>([])

    var names: [String] { state.withLock { $0 } }

    func add(_ name: String) { state.withLock { $0.append(name) } }
}

extension ByteBuffer {
    fileprivate func firstMark(_ mark: [UInt8]) -> Int? {
        readableBytesView.firstRange(of: mark).map { $0.lowerBound - readerIndex }
    }
}
