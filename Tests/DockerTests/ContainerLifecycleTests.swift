import Docker
import NIOCore
import Testing

@Suite struct ContainerLifecycleTests {
    @Test func livesFromCreateToRemove() async throws {
        try await withEngine { test in
            let words = test.sleeper("echo up; exec sleep 600")
            let created = try await test.engine.createContainer(named: test.mark, words)
            #expect(try await test.engine.inspectContainer(created.id).state.status == .created)

            try await test.engine.startContainer(created.id)
            let running = try await test.engine.inspectContainer(test.mark)
            #expect(running.state.status == .running)
            #expect(running.state.processID > 1)
            #expect(running.state.startedAt != nil)
            #expect(running.state.finishedAt == nil)
            #expect(running.labels == running.labels.merging(test.labels) { $1 })

            // A signal that comes before its first process is ready for it would be lost.
            let deadline = ContinuousClock.now + .seconds(60)
            while try await test.engine.logTail(created.id).standardOutput.readableBytes == 0, .now < deadline {
                try await Task.sleep(for: .milliseconds(20))
            }
            try await test.engine.stopContainer(created.id, grace: .seconds(60))
            let stopped = try await test.engine.inspectContainer(created.id).state
            #expect(stopped.status == .exited)
            #expect(stopped.processID == 0)
            #expect(stopped.exitCode == 143)
            #expect(stopped.finishedAt != nil)

            try await test.engine.removeContainer(created.id)
            #expect(try await kind { _ = try await test.engine.inspectContainer(created.id) } == .notFound)
        }
    }

    @Test func repeatedStartAndStopSucceed() async throws {
        try await withEngine { test in
            let id = try await test.engine.createContainer(named: test.mark, test.sleeper()).id
            try await test.engine.startContainer(id)
            try await test.engine.startContainer(id)
            try await test.engine.stopContainer(id, grace: .zero)
            try await test.engine.stopContainer(id, grace: .zero)
        }
    }

