import Foundation
import Testing

@testable import Runner

/// Layers of trees of files, read by GNU tar, which is none of ours.
@Suite struct LayerTests {
    @Test func whatComesOutIsWhatWentIn() throws {
        try withFolder { folder in
            try shell(
                """
                mkdir -p new/deep/er new/empty; cd new; echo hi > a; ln a b; ln -s ../nowhere c; mkfifo p; chmod 4755 a
                chmod 1777 empty; chown 3000000:12345 deep; chown -h 3:4 c; truncate -s 3M sparse; echo end >> sparse
                head -c 2000001 /dev/urandom > random; touch $(printf 'n%.0s' $(seq 200)); mknod null c 1 3
                touch -d '1965-05-05 05:05:05.123456789' old; touch -d '1969-12-31 23:59:59.5 UTC' almost; printf x > "$(printf '\\377bad')"
                ln -s "$(printf 'l%.0s' $(seq 150))" long; mkdir -p "$(printf 'd%.0s' $(seq 90))/$(printf 'e%.0s' $(seq 90))"
                python3 -c "import os; os.setxattr('random', b'user.big', os.urandom(3000)); os.setxattr('deep', b'user.nul', b'a\\0b\\n=')"
                """,
                in: folder
            )
            let layer = try capture(folder, over: nil)
            try shell(
                "mkdir out; tar -xpf layer -C out --numeric-owner --xattrs --xattrs-include='*' --same-owner",
                in: folder
            )
            let again = try capture(folder, tree: "out", over: nil, to: "again")
            #expect(again.digest == layer.digest)
            #expect(again.bytes == layer.bytes)
        }
    }

    @Test func onlyWhatHasChangedIsInIt() throws {
        try withFolder { folder in
            try shell(
                """
                mkdir -p old/kept old/in old/gone/deep old/becomes; cd old
                for f in kept/a in/changed in/same in/gone gone/x gone/deep/y touched moded linked becomes/z file; do echo $f > $f; done
                ln in/same in/same2; cd ..; cp -al old new; cd new
                rm -rf gone in/gone becomes file; echo becomes > becomes; mkdir file; echo in > file/in
                # The copy shares its files with the original: what is changed is made anew, or would be changed in both.
                rm in/changed; echo new > in/changed; cp -p touched t; mv t touched; cp -p moded m; chmod 700 m; mv m moded
                """,
                in: folder
            )
            _ = try capture(folder, over: "old")
            let names = try shell("tar -tf layer | sort", in: folder).split(separator: "\n").map(String.init)
            let wanted: Set = [
                "./", ".wh.gone", "becomes", "file/", "file/in", "in/", "in/.wh.gone", "in/changed", "moded", "touched",
            ]
            // A copied folder has its own inode, so folders are there too.
            #expect(wanted.isSubset(of: names), "\(names)")
            #expect(names.filter { !$0.hasSuffix("/") }.allSatisfy(wanted.contains), "\(names)")
        }
    }

    @Test func nothingOutsideIsRead() throws {
        try withFolder { folder in
            try shell(
                "mkdir new secret; echo s > secret/s; ln -s ../secret new/way; ln -s /etc/shadow new/shadow",
                in: folder
            )
            _ = try capture(folder, over: nil)
            #expect(try shell("tar -tf layer", in: folder) == "./\nshadow\nway\n")
        }
    }

    @Test func whatOthersPutThereIsLeftOut() throws {
        try withFolder { folder in
            try shell(
                "mkdir -p new/.martlet/bin new/data/volume new/etc new/dev/pts new/mine/volume; cd new; touch .dockerenv etc/hosts etc/own mine/own",
                in: folder
            )
            _ = try capture(folder, over: nil, mountPoints: ["/.martlet/bin", "/data/volume", "/mine/volume"])
            #expect(try shell("tar -tf layer", in: folder) == "./\netc/\netc/own\nmine/\nmine/own\n")
        }
    }

