#if canImport(Glibc)
    import Glibc
#endif

/// What is mounted, as a process sees it: `/proc/<pid>/mountinfo`, in its order, later ones over earlier ones.
package struct MountTable: Sendable, Hashable {
    package struct Entry: Sendable, Hashable {
        /// `major:minor` of the file system: the same for everything that shows it.
        package var device: String
        package var point: String
        package var type: String
        package var options: [String]
        /// Whether mounts made here appear elsewhere.
        package var isShared: Bool
    }

    package var entries: [Entry]

    /// Reads the text of the kernel. Lines that are not understood are passed over.
    package init(parsing text: String) {
        entries = text.split(separator: "\n").compactMap { Self.entry($0) }
    }

    /// Throws if it cannot be read: then nothing is known.
    package static func read(of process: String = "self") throws -> MountTable {
        let path = "/proc/\(process)/mountinfo"
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw failure(path) }
        defer { close(file) }
        var bytes: [UInt8] = []
        // To its very end, and not by Foundation: the kernel gives it a page at a time, and a short read is not the last.
        while bytes.count < bytesLimit {
            let chunk = try [UInt8](unsafeUninitializedCapacity: chunkBytes) { buffer, count in
                let got = Glibc.read(file, buffer.baseAddress, buffer.count)
                guard got >= 0 else { throw failure(path) }
                count = got
            }
            if chunk.isEmpty { return MountTable(parsing: String(decoding: bytes, as: UTF8.self)) }
            bytes += chunk
        }
        throw RunnerError(.volume, "\(path) is larger than \(bytesLimit) bytes: there are too many mounts on this host")
    }

    private static let chunkBytes = 64 << 10
    private static let bytesLimit = 64 << 20

    private static func failure(_ path: String) -> RunnerError {
        RunnerError(.changedMeanwhile, "cannot read \(path): \(String(cString: strerror(errno)))")
    }

    /// `98 72 0:44 /slot /mnt/data rw,relatime master:3 - tmpfs x rw`
    private static func entry(_ line: Substring) -> Entry? {
        let fields = line.split(separator: " ", omittingEmptySubsequences: false)
        guard fields.count > 8, let dash = fields.dropFirst(6).firstIndex(of: "-"), dash + 1 < fields.count else {
            return nil
        }
        return Entry(
            device: String(fields[2]),
            point: unescaped(fields[4]),
            type: String(fields[dash + 1]),
            options: fields[5].split(separator: ",").map(String.init),
            isShared: fields[6..<dash].contains { $0.hasPrefix("shared:") }
        )
    }

    /// The kernel writes a space as `\040`, and likewise tabs, line breaks and backslashes.
    private static func unescaped(_ field: Substring) -> String {
        guard field.contains("\\") else { return String(field) }
        var bytes: [UInt8] = []
        var rest = Array(field.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\\"), rest.count >= 3,
                let code = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8)
            {
                bytes.append(code)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// What is seen at a path: the last that was mounted there.
    package func top(at point: String) -> Entry? { entries.last { $0.point == point } }
}
