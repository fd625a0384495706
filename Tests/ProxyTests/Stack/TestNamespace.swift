import CLinux
import Foundation
import Runner

/// A network namespace of its own, held by a process that does nothing in it.
final class TestNamespace: Sendable {
    let target: SandboxTarget
    private let process: Process

    /// `unshare -n` with a loopback that is up; `martlet-test` is not there before this returns.
    init() throws {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/unshare")
        process.arguments = ["-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        guard try output.fileHandleForReading.read(upToCount: 3) == Data("up\n".utf8) else {
            throw TestFailure("unshare -n did not work; the tests need root")
        }
        self.process = process
        target = SandboxTarget(pid: process.processIdentifier, cgroupFragment: ":")
    }

    deinit { process.terminate() }

    /// A socket that listens on 127.0.0.1:`port` in the namespace.
    func listen(on port: UInt16, backlog: Int32 = 512) throws -> Int32 {
        let descriptor = martlet_netns_socket(target.pid, target.cgroupFragment)
        guard descriptor >= 0 else { throw TestFailure("no socket in the namespace: \(-descriptor)") }
        var on: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
        // A sockaddr_in byte by byte: which module the type belongs to depends on the order of headers.
        let family = UInt16(AF_INET)
        let address: [UInt8] =
            [UInt8(family & 255), UInt8(family >> 8), UInt8(port >> 8), UInt8(port & 255), 127, 0, 0, 1]
            + Array(repeating: 0, count: 8)
        let bound = address.withUnsafeBytes { bytes in
            // The array is not empty, so it has an address.
            bind(descriptor, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(bytes.count))
        }
        guard bound == 0, Foundation.listen(descriptor, backlog) == 0 else { throw TestFailure("bind: \(errno)") }
        return descriptor
    }
}

struct TestFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
