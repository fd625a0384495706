import Domain
import FoundationEssentials
import Logging
import Store

/// Keeps those who write to volumes faster than S3 takes it from filling this host's disk.
///
/// rclone lets go of what is in S3 only, so the rest grows for as long as rclone may write. When the disk is short, it may not:
/// no file that it writes grows past a small size (RLIMIT_FSIZE). Writers get an I/O error, and so do readers of what is not in
/// the cache; uploads go on and make room, and nothing that was written is lost.
struct VolumeBrake: Sendable {
    let parts: RunnerParts
    let host: VolumeHost

    private static let interval: Duration = .seconds(1)
    /// What rclone notes of a file is smaller, and is to be written at all times.
    static let fileBytesLimit: UInt64 = 64 << 10

    /// Until its task is cancelled. What a former runner braked is let go of first, if there is room.
    func run() async {
        var (isOn, isNoted): (Bool?, Bool) = (nil, false)
        repeat {
            do {
                let free = try await HostMounts.run { [root = host.folders.root] in try Self.freeBytes(at: root) }
                let wasOn = isOn
                isOn = try await brake(free: free, wasOn: wasOn)
                // Mounts may be new while it is on, and the database may be away when it goes off.
                if isOn == true || isOn != wasOn || !isNoted { isNoted = await note(isOn == true ? words(free) : nil) }
            } catch {
                if Task.isCancelled { return }
                parts.logger.warning("disk of volumes cannot be looked after", metadata: ["error": "\(error)"])
            }
        } while (try? await Task.sleep(for: Self.interval)) != nil
    }

    /// On below half of what is to be free, off again above three quarters.
    static func isNeeded(free: Int64, wanted: Int64, isOn: Bool) -> Bool { free < (isOn ? wanted / 4 * 3 : wanted / 2) }

    /// One turn; whether it is on now. `wasOn` is nil where nobody knows.
    private func brake(free: Int64, wasOn: Bool?) async throws -> Bool {
        let isOn = Self.isNeeded(free: free, wanted: host.rclone.storage.freeBytesWanted, isOn: wasOn ?? false)
        guard isOn || wasOn != false else { return false }
        for pid in try await HostMounts.run({ [folders = host.folders] in VolumeProcesses.serving(folders) }) {
            try VolumeProcesses.limitFiles(of: pid, to: isOn ? Self.fileBytesLimit : nil)
        }
        if isOn, wasOn != true {
            parts.logger.error("writing to volumes is braked", metadata: ["problem": "\(words(free))"])
        } else if !isOn, wasOn == true {
            parts.logger.notice("writing to volumes is braked no more", metadata: ["disk.free_mib": "\(free >> 20)"])
        }
        return isOn
    }

    private func words(_ free: Int64) -> String {
        "the disk of \(host.folders.root) has \(free >> 20) MiB free, too little: files of volumes do not grow past "
            + "\(Self.fileBytesLimit >> 10) KiB until S3 has taken what waits there, or you make room"
    }

    /// For operators. False if the database does not take it.
    private func note(_ problem: String?) async -> Bool {
        do {
            try await parts.queries.noteMounts(problem: problem)
            return true
        } catch {
            return false
        }
    }

    private static func freeBytes(at path: String) throws -> Int64 {
        guard let usage = DiskUsage(of: path) else { throw VolumeFolders.failure("look at the disk of \(path)") }
        return usage.freeBytes
    }
}
