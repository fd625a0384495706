#if canImport(Glibc)
    import Glibc
#endif

/// How full the file system is that holds images and containers.
package struct DiskUsage: Sendable, Hashable, CustomStringConvertible {
    package var path: String
    package var usedBytes: Int64
    /// What may still be written, as far as the file system can tell.
    package var freeBytes: Int64

    package init(path: String, usedBytes: Int64, freeBytes: Int64) {
        self.path = path
        self.usedBytes = usedBytes
        self.freeBytes = freeBytes
    }

    /// Asks the file system, which may take a moment; nil where this process cannot see it.
    package init?(of path: String) {
        var answer = statvfs()
        guard statvfs(path, &answer) == 0 else { return nil }
        let block = UInt64(answer.f_frsize)
        self.init(
            path: path,
            usedBytes: Int64(clamping: UInt64(answer.f_blocks - answer.f_bfree) * block),
            freeBytes: Int64(clamping: UInt64(answer.f_bavail) * block)
        )
    }

    /// Of what may be used at all.
    package var percent: Int {
        let usable = Double(usedBytes) + Double(freeBytes)
        return usable > 0 ? Int(Double(usedBytes) / usable * 100) : 0
    }

    /// How much too much is used where `percent` of it may be.
    package func excessBytes(above percent: Int) -> Int64 {
        max(0, usedBytes - (usedBytes + freeBytes) / 100 * Int64(percent))
    }

    package var description: String {
        "\(percent) % full, \(freeBytes >> 20) of \((usedBytes + freeBytes) >> 20) MiB are free"
    }
}
