#if canImport(Glibc)
    import Glibc
#endif
import Synchronization

/// What may be in a layer.
struct CaptureLimits: Sendable {
    /// Of all files together, holes included: the engine fills them when it unpacks the layer.
    var contentBytes: Int64
    /// Whether what has not changed counts as well, as it does in the quotas of btrfs.
    var countsBase = false
    /// Of memory, for the names that are held at once.
    var nameBytes = 256 << 20
    var entries = 2_000_000
    /// Folders within folders; two descriptors are open for each.
    var depth = 200
    /// The engine's own folder is before it when it unpacks the layer.
    var pathBytes = 3500
    /// Names that share their file with another name.
    var hardLinks = 500_000
}

/// Writes what differs between frozen files and those below as a layer: what is new or changed, and marks for what is gone.
///
/// In two whole trees a file is unchanged where both have the same inode, changed at the same time: the trees are copies of one
/// subvolume, and nothing in a sandbox can set that time. Of overlayfs' folders everything is written.
///
/// The files are a stranger's: links are never followed, and nothing outside of the folders is opened.
struct TreeCapture: ~Copyable {
    private struct Level {
        var path: [UInt8]
        var entry: LayerEntry
        var isWritten: Bool
    }

    private let limits: CaptureLimits
    private let skipped: SkippedPaths
    private let isCancelled: @Sendable () -> Bool
    private var layer: LayerFile
    private var above: [Level] = []
    private var firstNames: [ino_t: [UInt8]] = [:]
    private var entries = 0
    private var contentBytes: Int64 = 0
    private var heldNameBytes = 0
    private var largest: (path: [UInt8], bytes: Int64)?

    private init(
        _ layer: consuming LayerFile,
        _ limits: CaptureLimits,
        _ skipped: SkippedPaths,
        _ isCancelled: @escaping @Sendable () -> Bool
    ) {
        self.layer = layer
        self.limits = limits
        self.skipped = skipped
        self.isCancelled = isCancelled
    }

    /// Writes the layer into `path`. Blocks for as long as that takes.
    ///
    /// - Parameter isCancelled: asked now and then.
    /// - Returns: the layer's digest and size.
    static func write(
        _ files: FrozenFiles,
        to path: String,
        skipping skipped: SkippedPaths,
        limits: CaptureLimits,
        isCancelled: @escaping @Sendable () -> Bool
    ) throws -> (digest: String, bytes: Int64) {
        var capture = TreeCapture(try LayerFile(path), limits, skipped, isCancelled)
        switch files {
        case .whole(let tree, let base):
            let root = try Directory(tree)
            try capture.enter(root.status, [], isChanged: true)
            try capture.walk(root, try base.map { try Directory($0) }, [])
        case .differences(let folders, let base):
            let root = try MergedFolder(folders)
            try capture.enter(root.uppermost.status, [], isChanged: true)
            try capture.walk(root, try MergedFolder(base), [])
        }
        let digest = try capture.layer.finish()
        return (digest, capture.layer.bytes)
    }

    // MARK: - Walking

    private mutating func walk(_ folder: Directory, _ base: Directory?, _ path: [UInt8]) throws {
        try judgeDepth(path)
        var kept: Set<[UInt8]> = []
        let list = try folder.names(within: nameLimits)
        heldNameBytes += list.bytes
        for name in list.names {
            if isCancelled() { throw CancellationError() }
            let its = join(path, name)
            let status = try folder.status(of: name)
            // Nobody listens at a socket any more.
            if status.type == S_IFSOCK { continue }
            let old = try base?.statusIfPresent(of: name)
            if old == nil, skipped.skips(its) { continue }
            kept.insert(name)
            try take(name, its, status, old, folder, base)
        }
        if let base {
            for name in try base.names(within: nameLimits).names where !kept.contains(name) { try markGone(name, path) }
        }
        heldNameBytes -= list.bytes
    }

    private var nameLimits: NameLimits {
        NameLimits(names: limits.entries, bytes: max(0, limits.nameBytes - heldNameBytes))
    }

