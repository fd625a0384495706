/// What an archive of a build context may hold.
struct ArchiveLimits: Sendable, Hashable {
    /// Entries of all archives of a build.
    var entries = 50_000
    /// Bytes of all their files.
    var bytes = 2 << 30
    /// Bytes of a path, and of one name in it.
    var pathBytes = 4096
    var nameBytes = 255
    /// Folders in folders.
    var depth = 64
    /// Bytes of an entry's extended attributes.
    var attributeBytes = 64 << 10
}

/// Copies tar archives into one, entry by entry, as they stream by. Nothing is unpacked here, and nothing of an entry is handed
/// on but its name, kind, mode and content: what comes out are files and folders below the root, and links that stay there.
///
/// An archive is not compressed, so what it holds is never more than what was uploaded; sparse files, which could be, are refused.
struct ArchiveFilter {
    private enum Phase {
        case header
        /// The rest of a file: bytes to copy, then bytes to skip.
        case content(left: Int, padding: Int)
        case attributes(TarHeader.Kind, left: Int, padding: Int)
        case skip(left: Int)
        /// After the block of zeros.
        case end
    }

    private enum Seen { case file, directory, link, reserved }

    private let limits: ArchiveLimits
    private var phase = Phase.header
    private var pending: [UInt8] = []
    private var attributes = EntryAttributes()
    private var seen: [String: Seen] = [:]
    private var entries = 0
    private var bytes = 0

    /// No archive may write, or link to, the path `reserved`: something of ours is there.
    init(limits: ArchiveLimits = ArchiveLimits(), reserved: String? = nil) {
        self.limits = limits
        if let reserved { seen[reserved] = .reserved }
    }

    /// Takes the next bytes of the present archive; returns what of them goes on.
    mutating func take(_ chunk: [UInt8]) throws(ArchiveProblem) -> [UInt8] {
        var output: [UInt8] = []
        var rest = chunk[...]
        while !rest.isEmpty {
            switch phase {
            case .header:
                let missing = TarHeader.size - pending.count
                pending += rest.prefix(missing)
                rest = rest.dropFirst(missing)
                if pending.count == TarHeader.size { try takeHeader(into: &output) }
            case .content(let left, let padding):
                output += rest.prefix(left)
                let taken = min(left, rest.count)
                rest = rest.dropFirst(taken)
                if left > taken {
                    phase = .content(left: left - taken, padding: padding)
                } else {
                    endContent(padding, &output)
                }
            case .attributes(let kind, let left, let padding):
                let taken = min(left, rest.count)
                pending += rest.prefix(taken)
                rest = rest.dropFirst(taken)
                phase = .attributes(kind, left: left - taken, padding: padding)
                if left == taken { try endAttributes(kind, padding) }
            case .skip(let left):
                let taken = min(left, rest.count)
                rest = rest.dropFirst(taken)
                phase = left > taken ? .skip(left: left - taken) : .header
            case .end: rest = []
            }
        }
        return output
    }

    /// The archive ended; another may follow. Throws where it ended within an entry.
    mutating func endArchive() throws(ArchiveProblem) {
        switch phase {
        case .end: break
        case .header where pending.isEmpty && !attributes.isAny: break
        case .header, .content, .attributes, .skip:
            throw ArchiveProblem("ends in the middle of an entry: it was not uploaded whole")
        }
        phase = .header
    }

    /// A file of our own, whole.
    static func entry(name: String, content: [UInt8]) -> [UInt8] {
        let header = TarHeader(name: Array(name.utf8), kind: .file, mode: 0o644, bytes: content.count)
        return header.block + content + [UInt8](repeating: 0, count: padding(content.count))
    }

    /// With which an archive ends.
    static let ending = [UInt8](repeating: 0, count: 2 * TarHeader.size)

    private static func padding(_ count: Int) -> Int { (TarHeader.size - count % TarHeader.size) % TarHeader.size }

    // MARK: - Entries

    private mutating func takeHeader(into output: inout [UInt8]) throws(ArchiveProblem) {
        let header = try TarHeader(reading: pending)
        pending = []
        guard let header else {
            phase = .end
            return
        }
        switch header.kind {
        case .extended, .longName, .longLink:
            guard header.bytes <= limits.attributeBytes else {
                throw ArchiveProblem(
                    "has an entry with \(header.bytes) bytes of attributes; the limit is \(limits.attributeBytes)"
                )
            }
            phase = .attributes(header.kind, left: header.bytes, padding: Self.padding(header.bytes))
            if header.bytes == 0 { phase = .header }
        case .global:
            guard header.bytes <= limits.attributeBytes else { throw ArchiveProblem("has too many attributes") }
            let whole = header.bytes + Self.padding(header.bytes)
            phase = whole > 0 ? .skip(left: whole) : .header
        case .file, .directory, .symbolicLink, .hardLink, .other:
            let named = try attributes.applied(to: header)
            attributes = EntryAttributes()
            try takeEntry(named, into: &output)
        }
    }