    @Test func whatImagesCannotHoldIsRefusedByName() throws {
        let cases: [(String, String)] = [
            ("mkdir new/x; touch new/x/.wh.a", "x/.wh.a"), ("truncate -s 2G new/large", "large"),
            ("mkdir -p new/$(printf 'd/%.0s' $(seq 30))", "deeper than 20 folders"),
            ("for i in $(seq 60); do touch new/$i; done", "more than 50 files"),
            ("cd new; p=$(printf 'p%.0s' $(seq 200)); mkdir $p; mkdir $p/$p; touch $p/$p/$p", "longer than 500 bytes"),
        ]
        for (script, words) in cases {
            try withFolder { folder in
                try shell("mkdir new; \(script)", in: folder)
                var limits = CaptureLimits(contentBytes: 1 << 30)
                (limits.depth, limits.entries, limits.pathBytes) = (20, 50, 500)
                let error = #expect(throws: CaptureRefused.self) { try capture(folder, over: nil, limits: limits) }
                #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
            }
        }
    }

    /// Where quotas count all files, there must be room for what has not changed as well.
    @Test func whatHasNotChangedNeedsRoomToo() throws {
        try withFolder { folder in
            // Each of the two names of a file counts half.
            try shell(
                "mkdir old; head -c 2M /dev/urandom > old/kept; cp -al old new; truncate -s 1500K new/hole; touch new/small",
                in: folder
            )
            var limits = CaptureLimits(contentBytes: 2 << 20)
            _ = try capture(folder, over: "old", limits: limits)
            limits.countsBase = true
            let error = #expect(throws: CaptureRefused.self) { try capture(folder, over: "old", limits: limits) }
            #expect(error?.description.contains("the largest: 'hole', 1 MiB") == true, "\(error?.description ?? "")")
        }
    }

    /// A sparse file costs its owner nothing, whatever its size; with what came before, the sum would be no number.
    @Test func theLargestFileThereCanBeIsTooLarge() throws {
        try withFolder(in: "/dev/shm/") { folder in
            try shell("mkdir new; head -c 2M /dev/zero > new/a; truncate -s \(Int64.max - (1 << 20)) new/z", in: folder)
            #expect(throws: CaptureRefused.self) { try capture(folder, over: nil) }
        }
    }

    @Test func namesAreHeldWithinTheirLimit() throws {
        try withFolder { folder in
            try shell(
                "mkdir -p new/a/b; for d in new new/a new/a/b; do (cd $d; touch $(printf 'n%.0s' $(seq 99)){1..9}); done",
                in: folder
            )
            var limits = CaptureLimits(contentBytes: 1 << 30)
            // Of each folder alone it is enough, and of two.
            limits.nameBytes = 5000
            let error = #expect(throws: CaptureRefused.self) { try capture(folder, over: nil, limits: limits) }
            #expect(error?.description.contains("names") == true, "\(error?.description ?? "")")
            try shell("rm -r new/a/b", in: folder)
            _ = try capture(folder, over: nil, limits: limits)
            try shell("rm -r new; mkdir new; cd new; for i in 1 2 3 4; do echo > $i; ln $i $i$i; done", in: folder)
            limits.nameBytes = 1000
            _ = try capture(folder, over: nil, limits: limits)
            limits.nameBytes = 800
            let linked = #expect(throws: CaptureRefused.self) { try capture(folder, over: nil, limits: limits) }
            #expect(linked?.description.contains("several names") == true, "\(linked?.description ?? "")")
        }
    }

    @Test func roomIsLookedForBeforeAnythingIsWritten() throws {
        try withFolder { folder in
            #expect(try CaptureRoom.isOneDisk(folder, folder + "/.."))
            #expect(try !CaptureRoom.isOneDisk(folder, "/proc"))
            try CaptureRoom.judge(folder, before: 0, reserve: 0)
            let error = #expect(throws: CaptureTrouble.self) { try CaptureRoom.judge(folder, before: 1 << 60) }
            #expect(error?.prospect == .lasting)
            for word in [folder, "\(1 << 40) MiB", "1024 MiB stay free"] {
                #expect(error?.description.contains(word) == true, "\(error?.description ?? "")")
            }
        }
    }

