import Testing

@testable import Reconciling

#if canImport(Glibc)
    import Glibc
#else
    import Musl
#endif

@Suite struct FaultPointTests {
    @Test func readsItsNotation() {
        let faults = FaultPoint.parse("after-create:crash@2,start:delay:500,stop:throw")
        #expect(
            faults == [
                .init(name: "after-create", action: .crash, passage: 2),
                .init(name: "start", action: .delay(.milliseconds(500))),
                .init(name: "stop", action: .raise),
            ]
        )
    }

    @Test(arguments: [
        "x", "x:", ":crash", "x:explode", "x:delay", "x:delay:soon", "x:crash@", "x:crash@two", "x:crash@1@2",
    ])
    func refusesOthers(_ text: String) {
        #expect(FaultPoint.parse(text) == nil)
    }

    @Test func raisesAtItsPassageOnly() async throws {
        let plan = FaultPoint.Plan([.init(name: "here", action: .raise, passage: 2)])
        try await FaultPoint.$plan.withValue(plan) {
            try await FaultPoint.hit("here")
            try await FaultPoint.hit("elsewhere")
            await #expect(throws: FaultPoint.Raised(name: "here")) { try await FaultPoint.hit("here") }
            try await FaultPoint.hit("here")
        }
        try await FaultPoint.hit("here")
    }

    @Test func crashesByEnvironment() async {
        await #expect(processExitsWith: .signal(SIGKILL)) {
            setenv("MARTLET_FAULT", "here:crash@2", 1)
            try await FaultPoint.hit("here")
            try await FaultPoint.hit("here")
        }
    }
}
