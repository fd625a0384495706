import Foundation
import Testing

@testable import Runner

/// Layers of what overlayfs noted. The mounts are real; each is in a mount namespace of its own, which ends with its script.
extension LayerTests {
    /// Each kind of change that overlayfs notes in a way of its own.
    private static let mess = """
        rm gone; rm -r tree; mkdir tree; echo n > tree/new; rm -r file2dir && mkdir file2dir; rm -r dir2file; echo f > dir2file
        echo changed > sub/changed; ln sub/linked sub/again; chmod 4700 sub/moded; touch -d '2001-02-03 04:05:06.7' sub/touched
        cp -a renamed other; rm -r renamed; ln one three; echo own > two; mv sub/deep/moved .; rm sub/deep/x; rmdir sub/deep
        mkdir -p fresh/a/b; echo b > fresh/a/b/c; mv fresh/a fresh/z; truncate -s 3M sparse; echo end >> sparse
        rm socket; python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('socket')"
        ln -sfn sub/deep link; mkfifo pipe; mknod null c 1 3; touch "$(printf 'n%.0s' $(seq 200))" "$(printf '\\377bad')"
        python3 -c "import os; os.setxattr('sub/moded', b'user.big', os.urandom(2000)); os.setxattr('sub', b'user.nul', b'a\\0b')"
        chown 3000000:12345 sub
        """

    private static let base = """
        mkdir -p low high; cd low; mkdir -p tree/in dir2file sub/deep renamed/er covered emptied
        for f in gone tree/old tree/in/x file2dir dir2file/x sub/changed sub/linked sub/moded sub/touched renamed/er/x one sub/deep/moved \\
            sub/deep/x socket covered/low emptied/x kept; do echo $f > $f; done; ln one two; ln -s kept link
        cd ../high; mkdir -p covered emptied; echo h > covered/high; mknod kept c 0 0
        python3 -c "import os; os.setxattr('emptied', b'trusted.overlay.opaque', b'y')"
        """

    @Test func whatOverlayfsNotedComesBack() throws {
        try withFolder { folder in
            try shell(Self.base, in: folder)
            try change(folder, "own", over: ["high", "low"], by: Self.mess)
            _ = try captureOverlay(folder, ["own"], over: ["high", "low"])
            try checkSame(folder, ["own"], over: ["high", "low"])
            let names = try shell("tar -tf layer | sort", in: folder).split(separator: "\n").map(String.init)
            let marks = [
                ".wh.gone", ".wh.renamed", ".wh.socket", "dir2file", "file2dir/.wh..wh..opq", "sub/.wh.deep",
                "tree/.wh..wh..opq",
            ]
            #expect(names.filter { $0.contains(".wh.") || $0 == "dir2file" } == marks.sorted())
            #expect(!names.contains("kept") && !names.contains { $0.hasPrefix("covered") }, "\(names)")
        }
    }

    /// What is not of the base is in one layer again, however often it was captured.
    @Test func layersThatWereCapturedBeforeAreReadTogether() throws {
        try withFolder { folder in
            let seed = UInt64(ProcessInfo.processInfo.environment["SEED"] ?? "") ?? .random(in: 0..<1 << 32)
            print("SEED=\(seed)")
            try shell(Self.base, in: folder)
            try change(folder, "own1", over: ["high", "low"], by: Self.mess)
            for turn in 1...6 {
                let own = (1...turn).reversed().map { "own\($0)" }
                _ = try captureOverlay(folder, own, over: ["high", "low"])
                try checkSame(folder, own, over: ["high", "low"], "SEED=\(seed)")
                let next = "\(Self.accidents)\(seed &+ UInt64(turn)))\nEND\n"
                try change(folder, "own\(turn + 1)", over: own + ["high", "low"], by: next)
            }
        }
    }

