import Domain
import Store
import Testing

@testable import Runner

#if canImport(Glibc)
    import Glibc
#endif

/// A volume's world, small enough to try all of it: the mount, its process, slots, what is not in S3, the row.
private struct VolumeModel {
    var desired: VolumeDesired
    var observed: VolumeObserved
    /// What the grace has left, once it is written down that nobody uses it.
    var rest: Duration
    var violations: [String] = []

    mutating func expect(_ condition: Bool, _ what: String) {
        if !condition { violations.append(what) }
    }

    /// What is left of the grace follows from the row, as it does in the reconciler.
    mutating func write(_ state: VolumeMountState?) {
        desired.reported = state
        guard case .unused = desired.demand else { return }
        desired.demand =
            switch state {
            case .idle: .unused(rest: rest)
            case .flushing: .unused(rest: .zero)
            case nil, .mounting, .mounted, .error: .unused(rest: nil)
            }
    }

    mutating func apply(_ action: VolumeAction) {
        switch action {
        case .report(let state):
            expect(desired.demand != .gone, "reported what is gone")
            write(state)
        case .hide(let slots): observed.slots.subtract(slots)
        case .clearMount:
            expect(observed.mount != .alive || desired.demand == .gone, "cleared a mount that works")
            (observed.mount, observed.isServed) = (.absent, false)
        case .mount:
            expect(desired.demand != .gone, "mounted what is gone")
            expect(desired.reported != nil, "mounted without a row")
            expect(observed.mount == .absent && !observed.isServed, "mounted over \(observed.mount)")
            (observed.mount, observed.isServed) = (.alive, true)
            if observed.remains == .none { observed.remains = .clean }
        case .show(let views):
            expect(observed.mount == .alive, "showed what is \(observed.mount)")
            observed.slots.formUnion(views.map(\.slot))
        case .unmount:
            expect(desired.demand == .unused(rest: .zero), "unmounted what is \(desired.demand)")
            expect(observed.slots.isDisjoint(with: desired.allowed), "unmounted under a container")
            (observed.mount, observed.isServed, observed.remains) = (.absent, false, .clean)
        case .removeFolder(let evenUnsaved):
            expect(observed.mount == .absent, "removed a folder that is mounted")
            expect(evenUnsaved == (desired.demand == .gone), "removed what may be unsaved")
            expect(evenUnsaved || observed.remains != .unsaved, "lost what was written")
            observed.remains = .none
        case .purge: expect(desired.demand == .gone, "purged what is wanted")
        case .forget:
            expect(observed.mount == .absent && observed.remains == .none, "forgot what is there")
            write(nil)
        }
    }

    var isAtRest: Bool {
        switch desired.demand {
        case .used:
            return observed.mount == .alive && desired.reported == .mounted
                && Set(desired.shown.map(\.slot)).isSubset(of: observed.slots)
                && observed.slots.isSubset(of: desired.allowed)
        case .unused(let rest):
            if let rest, rest > .zero, observed.mount == .alive { return desired.reported == .idle }
            return observed.mount == .absent && observed.remains == .none && desired.reported == nil
        case .gone:
            return observed.mount == .absent && !observed.isServed && observed.remains == .none
                && desired.reported == nil
        }
    }
}

private let (ours, others) = (
    VolumeSlot(sandbox: .random(), epoch: 1, index: 0), VolumeSlot(sandbox: .random(), epoch: 3, index: 1)
)

/// Every pair of wish and finding.
private func allVolumeModels() -> [VolumeModel] {
    let demands: [VolumeDesired.Demand] = [.used, .unused(rest: nil), .gone]
    let mounts: [(VolumeObserved.Mount, Bool)] = [
        (.absent, false), (.absent, true), (.stale, false), (.stale, true), (.alive, true),
    ]
    var models: [VolumeModel] = []
    for demand in demands {
        for (mount, isServed) in mounts {
            for remains in [VolumeObserved.Remains.none, .clean, .unsaved] where mount != .alive || remains == .clean {
                for reported in [nil] + VolumeMountState.allCases.map(Optional.some) {
                    for slots in [[], [ours], [others], [ours, others]] as [Set<VolumeSlot>]
                    where mount != .absent || slots.isEmpty {
                        var desired = VolumeDesired(demand)
                        if demand == .used { (desired.shown, desired.allowed) = ([VolumeView(slot: ours)], [ours]) }
                        var observed = VolumeObserved()
                        (observed.mount, observed.isServed) = (mount, isServed)
                        (observed.remains, observed.slots) = (remains, slots)
                        for rest in [Duration.zero, .seconds(9)] {
                            var model = VolumeModel(desired: desired, observed: observed, rest: rest)
                            model.write(reported)
                            models.append(model)
                        }
                    }
                }
            }
        }
    }
    return models
}

@Suite struct VolumePlanTests {
    private static let passesLimit = 4

    private func finish(_ model: VolumeModel) -> VolumeModel {
        var model = model
        for _ in 0..<Self.passesLimit {
            for action in planVolume(desired: model.desired, observed: model.observed).actions { model.apply(action) }
        }
        return model
    }