    private mutating func take(
        _ name: [UInt8],
        _ path: [UInt8],
        _ status: stat,
        _ old: stat?,
        _ folder: Directory,
        _ base: Directory?
    ) throws {
        try judge(name, path, status)
        let isChanged = old.map { !status.isSame(as: $0) } ?? true
        guard status.type == S_IFDIR else {
            if isChanged {
                try write(name, path, status, folder)
            } else if limits.countsBase, status.type == S_IFREG {
                // A file with several names is counted in parts.
                try count(Int64(status.st_blocks) * 512 / max(1, Int64(status.st_nlink)))
            }
            return
        }
        let inner = try folder.directory(name)
        // Made by the engine to mount something on, or further down.
        let isOnTheWay = old == nil && skipped.leads(path)
        try enter(inner.status, path, isChanged: isChanged && !isOnTheWay, attributes: try inner.attributes())
        if let old, old.type == S_IFDIR {
            try walk(inner, try base!.directory(name), path)
        } else {
            try walk(inner, nil, path)
        }
        above.removeLast()
    }

    /// - Parameter base: the root of all that is below.
    private mutating func walk(_ folder: MergedFolder, _ base: MergedFolder, _ path: [UInt8]) throws {
        try judgeDepth(path)
        let list = try folder.names(within: nameLimits)
        heldNameBytes += list.bytes
        for name in list.names {
            if isCancelled() { throw CancellationError() }
            guard let (part, status) = try folder.find(name) else {
                throw CaptureTrouble("a file disappeared from a frozen folder")
            }
            let its = join(path, name)
            // Asked for only where it matters: it takes a look into each layer.
            func isInBase() throws -> Bool { try !folder.isOpaque && base.shows(its) }
            // A socket hides what is below it, too.
            if status.isWhiteout || status.type == S_IFSOCK {
                if try isInBase() { try markGone(name, path) }
                continue
            }
            let isPutThere = try (skipped.skips(its) || skipped.leads(its)) && !isInBase()
            if isPutThere, skipped.skips(its) { continue }
            try judge(name, its, status)
            guard status.type == S_IFDIR, let inner = try folder.folder(name) else {
                try write(name, its, status, part)
                continue
            }
            let attributes = try inner.uppermost.attributes()
            try enter(inner.uppermost.status, its, isChanged: !isPutThere, attributes: attributes)
            if try inner.isOpaque && isInBase() { try markEmptied(its) }
            try walk(inner, base, its)
            above.removeLast()
        }
        heldNameBytes -= list.bytes
    }

    private func judgeDepth(_ path: [UInt8]) throws {
        guard above.count <= limits.depth else {
            throw CaptureRefused(
                "'\(text(path))' is deeper than \(limits.depth) folders; move what is in it further up"
            )
        }
    }

    private func judge(_ name: [UInt8], _ path: [UInt8], _ status: stat) throws {
        if path.count > limits.pathBytes {
            throw CaptureRefused("'\(text(path))…' is longer than \(limits.pathBytes) bytes; make its names shorter")
        }
        if name.starts(with: ".wh.".utf8) {
            throw CaptureRefused("'\(text(path))' begins with .wh., which means something else in an image; rename it")
        }
        // How an inner subvolume shows in a frozen copy: its files are not in it.
        if status.type == S_IFDIR, status.st_ino == 2 {
            throw CaptureRefused(
                "'\(text(path))' is a btrfs subvolume; copy its files into a plain folder, and remove it"
            )
        }
    }

    // MARK: - Writing

    /// A folder; it is written now, or before the first that is in it, so that its own time comes out right in any case.
    private mutating func enter(
        _ status: stat,
        _ path: [UInt8],
        isChanged: Bool,
        attributes: [LayerEntry.Attribute] = []
    ) throws {
        var entry = LayerEntry(path: path.isEmpty ? Array("./".utf8) : path + [UInt8(ascii: "/")], kind: .directory)
        entry.take(status)
        entry.attributes = attributes
        above.append(Level(path: path, entry: entry, isWritten: false))
        if isChanged { try writeAbove() }
    }

    private mutating func writeAbove() throws {
        for index in above.indices where !above[index].isWritten {
            above[index].isWritten = true
            try append(above[index].entry)
        }
    }

    private mutating func append(_ entry: LayerEntry) throws {
        entries += 1
        guard entries <= limits.entries else {
            throw CaptureRefused(
                "more than \(limits.entries) files have changed; remove some, or pack them into an archive"
            )
        }
        try layer.append(entry)
    }