    @Test func whatTheEnginePutBetweenDoesNotMatter() throws {
        try withFolder { folder in
            try shell(
                """
                mkdir -p image/etc/in image/had/x init/etc init/dev/pts init/proc; cd init; touch .dockerenv etc/hosts etc/hostname
                ln -s /proc/mounts etc/mtab; cd ../image; touch etc/in/image had/x/y etc/resolv.conf
                """,
                in: folder
            )
            try change(
                folder,
                "own",
                over: ["init", "image"],
                by: """
                    mkdir -p .martlet/bin data/volume mine/volume had/volume; touch mine/own etc/own had/x/z
                    rm .dockerenv etc/mtab; echo h > etc/hosts; echo n > etc/resolv.conf; rm -r etc/in
                    """
            )
            _ = try captureOverlay(
                folder,
                ["own"],
                over: ["image"],
                mountPoints: ["/.martlet/bin", "/data/volume", "/mine/volume", "/had/volume", "/had/x"]
            )
            #expect(
                try shell("tar -tf layer", in: folder)
                    == "./\netc/\netc/.wh.in\netc/own\netc/resolv.conf\nhad/\nhad/x/\nhad/x/z\nmine/\nmine/own\n"
            )
        }
    }

    @Test func whatOverlayfsKeepsElsewhereIsRefused() throws {
        let cases = [
            ("redirect_dir=on", "mv sub moved", "cp -a"), ("metacopy=on", "chown 7 kept", "metacopy"),
        ]
        for (option, script, words) in cases {
            try withFolder { folder in
                try shell("mkdir -p low/sub; echo x > low/sub/x; echo kept > low/kept", in: folder)
                try change(folder, "own", over: ["low"], by: script, option)
                let error = #expect(throws: CaptureRefused.self) {
                    try captureOverlay(folder, ["own"], over: ["low"])
                }
                #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
            }
        }
    }

    // MARK: - Where the engine keeps them

    @Test func overlayFoldersAreFoundByName() throws {
        try withFolder { folder in
            let layers = ["sha256:aa", "sha256:bb", "sha256:cc"]
            let id = String(repeating: "ab", count: 32)
            try shell(
                """
                mkdir -p overlay2/l image/overlay2/layerdb/mounts/c1 image/overlay2/imagedb/content/sha256
                printf 0123 > image/overlay2/layerdb/mounts/c1/mount-id; printf '{}' > image/overlay2/imagedb/content/sha256/\(id)
                """,
                in: folder
            )
            for count in 1...3 {
                let chain = try #require(LayerStore.chain(of: Array(layers.prefix(count))))
                let path = "image/overlay2/layerdb/sha256/\(chain)"
                try shell("mkdir -p \(path); printf \(count)f > \(path)/cache-id", in: folder)
            }
            let store = try LayerStore(driver: "overlay2", dataRoot: folder)
            #expect(!store.freezesCopies)
            #expect(try store.configuration(ofImage: "sha256:\(id)") == Data("{}".utf8))
            let configuration =
                #"{"config":{"Labels":{"\#(CapturedImage.baseLabel)":"1"}},"rootfs":{"diff_ids":\#(layers)}}"#
            let image = try CapturedImage(of: Data(configuration.utf8))
            func place(_ name: String) -> String { "\(folder)/overlay2/\(name)/diff" }
            guard
                case .differences(let own, over: let base) = try store.freeze(
                    container: "c1",
                    as: "x",
                    madeOf: image
                )
            else { throw CaptureTrouble("it is not taken for overlay2") }
            #expect(own == ["0123", "3f", "2f"].map(place))
            #expect(base == [place("1f")])
            #expect(throws: CaptureTrouble.self) { try store.freeze(container: "c2", as: "x", madeOf: image) }
            for driver in ["btrfs", "vfs", "overlayfs"] {
                #expect(throws: CaptureRefused.self) { try LayerStore(driver: driver, dataRoot: folder) }
            }
        }
    }

    // MARK: - Doing

    /// Runs `script` in a mount of an empty folder upon the others.
    private func change(
        _ folder: String,
        _ own: String,
        over others: [String],
        by script: String,
        _ options: String = "redirect_dir=off,metacopy=off"
    ) throws {
        let lower = others.joined(separator: ":")
        try shell(
            """
            mkdir \(own) work-\(own) at-\(own)
            unshare --mount bash -e -s <<'SCRIPT'
            mount -t overlay overlay -o lowerdir=\(lower),upperdir=\(own),workdir=work-\(own),index=off,\(options) at-\(own)
            cd at-\(own)
            \(script)
            SCRIPT
            """,
            in: folder
        )
    }

    @discardableResult
    private func captureOverlay(
        _ folder: String,
        _ own: [String],
        over base: [String],
        mountPoints: [String] = []
    ) throws -> (digest: String, bytes: Int64) {
        try TreeCapture.write(
            .differences(own.map { "\(folder)/\($0)" }, over: base.map { "\(folder)/\($0)" }),
            to: "\(folder)/layer",
            skipping: SkippedPaths(mountPoints: mountPoints),
            limits: CaptureLimits(contentBytes: 1 << 30),
            isCancelled: { false }
        )
    }

    /// The layer upon the base shows what all the folders show.
    private func checkSame(_ folder: String, _ own: [String], over base: [String], _ note: String = "") throws {
        try shell(
            """
            rm -rf applied; mkdir applied; mkdir -p at-check
            tar -xpf layer -C applied --numeric-owner --xattrs --xattrs-include='*' --same-owner
            python3 - <<'END'
            \(Self.apply)
            END
            """,
            in: folder
        )
        let trees = try [own + base, ["applied"] + base].map { folders in
            try shell(
                """
                unshare --mount bash -e -s <<'SCRIPT'
                mount -t overlay overlay -o ro,lowerdir=\(folders.joined(separator: ":")) at-check
                cd at-check; python3 - <<'END'
                \(Self.list)
                END
                SCRIPT
                """,
                in: folder
            )
        }
        #expect(trees[0].count > 500, "there is something to compare; \(note)")
        let (wanted, found) = (Set(trees[0].split(separator: "\n")), Set(trees[1].split(separator: "\n")))
        #expect(wanted.symmetricDifference(found).sorted() == [], "\(note)")
    }

    /// The marks of a layer as the engine's overlay2 notes them.
    private static let apply = """
        import os
        for at, _, files in os.walk(b"applied"):
            its = os.lstat(at)
            for name in files:
                if name == b".wh..wh..opq": os.setxattr(at, "trusted.overlay.opaque", b"y")
                elif name.startswith(b".wh."): os.mknod(os.path.join(at, name[4:]), 0o020000, 0)
                if name.startswith(b".wh."): os.unlink(os.path.join(at, name))
            os.utime(at, ns=(its.st_atime_ns, its.st_mtime_ns))
        """

    /// All that can be seen of each file but sockets, and which names are the same file.
    private static let list = """
        import hashlib, os, stat
        first = {}
        def line(path):
            its = os.lstat(path)
            if stat.S_ISSOCK(its.st_mode): return
            kind = stat.S_IFMT(its.st_mode)
            content = b""
            if stat.S_ISREG(kind): content = open(path, "rb").read()
            if stat.S_ISLNK(kind): content = os.readlink(path)
            attributes = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False) if not n.startswith("trusted.")}
            same = first.setdefault(its.st_ino, path) if not stat.S_ISDIR(kind) else path
            # Since Linux 3.16 a folder's size is not its content's.
            size = 0 if stat.S_ISDIR(kind) else its.st_size
            print(path, oct(its.st_mode), its.st_uid, its.st_gid, size, its.st_mtime_ns, its.st_rdev, same, sorted(attributes.items()), hashlib.sha256(content).hexdigest())
        for at, folders, files in os.walk(b"."):
            folders.sort()
            line(at)
            for name in sorted(files + [f for f in folders if os.path.islink(os.path.join(at, f))]): line(os.path.join(at, name))
        """

    /// Random changes; the seed follows.
    private static let accidents = """
        python3 - <<'END'
        import os, random, shutil, subprocess
        def place(): return "/".join(random.choice("abcd") for _ in range(random.randint(1, 3)))
        def everything(): return [os.path.join(at, n) for at, d, f in os.walk(".") for n in d + f]
        def gone(path): shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        def is_small(path): return sum(1 for _ in os.walk(path)) < 5
        def step():
            old, new = random.choice(everything()), place()
            act = random.randrange(10)
            if act == 0: os.chmod(old, random.choice([0o700, 0o755, 0o4711]), follow_symlinks=True)
            elif act < 3: os.makedirs(new)
            elif act < 5: os.write(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK), str(random.random()).encode())
            elif act == 5: os.link(old, new, follow_symlinks=False)
            elif act == 6: os.rename(old, new)
            elif not is_small(old): pass
            elif act == 7: subprocess.run(["cp", "-a", "--remove-destination", old, new], check=True, timeout=20, stderr=subprocess.DEVNULL)
            elif act == 8: gone(old)
            else: gone(old); random.choice([os.mkdir, os.mkfifo, lambda path: os.symlink("x", path)])(old)
        def go(seed):
            random.seed(seed)
            for _ in range(60):
                try: step()
                except (OSError, shutil.Error, subprocess.SubprocessError): pass
        """ + "\ngo("
}