    private mutating func endAttributes(_ kind: TarHeader.Kind, _ padding: Int) throws(ArchiveProblem) {
        try attributes.read(kind, pending)
        pending = []
        phase = padding > 0 ? .skip(left: padding) : .header
    }

    private mutating func endContent(_ padding: Int, _ output: inout [UInt8]) {
        output += [UInt8](repeating: 0, count: padding)
        phase = padding > 0 ? .skip(left: padding) : .header
    }

    private mutating func takeEntry(_ header: TarHeader, into output: inout [UInt8]) throws(ArchiveProblem) {
        let path = try path(header.name)
        try count(header, path)
        guard !path.isEmpty else {
            // The root itself: nothing to make.
            guard header.kind == .directory else { throw ArchiveProblem("has an entry without a name") }
            phase = .header
            return
        }
        let text = path.joined(separator: "/")
        guard seen[text] != .reserved else {
            throw ArchiveProblem("has '\(text.shown)', where the Dockerfile itself is: give it another name")
        }
        try checkAncestors(of: path)
        var out = TarHeader(name: Array(text.utf8), kind: header.kind, mode: header.mode & 0o777, bytes: 0)
        switch header.kind {
        case .file:
            if seen[text] == .link { throw ArchiveProblem("writes '\(text.shown)' twice, the first time as a link") }
            seen[text] = .file
            out.bytes = header.bytes
        case .directory:
            if seen[text] != nil, seen[text] != .directory { throw twice(text) } else { seen[text] = .directory }
        case .symbolicLink:
            if seen[text] != nil { throw twice(text) }
            out.linkName = try linkTarget(header.linkName, of: path)
            seen[text] = .link
        case .hardLink:
            let target = try self.path(header.linkName).joined(separator: "/")
            guard seen[target] == .file, seen[text] == nil else {
                throw ArchiveProblem("has the link '\(text.shown)' to '\(target.shown)', which is no file before it")
            }
            out.linkName = Array(target.utf8)
            seen[text] = .file
        case .extended, .global, .longName, .longLink, .other:
            throw ArchiveProblem(
                "has '\(text.shown)', which is neither file, folder nor link (devices, pipes and sparse files are refused)"
            )
        }
        output += try Self.written(out)
        phase = out.bytes > 0 ? .content(left: out.bytes, padding: Self.padding(out.bytes)) : .header
    }

    private func twice(_ text: String) -> ArchiveProblem {
        ArchiveProblem("has '\(text.shown)' twice, as two different things")
    }

    private mutating func count(_ header: TarHeader, _ path: [String]) throws(ArchiveProblem) {
        entries += 1
        guard entries <= limits.entries else { throw ArchiveProblem("has more than \(limits.entries) entries") }
        // Whatever number the header says: the sum of two could be none.
        guard header.bytes <= limits.bytes - bytes else {
            throw ArchiveProblem("holds more than \(limits.bytes >> 20) MiB")
        }
        bytes += header.bytes
        guard header.kind == .file || header.bytes == 0 else {
            throw ArchiveProblem("has '\(path.joined(separator: "/").shown)', which has content but is no file")
        }
    }

    // MARK: - Names

    /// The names of a path below the root. Throws for one that leads out of it.
    private func path(_ raw: [UInt8]) throws(ArchiveProblem) -> [String] {
        guard raw.count <= limits.pathBytes, let text = String(validating: raw, as: UTF8.self), !raw.contains(0) else {
            throw ArchiveProblem("has a path that is no UTF-8, or longer than \(limits.pathBytes) bytes")
        }
        guard raw.first != UInt8(ascii: "/") else { throw ArchiveProblem("has the absolute path '\(text.shown)'") }
        let names = raw.split(separator: UInt8(ascii: "/")).filter { !$0.elementsEqual([UInt8(ascii: ".")]) }
        guard !names.contains(where: { $0.elementsEqual("..".utf8) }) else {
            throw ArchiveProblem("has the path '\(text.shown)', which leads out of it")
        }
        guard names.count <= limits.depth, names.allSatisfy({ $0.count <= limits.nameBytes }) else {
            throw ArchiveProblem(
                "has the path '\(text.shown)'; the limits are \(limits.depth) folders and names of \(limits.nameBytes) bytes"
            )
        }
        return names.map { String(decoding: $0, as: UTF8.self) }
    }

    /// What is behind a link is written where the link leads, so nothing may be.
    private func checkAncestors(of path: [String]) throws(ArchiveProblem) {
        for count in 1..<max(path.count, 1) {
            let ancestor = path.prefix(count).joined(separator: "/")
            guard seen[ancestor] == nil || seen[ancestor] == .directory else {
                throw ArchiveProblem(
                    "has '\(path.joined(separator: "/").shown)' below '\(ancestor.shown)', which is no folder"
                )
            }
        }
    }