    private mutating func write(_ name: [UInt8], _ path: [UInt8], _ status: stat, _ folder: Directory) throws {
        guard let kind = LayerEntry.Kind(status) else {
            throw CaptureRefused("'\(text(path))' is of a kind that images do not have")
        }
        try writeAbove()
        var entry = LayerEntry(path: path, kind: kind)
        entry.take(status)
        if status.st_nlink > 1, let first = firstNames[status.st_ino] {
            entry.kind = .hardLink
            entry.link = first
            return try append(entry)
        }
        if status.st_nlink > 1 { try remember(status.st_ino, path) }
        if kind == .symbolicLink { entry.link = try folder.target(of: name) }
        entry.attributes = try folder.attributes(of: name)
        guard kind == .file else { return try append(entry) }
        entry.bytes = Int64(status.st_size)
        try writeContent(name, entry, folder)
    }

    /// Whoever starts from the image has to have room for it.
    private mutating func count(_ bytes: Int64) throws {
        // A hole may be as large as can be said: sums of two would not.
        guard bytes > limits.contentBytes - contentBytes else {
            contentBytes += bytes
            return
        }
        let what = limits.countsBase ? "the sandbox's files" : "the files that have changed"
        let which = largest.map { " (the largest: '\(text($0.path))', \($0.bytes >> 20) MiB)" } ?? ""
        throw CaptureRefused(
            "\(what), holes in them filled, are larger than the \(limits.contentBytes >> 20) MiB that the sandbox's disk has for them\(which); remove some, or make the disk larger"
        )
    }

    private mutating func remember(_ inode: ino_t, _ path: [UInt8]) throws {
        guard firstNames.count < limits.hardLinks, heldNameBytes < limits.nameBytes else {
            throw CaptureRefused(
                "\(firstNames.count) changed files have several names, and there are more, which is too much to be held at once; remove some"
            )
        }
        firstNames[inode] = path
        heldNameBytes += NameList.bytes(of: path)
    }

    private mutating func writeContent(_ name: [UInt8], _ entry: LayerEntry, _ folder: Directory) throws {
        if entry.bytes > largest?.bytes ?? 0 { largest = (entry.path, entry.bytes) }
        try count(entry.bytes)
        try append(entry)
        let file = try folder.file(name)
        var left = entry.bytes
        while left > 0 {
            if isCancelled() { throw CancellationError() }
            let chunk = try file.read(atMost: Int(min(left, 1 << 20)))
            left -= Int64(chunk.count)
            try layer.append(chunk)
        }
        try layer.append(LayerEntry.padding(after: entry.bytes))
    }

    /// The mark by which a layer says that a name of the layers below is gone.
    private mutating func markGone(_ name: [UInt8], _ path: [UInt8]) throws {
        try mark(join(path, Array(".wh.".utf8) + name))
    }

    /// The mark by which a layer says that of this folder nothing is left that the layers below have in it.
    private mutating func markEmptied(_ path: [UInt8]) throws { try mark(join(path, Array(".wh..wh..opq".utf8))) }

    private mutating func mark(_ path: [UInt8]) throws {
        try writeAbove()
        try append(LayerEntry(path: path, kind: .file, mode: 0o600))
    }
}

/// Paths that the engine, or Martlet, has put into a container.
struct SkippedPaths: Sendable {
    /// What the engine makes in each container before it mounts something there.
    private static let engines = [
        ".dockerenv", "dev/console", "dev/pts", "dev/shm", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf",
    ]

    private let paths: Set<[UInt8]>
    private let ways: Set<[UInt8]>

    /// - Parameter mountPoints: absolute.
    init(mountPoints: [String]) {
        let all =
            mountPoints.map { Array($0.utf8.drop { $0 == UInt8(ascii: "/") }) } + Self.engines.map { Array($0.utf8) }
        paths = Set(all)
        ways = Set(
            all.flatMap { path in path.indices.filter { path[$0] == UInt8(ascii: "/") }.map { Array(path[..<$0]) } }
        )
    }

    func skips(_ path: [UInt8]) -> Bool { paths.contains(path) }
    func leads(_ path: [UInt8]) -> Bool { ways.contains(path) }
}

private func join(_ path: [UInt8], _ name: [UInt8]) -> [UInt8] {
    path.isEmpty ? name : path + [UInt8(ascii: "/")] + name
}

private func text(_ path: [UInt8]) -> String { String(decoding: path.prefix(200), as: UTF8.self) }