    @Test func aCaptureIsCutOff() throws {
        try withFolder { folder in
            try shell("mkdir new; touch new/a", in: folder)
            #expect(throws: CancellationError.self) { try capture(folder, over: nil, isCancelled: true) }
        }
    }

    @Test func recordsCountThemselves() {
        for length in [1, 80, 88, 89, 90, 91, 92, 980, 986, 987, 988, 989, 990, 991] {
            let record = LayerEntry.record(Array("name".utf8), [UInt8](repeating: 0x61, count: length))
            #expect(Int(String(decoding: record.prefix { $0 != 0x20 }, as: UTF8.self)) == record.count)
        }
    }

    // MARK: - The image

    @Test func theImageIsRunAsBefore() throws {
        let before = """
            {"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Entrypoint":["/x"],"User":"u","Labels":{"l":"1"},\
            "Healthcheck":{"Interval":1500000000}},"container":"c","history":[{"created_by":"x"}],"variant":"v",\
            "rootfs":{"type":"layers","diff_ids":["sha256:1","sha256:2"]}}
            """
        let image = try CapturedImage(of: Data(before.utf8))
        #expect(image.base == ["sha256:1", "sha256:2"])
        let after = String(decoding: try image.configuration(adding: "sha256:3", isBackup: false), as: UTF8.self)
        #expect(
            after == """
                {"architecture":"amd64","config":{"Entrypoint":["/x"],"Env":["A=b"],"Healthcheck":{"Interval":1500000000},\
                "Labels":{"l":"1"},"User":"u"},"os":"linux","rootfs":{"diff_ids":["sha256:1","sha256:2","sha256:3"],\
                "type":"layers"},"variant":"v"}
                """
        )
    }

    /// However often a sandbox is archived, it has one layer of its own.
    @Test func backupsDoNotGrowUponEachOther() throws {
        let layers = (0..<120).map { "\"sha256:\($0)\"" }.joined(separator: ",")
        let long = try CapturedImage(of: Data("{\"rootfs\":{\"diff_ids\":[\(layers)]}}".utf8))
        #expect(long.base.count == CapturedImage.baseLayersLimit)
        let first = try CapturedImage(of: Data("{\"rootfs\":{\"diff_ids\":[\"sha256:1\"]}}".utf8))
        let second = try CapturedImage(of: first.configuration(adding: "sha256:2", isBackup: true))
        #expect(second.base == ["sha256:1"])
        let third = try CapturedImage(of: second.configuration(adding: "sha256:3", isBackup: true))
        #expect(third.base == ["sha256:1"])
        // What is a snapshot of its own is the base of what is made from it.
        #expect(
            try CapturedImage(of: third.configuration(adding: "sha256:4", isBackup: false)).base
                == ["sha256:1", "sha256:4"]
        )
        #expect(throws: DecodingError.self) { try CapturedImage(of: Data("{".utf8)) }
    }

    // MARK: - Doing

    func withFolder(in parent: String = NSTemporaryDirectory(), _ body: (String) throws -> Void) throws {
        let folder = "\(parent)martlet-layer-\(UUID())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try body(folder)
    }

    @discardableResult
    private func capture(
        _ folder: String,
        tree: String = "new",
        over base: String?,
        to layer: String = "layer",
        mountPoints: [String] = [],
        limits: CaptureLimits = CaptureLimits(contentBytes: 1 << 30),
        isCancelled: Bool = false
    ) throws -> (digest: String, bytes: Int64) {
        try TreeCapture.write(
            .whole("\(folder)/\(tree)", over: base.map { "\(folder)/\($0)" }),
            to: "\(folder)/\(layer)",
            skipping: SkippedPaths(mountPoints: mountPoints),
            limits: limits,
            isCancelled: { isCancelled }
        )
    }

    @discardableResult
    func shell(_ script: String, in folder: String) throws -> String {
        let process = Process()
        let output = Pipe()
        process.executableURL = URL(filePath: "/bin/bash")
        process.arguments = ["-ec", script]
        process.currentDirectoryURL = URL(filePath: folder)
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(process.terminationStatus == 0, "\(script)")
        return text
    }
}
