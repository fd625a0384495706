import Foundation
import Testing

@testable import Runner

/// An interface that an engine had not moved into its container yet when it was killed, on a bridge of the test's own.
@Suite struct HalfMadeInterfaceTests {
    @Test func whatStaysHalfMadeIsRemovedAndNothingElse() async throws {
        let mark = String(UUID().uuidString.lowercased().prefix(8))
        let (bridge, namespace) = ("br\(mark)", "ns\(mark)")
        try ip("netns", "add", namespace)
        try ip("link", "add", bridge, "type", "bridge")
        defer {
            try? ip("netns", "delete", namespace)
            try? ip("link", "delete", bridge)
        }
        try ip("link", "add", "va\(mark)", "type", "veth", "peer", "name", "vb\(mark)")
        try ip("link", "set", "va\(mark)", "master", bridge)
        try ip("link", "add", "vc\(mark)", "type", "veth", "peer", "name", "vd\(mark)")
        try ip("link", "set", "vc\(mark)", "master", bridge)
        try ip("link", "set", "vd\(mark)", "netns", namespace)

        var interfaces = HalfMadeInterfaces(bridge: bridge)
        #expect(try await interfaces.collect(now: .seconds(5)) == [])
        #expect(!interfaces.isEmpty)
        #expect(try await interfaces.collect(now: .seconds(154)) == [], "it may be about to be moved")
        #expect(try await interfaces.collect(now: .seconds(155)) == ["va\(mark)"])
        #expect(interfaces.isEmpty)
        #expect(throws: (any Error).self) { try ip("link", "show", "vb\(mark)") }
        try ip("link", "show", "vc\(mark)")
    }

    @Test func nothingIsNoList() {
        #expect(HalfMadeInterfaces.halfMade("") == [])
        #expect(HalfMadeInterfaces.halfMade("[]") == [])
    }

    private func ip(_ arguments: String...) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["ip"] + arguments
        (process.standardOutput, process.standardError) = (FileHandle.nullDevice, FileHandle.nullDevice)
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw CocoaError(.executableLoad) }
    }
}
