import CLinux
import Domain
import FoundationEssentials
package import Logging
import Synchronization

#if canImport(Glibc)
    import Glibc
#endif

/// This host's side of volumes: looks at mounts, and makes and unmakes them.
package struct VolumeHost: Sendable {
    let folders: VolumeFolders
    let rclone: Rclone
    let logger: Logger

    /// Does no I/O.
    package init(_ storage: VolumeStorage, folders: VolumeFolders, logger: Logger) {
        self.folders = folders
        rclone = Rclone(storage: storage, folders: folders)
        self.logger = logger
    }

    /// To be called once, before anything else.
    package func prepare() async throws {
        let (folders, storage) = (folders, rclone.storage)
        try await HostMounts.run {
            try folders.prepare(storage)
            try HostMounts.mountSlots(at: folders.slots)
        }
    }

    // MARK: - Looking

    func observe(_ volume: VolumeID) async throws -> VolumeObserved {
        var observed = VolumeObserved()
        let point = folders.mountPoint(of: volume)
        let table = try await HostMounts.run { try MountTable.read() }
        if let mount = table.top(at: point) {
            observed.mount = try await VolumeCalls.shared.isAlive(point) ? .alive : .stale
            observed.slots = Set(
                table.entries.filter { $0.device == mount.device }.compactMap { folders.slot(at: $0.point) }
            )
        }
        guard observed.mount != .alive else {
            observed.remains = .clean
            return observed
        }
        (observed.isServed, observed.remains) = try await HostMounts.run {
            (!VolumeProcesses.serving(point).isEmpty, try remains(of: volume))
        }
        return observed
    }

    private func remains(of volume: VolumeID) throws -> VolumeObserved.Remains {
        guard FileManager.default.fileExists(atPath: folders.folder(of: volume)) else { return .none }
        return try UnsavedFiles.areThere(in: folders.cache(of: volume)) ? .unsaved : .clean
    }

    /// All volumes that have left a trace here: folders and mounts.
    func traces() async throws -> Set<VolumeID> {
        try await HostMounts.run {
            let mounted = try MountTable.read().entries.compactMap { folders.volume(mountedAt: $0.point) }
            return Set(mounted).union(try folders.volumes())
        }
    }

    /// All slots that have left a trace here.
    func slots() async throws -> Set<VolumeSlot> {
        try await HostMounts.run {
            Set(try FileManager.default.contentsOfDirectory(atPath: folders.slots).compactMap { VolumeSlot($0) })
        }
    }

    // MARK: - Mounts

    func mount(_ volume: VolumeID) async throws {
        let (folders, point) = (folders, folders.mountPoint(of: volume))
        try await HostMounts.run {
            try folders.makeFolder(folders.folder(of: volume), mode: 0o700)
            try folders.makeFolder(folders.cache(of: volume), mode: 0o700)
            try folders.makeFolder(point, mode: 0o700)
            unlink(folders.socket(of: volume))
        }
        do {
            try await rclone.mount(volume)
        } catch let error as RcloneFailure {
            throw await cause(of: error)
        }
        try await checkFlags(of: point)
        logger.info("volume is mounted", metadata: ["volume.id": "\(volume)"])
    }

    /// rclone says little when its S3 refuses it; asked for the bucket, it says why.
    private func cause(of failure: RcloneFailure) async -> RunnerError {
        do {
            try await rclone.ensureBucket()
            return RunnerError(.volume, "the volume cannot be mounted: \(failure)")
        } catch {
            return RunnerError(.volume, "the S3 of volumes (\(rclone.storage.endpoint)) does not serve us: \(error)")
        }
    }

    /// No set-user-ID program and no device comes out of a volume.
    private func checkFlags(of point: String) async throws {
        let entry = try await HostMounts.run { try MountTable.read().top(at: point) }
        guard let entry else { throw RunnerError(.changedMeanwhile, "the mount \(point) went away at once") }
        guard entry.options.contains("nosuid"), entry.options.contains("nodev") else {
            try await HostMounts.run { try HostMounts.clear(point) }
            throw RunnerError(.volume, "the volume came up without nosuid and nodev (\(entry.options)); install fuse3")
        }
    }

    /// Takes away what does not work, or must not be.
    func clearMount(of volume: VolumeID) async throws {
        let point = folders.mountPoint(of: volume)
        try await HostMounts.run { try HostMounts.clear(point) }
        try await VolumeProcesses.end(serving: point)
        logger.notice("mount of a volume is cleared away", metadata: ["volume.id": "\(volume)"])
    }

    /// Takes away what works. Throws ``UploadsUnderway`` while something is not in S3.
    func unmount(_ volume: VolumeID) async throws {
        let point = folders.mountPoint(of: volume)
        let pending = try await rclone.pendingUploads(of: volume)
        guard pending == 0 else { throw UploadsUnderway(count: pending) }
        try await HostMounts.run {
            // Not lazily: whoever is in there keeps it.
            guard umount2(point, 0) == 0 || errno == EINVAL else {
                throw RunnerError(.volume, "cannot unmount \(point): \(String(cString: strerror(errno)))")
            }
        }
        if try await !VolumeProcesses.areGone(point, within: Self.endLimit) {
            try await VolumeProcesses.end(serving: point)
        }
        logger.info("volume is unmounted", metadata: ["volume.id": "\(volume)"])
    }

    private static let endLimit: Duration = .seconds(10)

    func removeFolder(of volume: VolumeID, evenUnsaved: Bool) async throws {
        try await HostMounts.run {
            if !evenUnsaved, try remains(of: volume) == .unsaved { throw UploadsUnderway(count: 1) }
            guard try MountTable.read().top(at: folders.mountPoint(of: volume)) == nil else {
                throw RunnerError(.changedMeanwhile, "volume \(volume) is mounted again")
            }
            try FileManager.default.removeItem(atPath: folders.folder(of: volume))
        }
    }

    // MARK: - Slots

    /// The slots are there, and nothing is mounted on them: what is mounted later appears in a container that shows them.
    func prepareSlots(_ slots: [VolumeSlot]) async throws {
        try await HostMounts.run {
            for slot in slots {
                try folders.makeFolder(folders.path(of: slot), mode: 0o755)
                try HostMounts.clear(folders.path(of: slot))
            }
        }
    }

    /// A view that is about to be made shows what was written through earlier ones. Those of a subpath hold on to a folder that
    /// rclone may have forgotten; then what they write is seen by others once it is in S3. Waits for that, but not for an S3 that
    /// is slow or away.
    func freshen(_ view: VolumeView, of volume: VolumeID) async throws {
        guard let subpath = view.subpath else { return }
        let deadline = ContinuousClock.now + Self.uploadPatience
        while try await rclone.pendingUploads(of: volume) > 0, ContinuousClock.now < deadline {
            try await Task.sleep(for: Self.uploadPollInterval)
        }
        try await rclone.forgetListing(of: subpath, in: volume)
    }

    private static let uploadPatience: Duration = .seconds(5)
    private static let uploadPollInterval: Duration = .milliseconds(200)

    /// Shows a part of a volume in a slot that was prepared. What is shown already stays.
    func show(_ view: VolumeView, of volume: VolumeID) async throws {
        try await VolumeCalls.shared.work(on: volume) { try showNow(view, of: volume) }
    }

    private func showNow(_ view: VolumeView, of volume: VolumeID) throws {
        let (path, root) = (folders.path(of: view.slot), folders.mountPoint(of: volume))
        let table = try MountTable.read()
        guard let device = table.top(at: root)?.device else {
            throw RunnerError(.changedMeanwhile, "volume \(volume) is not mounted any more")
        }
        if table.top(at: path)?.device == device { return }
        let folder = try HostMounts.open(view.subpath, below: root)
        defer { close(folder) }
        try HostMounts.clear(path)
        try HostMounts.show(folder, at: path)
    }

    func hide(_ slots: Set<VolumeSlot>) async throws {
        try await HostMounts.run {
            for slot in slots { try HostMounts.clear(folders.path(of: slot)) }
        }
    }

    /// The container is gone: so are its slots.
    func removeSlots(_ slots: Set<VolumeSlot>) async throws {
        try await hide(slots)
        try await HostMounts.run {
            for slot in slots where rmdir(folders.path(of: slot)) != 0 && errno != ENOENT {
                throw VolumeFolders.failure("remove \(folders.path(of: slot))")
            }
        }
    }

    /// Whether a process of a container sees the volume where it should.
    func isShown(_ volume: VolumeID, at path: String, to process: Int) async throws -> Bool {
        try await HostMounts.run {
            guard let device = try MountTable.read().top(at: folders.mountPoint(of: volume))?.device else {
                return false
            }
            return try MountTable.read(of: "\(process)").entries.contains { $0.device == device && $0.point == path }
        }
    }

    /// Whether it is mounted and answers.
    func isMounted(_ volume: VolumeID) async throws -> Bool {
        let point = folders.mountPoint(of: volume)
        guard try await HostMounts.run({ try MountTable.read().top(at: point) }) != nil else { return false }
        return try await VolumeCalls.shared.isAlive(point)
    }
}

/// Something that was written is not in S3 yet.
struct UploadsUnderway: Error { let count: Int }

/// Looks into rclone's cache, which says of each file whether it must still be uploaded.
enum UnsavedFiles {
    static func areThere(in cache: String) throws -> Bool {
        let root = "\(cache)/vfsMeta"
        guard FileManager.default.fileExists(atPath: root) else { return false }
        return try FileManager.default.subpathsOfDirectory(atPath: root).contains { name in
            guard let data = FileManager.default.contents(atPath: "\(root)/\(name)") else { return false }
            return data.firstRange(of: Data(#""Dirty": true"#.utf8)) != nil
        }
    }
}
