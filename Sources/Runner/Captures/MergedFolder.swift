#if canImport(Glibc)
    import Glibc
#endif

/// A folder as overlayfs shows it: folders upon each other, each of which hides what it has from those below.
struct MergedFolder {
    /// The uppermost first.
    private let parts: [Directory]
    /// Nothing shows of what may be below the last of them.
    let isOpaque: Bool

    /// - Parameter paths: the uppermost first.
    init(_ paths: [String]) throws {
        self.init(try paths.map { try Directory($0) }, isOpaque: false)
    }

    private init(_ parts: [Directory], isOpaque: Bool) {
        self.parts = parts
        self.isOpaque = isOpaque
    }

    /// The part whose mode, owner and times show.
    var uppermost: Directory { parts[0] }

    /// Marks of what is gone included, in order.
    func names(within limits: NameLimits) throws -> NameList {
        if parts.count == 1 { return try uppermost.names(within: limits) }
        var (seen, all) = (Set<[UInt8]>(), NameList())
        for part in parts {
            for name in try part.names(within: limits).names where seen.insert(name).inserted {
                all.append(name)
                try limits.judge(all)
            }
        }
        all.names.sort { $0.lexicographicallyPrecedes($1) }
        return all
    }

    /// What shows of this name, which may be a mark of what is gone, and where it is; nil when none of the parts has it.
    func find(_ name: [UInt8]) throws -> (Directory, stat)? {
        for part in parts { if let status = try part.statusIfPresent(of: name) { return (part, status) } }
        return nil
    }

    /// Nil where this is no folder.
    func folder(_ name: [UInt8]) throws -> MergedFolder? {
        var found: [Directory] = []
        var isOpaque = isOpaque
        for part in parts {
            guard let status = try part.statusIfPresent(of: name) else { continue }
            guard status.type == S_IFDIR else {
                isOpaque = true
                break
            }
            found.append(try part.directory(name))
            isOpaque = try isOpaque || found.last!.isOpaque  // just appended
            if try found.last!.isOpaque { break }  // just appended
        }
        return found.isEmpty ? nil : MergedFolder(found, isOpaque: isOpaque)
    }

    /// Whether something is there, however deep.
    func shows(_ path: [UInt8]) throws -> Bool {
        let names = path.split(separator: UInt8(ascii: "/")).map { Array($0) }
        var folder = self
        for name in names.dropLast() {
            guard let inner = try folder.folder(name) else { return false }
            folder = inner
        }
        return try names.last.flatMap { try folder.find($0) }.map { !$0.1.isWhiteout } ?? false
    }
}