    @Test func errorsHaveKinds() async throws {
        try await withEngine { test in
            #expect(try await kind { try await test.engine.startContainer("no-such-container") } == .notFound)
            var missing = test.sleeper()
            missing.image = "martlet/no-such-image:test"
            #expect(
                try await kind { _ = try await test.engine.createContainer(named: test.mark, missing) } == .notFound
            )

            let id = try await test.engine.createContainer(named: test.mark, test.sleeper()).id
            #expect(
                try await kind { _ = try await test.engine.createContainer(named: test.mark, test.sleeper()) }
                    == .conflict
            )
            #expect(try await kind { try await test.engine.killContainer(id) } == .conflict)
            try await test.engine.startContainer(id)
            #expect(try await kind { try await test.engine.removeContainer(id) } == .conflict)
            #expect(try await kind { try await test.engine.killContainer(id, signal: "NOSIGNAL") } == .badRequest)
        }
    }

    @Test func killEndsWithItsSignal() async throws {
        try await withEngine { test in
            let id = try await test.engine.createContainer(named: test.mark, test.sleeper()).id
            try await test.engine.startContainer(id)
            try await test.engine.killContainer(id)
            #expect(try await test.engine.waitContainer(id, within: .seconds(90)).statusCode == 137)
        }
    }

    @Test func waitHasADeadline() async throws {
        try await withEngine { test in
            let id = try await test.engine.createContainer(named: test.mark, test.sleeper()).id
            try await test.engine.startContainer(id)
            let start = ContinuousClock.now
            #expect(
                try await kind { _ = try await test.engine.waitContainer(id, within: .milliseconds(300)) } == .timeout
            )
            #expect(ContinuousClock.now - start < .seconds(60))
        }
    }

    @Test func limitsAreSetAndChangeLive() async throws {
        try await withEngine { test in
            var specification = test.sleeper()
            specification.pidsLimit = 33
            specification.nanoCPUs = 500_000_000
            let id = try await test.engine.createContainer(named: test.mark, specification).id
            try await test.engine.startContainer(id)
            let before = try await test.engine.inspectContainer(id).limits
            #expect(before.memoryBytes == 64 << 20)
            #expect(before.memorySwapBytes == 64 << 20)
            #expect(before.pidsLimit == 33)

            let update = ResourceUpdate(memoryBytes: 128 << 20, nanoCPUs: 1_500_000_000, pidsLimit: 44)
            try await test.engine.updateContainer(id, update)
            let after = try await test.engine.inspectContainer(id).limits
            #expect(after.memoryBytes == 128 << 20)
            #expect(after.memorySwapBytes == 128 << 20)
            #expect(after.nanoCPUs == 1_500_000_000)
            #expect(after.pidsLimit == 44)

            let use = try await test.engine.statistics(id)
            #expect(use.memoryUsageBytes > 0)
            #expect(use.memoryLimitBytes == 128 << 20)
            #expect(use.processCount >= 1)
        }
    }

    @Test func listsByLabel() async throws {
        try await withEngine { test in
            let id = try await test.engine.createContainer(named: test.mark, test.sleeper()).id
            let byValue = try await test.engine.listContainers(labels: ["martlet.test": test.mark])
            #expect(byValue.map(\.id) == [id])
            #expect(byValue.first?.names == [test.mark])
            #expect(byValue.first?.status == .created)
            #expect(try await test.engine.listContainers(labels: ["martlet.test": nil]).contains { $0.id == id })
            #expect(try await test.engine.listContainers(labels: ["martlet.test": "other-\(test.mark)"]).isEmpty)
            #expect(try await test.engine.listContainers(labels: ["martlet.test": test.mark], all: false).isEmpty)
        }
    }

    /// What the kernel shows inside is what counts, not what the engine accepted.
    @Test func isolationHoldsInside() async throws {
        try await withEngine { test in
            var specification = test.sleeper(
                "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; ulimit -n; ulimit -c; ls /sys/class/net | tr '\\n' ' '; touch /tmp/t/x && touch /denied; hostname"
            )
            specification.isReadOnlyRoot = true
            specification.hostname = "inside"
            specification.openFilesLimit = 4096
            specification.temporaryFilesystems = [TemporaryFilesystem(target: "/tmp/t", sizeBytes: 1 << 20)]
            let id = try await test.engine.createContainer(named: test.mark, specification).id
            try await test.engine.startContainer(id)
            _ = try await test.engine.waitContainer(id, within: .seconds(90))
            let tail = try await test.engine.logTail(id)
            let output = String(buffer: tail.standardOutput)
            // AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT
            #expect(output.contains("CapBnd:\t00000000a00405fb"))
            #expect(output.contains("NoNewPrivs:\t1"))
            #expect(output.contains("Seccomp:\t2"))
            #expect(output.contains("4096\n0\nlo "))
            #expect(output.contains("inside"))
            #expect(String(buffer: tail.standardError).contains("Read-only file system"))
        }
    }

    @Test func diskQuotaIsEnforced() async throws {
        try await withEngine { test in
            let driver = try await test.engine.information().storageDriver
            var specification = test.sleeper("dd if=/dev/zero of=/filler bs=1M count=64 2>&1; sync; ls -l /filler")
            specification.diskQuotaBytes = 16 << 20
            guard driver == "btrfs" || driver == "overlay2" else {
                #expect(
                    try await kind { _ = try await test.engine.createContainer(named: test.mark, specification) } != nil
                )
                return
            }
            let id = try await test.engine.createContainer(named: test.mark, specification).id
            #expect(try await test.engine.inspectContainer(id).limits.diskQuotaBytes == 16 << 20)
            try await test.engine.startContainer(id)
            _ = try await test.engine.waitContainer(id, within: .seconds(180))
            let output = String(buffer: try await test.engine.logTail(id).standardOutput)
            #expect(output.contains("quota exceeded") || output.contains("No space left"), "\(output)")
        }
    }

    /// btrfs has no table of inodes that could run out, and what a file of nothing needs counts as the disk of its maker.
    @Test func emptyFilesCountToo() async throws {
        try await withEngine { test in
            guard try await test.engine.information().storageDriver == "btrfs" else { return }
            var specification = test.sleeper(
                "mkdir /d; cd /d; n=0; while [ $n -lt 200000 ] && : > ./file-$n; do n=$((n + 1)); done; echo made $n"
            )
            specification.diskQuotaBytes = 16 << 20
            let id = try await test.engine.createContainer(named: test.mark, specification).id
            try await test.engine.startContainer(id)
            _ = try await test.engine.waitContainer(id, within: .seconds(300))
            let tail = try await test.engine.logTail(id)
            #expect(
                String(buffer: tail.standardError).contains("quota exceeded"),
                "\(String(buffer: tail.standardOutput))"
            )
        }
    }

    @Test func bindsAreShownAndMustExist() async throws {
        try await withEngine { test in
            var specification = test.sleeper("cat /mnt/hosts; touch /mnt/hosts")
            specification.binds = [BindMount(source: "/etc/hosts", target: "/mnt/hosts", isReadOnly: true)]
            let id = try await test.engine.createContainer(named: test.mark, specification).id
            try await test.engine.startContainer(id)
            _ = try await test.engine.waitContainer(id, within: .seconds(90))
            let tail = try await test.engine.logTail(id)
            #expect(String(buffer: tail.standardOutput).contains("localhost"))
            #expect(String(buffer: tail.standardError).contains("Read-only"))
            specification.binds = [BindMount(source: "/no/such/directory", target: "/mnt/x", isReadOnly: true)]
            #expect(
                try await kind { _ = try await test.engine.createContainer(named: test.mark + "-2", specification) }
                    == .badRequest
            )
        }
    }

    @Test func gpuRequestReachesTheEngine() async throws {
        try await withEngine { test in
            var specification = test.sleeper()
            specification.gpus = .count(1)
            let id = try await test.engine.createContainer(named: test.mark, specification).id
            #expect(try await test.engine.inspectContainer(id).limits.hasGPUs)
        }
    }
}
