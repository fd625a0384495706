import Foundation
import Testing

@testable import Runner

#if canImport(Glibc)
    import Glibc
#endif

/// What is in a volume is its users' and hostile.
@Suite struct VolumeFilesTests {
    private func withFolder(_ body: (String) throws -> Void) throws {
        let folder = "/tmp/martlet-volume-\(UInt32.random(in: 0 ... .max))"
        try FileManager.default.createDirectory(atPath: folder + "/root/a", withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try body(folder)
    }

    private func path(of descriptor: CInt) throws -> String {
        try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(descriptor)")
    }

    @Test func aSubpathIsFoundOrMadeWithinTheVolume() throws {
        try withFolder { folder in
            for subpath in [nil, "a", "a/new/deep"] {
                let opened = try HostMounts.open(subpath, below: folder + "/root")
                defer { close(opened) }
                #expect(try path(of: opened) == folder + "/root" + (subpath.map { "/" + $0 } ?? ""))
            }
        }
    }

    @Test func noLinkLeadsOut() throws {
        try withFolder { folder in
            let root = folder + "/root"
            symlink("/etc", root + "/absolute")
            symlink("..", root + "/a/up")
            symlink("a", root + "/inside")
            _ = FileManager.default.createFile(atPath: root + "/file", contents: Data())
            for subpath in [
                "absolute", "absolute/ssl", "a/up", "a/up/root", "inside", "file", "file/x", "..", "a/../..",
            ] {
                #expect(throws: RunnerError.self, "\(subpath)") {
                    close(try HostMounts.open(subpath, below: root))
                }
            }
            #expect(!FileManager.default.fileExists(atPath: "/etc/ssl/new"))
        }
    }

    /// A descriptor for each step, and each given back.
    @Test func noDescriptorIsLeftOpen() throws {
        try withFolder { folder in
            symlink("/etc", folder + "/root/a/link")
            func count() throws -> Int { try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count }
            let before = try count()
            for _ in 0..<200 {
                #expect(throws: RunnerError.self) { try HostMounts.open("a/link/x", below: folder + "/root") }
            }
            #expect(try count() < before + 190)
        }
    }

    @Test func whatIsNotInS3IsSeenInTheCache() throws {
        try withFolder { folder in
            let meta = folder + "/vfsMeta/volumes/bucket/id"
            #expect(try !UnsavedFiles.areThere(in: folder))
            try FileManager.default.createDirectory(atPath: meta, withIntermediateDirectories: true)
            _ = FileManager.default.createFile(atPath: meta + "/saved", contents: Data("{\n\t\"Dirty\": false\n}".utf8))
            #expect(try !UnsavedFiles.areThere(in: folder))
            _ = FileManager.default.createFile(atPath: meta + "/new", contents: Data("{\n\t\"Dirty\": true\n}".utf8))
            #expect(try UnsavedFiles.areThere(in: folder))
        }
    }

    @Test func ourProcessesAreKnownByTheirArguments() {
        func isServing(_ words: String...) -> Bool {
            VolumeProcesses.isServing("/v/mnt", arguments: words)
        }
        #expect(isServing("rclone", "mount", "volumes:b/x", "/v/mnt", "--daemon"))
        #expect(!isServing("rclone", "mount", "volumes:b/x", "/v/mnt2", "--daemon"))
        #expect(!isServing("rclone", "rc", "/v/mnt", "--daemon"))
        #expect(!isServing("vim", "/v/mnt"))
    }

    @Test func aConfigurationIsNoPlaceForLineBreaks() throws {
        var storage = VolumeStorage(endpoint: "http://s3", accessKey: "a", secretKey: "b", rclone: "rclone")
        #expect(try storage.configuration().contains("endpoint = http://s3\n"))
        storage.secretKey = "b\n[other]"
        #expect(throws: RunnerError.self) { try storage.configuration() }
    }

    @Test func rclonesLastWordIsTaken() {
        #expect(
            Rclone.gist("x\n2026/11/25 21:34:00 CRITICAL: Failed to create file system: no\n")
                == "Failed to create file system: no"
        )
        #expect(Rclone.gist("") == "it said nothing")
    }

    /// Once on, it stays on until there is clearly more room than when it came on.
    @Test func theBrakeDoesNotFlutter() {
        for (free, isOn, expected) in [
            (49, false, true), (50, false, false), (74, false, false), (74, true, true), (75, true, false),
            (0, true, true),
        ] as [(Int64, Bool, Bool)] {
            #expect(VolumeBrake.isNeeded(free: free, wanted: 100, isOn: isOn) == expected, "\(free) \(isOn)")
        }
    }

    @Test func filesOfAProcessAreLimitedAndLetGo() throws {
        let sleeper = Process()
        sleeper.executableURL = URL(filePath: "/usr/bin/env")
        sleeper.arguments = ["sleep", "600"]
        try sleeper.run()
        let pid = sleeper.processIdentifier
        defer { kill(pid, SIGKILL) }
        func limits() throws -> [Substring] {
            let text = try String(contentsOfFile: "/proc/\(pid)/limits", encoding: .utf8)
            let line = text.split(separator: "\n").first { $0.hasPrefix("Max file size") }
            return try #require(line).split(separator: " ").dropFirst(3).dropLast()
        }
        let hard = try limits()[1]
        try VolumeProcesses.limitFiles(of: pid, to: 4096)
        #expect(try limits() == ["4096", hard])
        try VolumeProcesses.limitFiles(of: pid, to: nil)
        #expect(try limits() == [hard, hard])
        kill(pid, SIGKILL)
        sleeper.waitUntilExit()
        // It is gone meanwhile.
        try VolumeProcesses.limitFiles(of: pid, to: 4096)
    }
}