    @Test func everyPairConvergesSafely() {
        var failures: [String] = []
        for start in allVolumeModels() where failures.count < 5 {
            let end = finish(start)
            if !end.isAtRest { failures.append("rests at \(end.desired) \(end.observed): from \(start)") }
            failures += end.violations.prefix(1).map { "\($0): from \(start)" }
        }
        #expect(failures.isEmpty, "\(failures.prefix(3).joined(separator: "\n"))")
    }

    /// A crash after any action leaves something from which the next pass goes on to the same rest.
    @Test func everyPlanMayBeCutAnywhere() {
        var failures: [String] = []
        for start in allVolumeModels() where failures.count < 5 {
            let plan = planVolume(desired: start.desired, observed: start.observed)
            for cut in plan.actions.indices {
                var model = start
                for action in plan.actions.prefix(cut) { model.apply(action) }
                let end = finish(model)
                if !end.isAtRest || !end.violations.isEmpty {
                    failures.append("cut after \(cut): \(end.violations) \(end.observed) from \(start)")
                }
            }
        }
        #expect(failures.isEmpty, "\(failures.prefix(3).joined(separator: "\n"))")
    }

    @Test func whatRowsSayDecides() {
        let volume = VolumeID.random()
        func user(_ desired: DesiredState, _ reported: ObservedState) -> VolumeUser {
            VolumeUser(
                sandbox: ours.sandbox,
                epoch: 1,
                desired: desired,
                reported: reported,
                volumes: [SandboxVolume(volumeId: volume, mountPath: "/v", subpath: "a")]
            )
        }
        func look(_ users: [VolumeUser], _ reported: ReportedMount? = nil, isAwaited: Bool = false) -> VolumeDesired {
            VolumeReconciler.desired(
                volume,
                users: users,
                reported: reported,
                isAwaited: isAwaited,
                grace: .seconds(60)
            )
        }
        let running = look([user(.started, .started)])
        #expect(running.demand == .used)
        #expect(running.shown == [VolumeView(slot: ours, subpath: "a")])
        #expect(look([user(.started, .starting)]).shown.isEmpty, "its own pass shows it")
        #expect(look([user(.stopped, .started)]).demand == .used, "it runs still")
        #expect(look([user(.destroyed, .started)]).demand == .used, "it may run still")
        #expect(look([user(.destroyed, .started)]).shown.isEmpty, "its slots may be gone")
        #expect(look([user(.stopped, .stopped)]).demand == .unused(rest: nil))
        #expect(look([user(.started, .error)]).demand == .unused(rest: nil))
        #expect(look([user(.started, .error)], isAwaited: true).demand == .used, "a pass asks for it")
        let idle = ReportedMount(volume: volume, state: .idle, age: .seconds(20))
        #expect(look([], idle).demand == .unused(rest: .seconds(40)))
        #expect(look([], ReportedMount(volume: volume, state: .flushing, age: .zero)).demand == .unused(rest: .zero))
    }
}

@Suite struct MountTableTests {
    @Test func theKernelsTextIsRead() throws {
        let table = MountTable(
            parsing: """
                98 72 0:44 /slot /mnt/my\\040data ro,relatime master:3 - tmpfs x rw,size=64k
                101 98 254:0 /src /mnt/my\\040data rw,nosuid,nodev shared:9 master:4 - fuse.rclone a - b rw
                not a line
                """
        )
        #expect(table.entries.count == 2)
        let top = try #require(table.top(at: "/mnt/my data"))
        #expect(top.device == "254:0" && top.type == "fuse.rclone" && top.isShared)
        #expect(top.options == ["rw", "nosuid", "nodev"])
        #expect(!table.entries[0].isShared)
        #expect(try MountTable.read().top(at: "/") != nil)
    }

    /// The kernel gives it by the page, and Foundation takes a page that is not full for the last one.
    @Test func theWholeOfATableIsRead() throws {
        #expect(try MountTable.read().entries.count == countLines())
    }

    private func countLines() throws -> Int {
        let file = try #require(fopen("/proc/self/mountinfo", "r"))
        defer { fclose(file) }
        var (lines, character) = (0, getc(file))
        while character != EOF {
            if character == 10 { lines += 1 }
            character = getc(file)
        }
        return lines
    }

    @Test func slotsHaveOneName() {
        #expect(VolumeSlot("\(ours)") == ours)
        for text in [
            "", "x", "\(ours)0x", "\(ours.sandbox)-e01-0", "\(ours.sandbox)-e1", "\(ours.sandbox)-1-0", "\(ours)-0",
        ] {
            #expect(VolumeSlot(text) == nil, "\(text)")
        }
        let folders = VolumeFolders(root: "/r")
        #expect(folders.slot(at: folders.path(of: ours)) == ours)
        #expect(folders.slot(at: "/r/slots/\(ours)/x") == nil)
        let volume = VolumeID.random()
        #expect(folders.volume(mountedAt: folders.mountPoint(of: volume)) == volume)
    }
}