    /// A symbolic link's target as it is, if it stays below the root.
    private func linkTarget(_ raw: [UInt8], of path: [String]) throws(ArchiveProblem) -> [UInt8] {
        let names = raw.split(separator: UInt8(ascii: "/"))
        var depth = path.count - 1
        for name in names where !name.elementsEqual([UInt8(ascii: ".")]) {
            depth += name.elementsEqual("..".utf8) ? -1 : 1
            if depth < 0 { break }
        }
        guard depth >= 0, raw.first != UInt8(ascii: "/"), !raw.isEmpty, !raw.contains(0), raw.count <= limits.pathBytes,
            String(validating: raw, as: UTF8.self) != nil
        else {
            let target = String(decoding: raw, as: UTF8.self)
            throw ArchiveProblem(
                "has the link '\(path.joined(separator: "/").shown)' to '\(target.shown)', which leads out of it"
            )
        }
        return raw
    }

    // MARK: - Writing

    /// The header, after attributes where it cannot say all.
    private static func written(_ header: TarHeader) throws(ArchiveProblem) -> [UInt8] {
        var (short, records) = (header, [UInt8]())
        if !fits(header.name) {
            records += record("path", header.name)
            short.name = Array("long".utf8)
        }
        if !fits(header.linkName) {
            records += record("linkpath", header.linkName)
            short.linkName = Array("long".utf8)
        }
        guard !records.isEmpty else { return header.block }
        let attributes = TarHeader(name: Array("attributes".utf8), kind: .extended, mode: 0o644, bytes: records.count)
        return attributes.block + records + [UInt8](repeating: 0, count: padding(records.count)) + short.block
    }

    private static func fits(_ name: [UInt8]) -> Bool { name.count <= 100 && name.allSatisfy { $0 < 128 } }

    /// `<length of all this> <key>=<value>\n`.
    private static func record(_ key: String, _ value: [UInt8]) -> [UInt8] {
        let rest = Array(" \(key)=".utf8) + value + [UInt8(ascii: "\n")]
        var length = rest.count + 1
        while "\(length)".utf8.count + rest.count != length { length = "\(length)".utf8.count + rest.count }
        return Array("\(length)".utf8) + rest
    }
}

/// What was said of the next entry in entries of their own.
private struct EntryAttributes {
    private var name: [UInt8]?
    private var linkName: [UInt8]?
    private var bytes: Int?

    var isAny: Bool { name != nil || linkName != nil || bytes != nil }

    mutating func read(_ kind: TarHeader.Kind, _ content: [UInt8]) throws(ArchiveProblem) {
        switch kind {
        case .longName: name = Array(content.prefix { $0 != 0 })
        case .longLink: linkName = Array(content.prefix { $0 != 0 })
        case .extended: try readRecords(content)
        case .file, .directory, .symbolicLink, .hardLink, .global, .other: break
        }
    }

    private mutating func readRecords(_ content: [UInt8]) throws(ArchiveProblem) {
        var rest = content[...]
        while !rest.isEmpty {
            guard let blank = rest.firstIndex(of: UInt8(ascii: " ")),
                let length = Int(String(decoding: rest[..<blank], as: UTF8.self)), length > blank - rest.startIndex + 2,
                length <= rest.count, rest[rest.startIndex + length - 1] == UInt8(ascii: "\n")
            else { throw ArchiveProblem("has an entry with broken attributes") }
            let body = rest[(blank + 1)..<(rest.startIndex + length - 1)]
            rest = rest.dropFirst(length)
            guard let equals = body.firstIndex(of: UInt8(ascii: "=")) else {
                throw ArchiveProblem("has an entry with broken attributes")
            }
            try take(String(decoding: body[..<equals], as: UTF8.self), Array(body[(equals + 1)...]))
        }
    }

    private mutating func take(_ key: String, _ value: [UInt8]) throws(ArchiveProblem) {
        switch key {
        case "path": name = value
        case "linkpath": linkName = value
        case "size":
            guard let size = Int(String(decoding: value, as: UTF8.self)), size >= 0 else {
                throw ArchiveProblem("has an entry whose size is no number")
            }
            bytes = size
        case let key where key.hasPrefix("GNU.sparse"):
            throw ArchiveProblem("has a sparse file; make it an ordinary one")
        default: break
        }
    }

    func applied(to header: TarHeader) throws(ArchiveProblem) -> TarHeader {
        var header = header
        header.name = name ?? header.name
        header.linkName = linkName ?? header.linkName
        header.bytes = bytes ?? header.bytes
        return header
    }
}

extension String {
    /// For messages: cut, and without control characters.
    fileprivate var shown: String {
        String(String.UnicodeScalarView(unicodeScalars.prefix(120).map { $0.value < 32 || $0.value == 127 ? "?" : $0 }))
    }
}
