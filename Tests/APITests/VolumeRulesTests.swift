import Testing

@testable import API

@Suite struct VolumeRulesTests {
    @Test func placesThatAreTaken() {
        for path in [
            "/data", "/home/daytona/volume", "/mnt/a b", "/usr/share/data", "/etcetera", "/opt", "/var/lib/x", "/ü",
        ] {
            #expect(VolumeRules.problem(ofMountPath: path) == nil, "\(path)")
        }
        for path in [
            "", "data", "/", "//", "/a/", "/a//b", "/a/./b", "/a/../b", "/..", "/etc", "/etc/x", "/proc/1", "/sys",
            "/dev/shm",
            "/usr", "/usr/bin/x", "/var", "/.martlet/bin", "/lib64", "/run/x", "/a\nb",
            "/" + String(repeating: "x", count: 256),
        ] {
            #expect(VolumeRules.problem(ofMountPath: path)?.contains("mountPath") == true, "\(path)")
        }
    }

    @Test func subpathsThatStayWithin() {
        for path in ["", "a", "a/b", "users/a b", "..a", ".hidden"] {
            #expect(VolumeRules.problem(ofSubpath: path) == nil, "\(path)")
        }
        for path in ["/a", "..", "a/..", "users/a/../b", "a//b", "a/", "./a", "a/\u{7f}"] {
            #expect(VolumeRules.problem(ofSubpath: path)?.contains("subpath") == true, "\(path)")
        }
    }

    @Test func noVolumeLiesWithinAnother() {
        #expect(VolumeRules.problems(ofPaths: ["/a", "/b", "/ab"]).isEmpty)
        #expect(VolumeRules.problems(ofPaths: ["/a", "/a"]).count == 1)
        #expect(VolumeRules.problems(ofPaths: ["/a/b/c", "/a"]).first?.contains("'/a/b/c' lies within '/a'") == true)
    }
}
