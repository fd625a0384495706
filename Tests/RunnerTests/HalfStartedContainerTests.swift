import Foundation
import Testing

@testable import Runner

/// What the engine forgot is found by the name of its control group.
@Suite struct HalfStartedContainerTests {
    @Test func whatIsLeftInTheControlGroupIsKilledAndNothingElse() async throws {
        let id = (0..<64).map { _ in String("0123456789abcdef".randomElement() ?? "0") }.joined()
        let hierarchy =
            FileManager.default.fileExists(atPath: "/sys/fs/cgroup/pids") ? "/sys/fs/cgroup/pids" : "/sys/fs/cgroup"
        let group = "\(hierarchy)/docker/\(id)"
        try FileManager.default.createDirectory(atPath: group, withIntermediateDirectories: true)
        defer { rmdir(group) }
        let (left, bystander) = (Process(), Process())
        for process in [left, bystander] {
            process.executableURL = URL(fileURLWithPath: "/bin/sleep")
            process.arguments = ["60"]
            try process.run()
        }
        defer { bystander.terminate() }
        let shim = Process()
        let program = "\(FileManager.default.temporaryDirectory.path)/containerd-shim-\(id.prefix(8))"
        try FileManager.default.createSymbolicLink(atPath: program, withDestinationPath: "/bin/sh")
        defer { try? FileManager.default.removeItem(atPath: program) }
        shim.executableURL = URL(fileURLWithPath: program)
        shim.arguments = ["-c", "read -r line", "-namespace", "test", "-id", id]
        shim.standardInput = Pipe()
        try shim.run()
        try "\(left.processIdentifier)".write(toFile: "\(group)/cgroup.procs", atomically: false, encoding: .utf8)
        #expect(HalfStartedContainer.groups(of: id).contains(group))
        #expect(await HalfStartedContainer.end(id) == 2, "what is in the group, and its shim, which is not")
        left.waitUntilExit()
        shim.waitUntilExit()
        #expect(left.terminationReason == .uncaughtSignal)
        #expect(bystander.isRunning)
        #expect(await HalfStartedContainer.end(id) == 0)
        #expect(await HalfStartedContainer.end("../../\(id)") == 0)
    }

    @Test func aShimIsKnownByWhatItWasStartedWith() {
        let shim = "/usr/bin/containerd-shim-runc-v2"
        #expect(
            HalfStartedContainer.isShim(
                of: "ab",
                arguments: [shim, "-namespace", "moby", "-id", "ab", "-address", "/a"]
            )
        )
        #expect(!HalfStartedContainer.isShim(of: "ab", arguments: [shim, "-namespace", "ab", "-id", "cd"]))
        #expect(!HalfStartedContainer.isShim(of: "ab", arguments: ["/usr/bin/vim", "-id", "ab"]))
        #expect(!HalfStartedContainer.isShim(of: "ab", arguments: []))
    }
}
