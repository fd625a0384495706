package import NIOCore

/// What has become of a file, in the contract's words.
package enum FileChange: String, Encodable, Sendable, CaseIterable {
    case unmodified = "Unmodified"
    case untracked = "Untracked"
    case modified = "Modified"
    case added = "Added"
    case deleted = "Deleted"
    case renamed = "Renamed"
    case copied = "Copied"
    case unmerged = "Updated but unmerged"

    /// One letter of git's; a changed type (file to link) counts as modified.
    init?(letter: UInt8) {
        switch letter {
        case UInt8(ascii: "."): self = .unmodified
        case UInt8(ascii: "M"), UInt8(ascii: "T"): self = .modified
        case UInt8(ascii: "A"): self = .added
        case UInt8(ascii: "D"): self = .deleted
        case UInt8(ascii: "R"): self = .renamed
        case UInt8(ascii: "C"): self = .copied
        default: return nil
        }
    }
}

/// One changed file.
package struct ChangedFile: Encodable, Sendable, Equatable {
    /// Relative to the repository's root. Bytes that are no UTF-8 are replaced.
    package var name: String
    /// What a renamed or copied file was called before; for an unmerged one which side did what, in git's words.
    package var extra = ""
    package var staging: FileChange
    package var worktree: FileChange

    package init(name: String, extra: String = "", staging: FileChange, worktree: FileChange) {
        self.name = name
        self.extra = extra
        self.staging = staging
        self.worktree = worktree
    }
}

/// Where the branch stands, and which files changed.
package struct GitStatusReport: Sendable, Equatable {
    /// Nil if HEAD is detached.
    package var branch: String?
    package var upstream = ""
    /// Commits ahead of and behind the upstream; nil if there is none, or it was deleted.
    package var distance: Distance?
    package var files: [ChangedFile] = []

    package struct Distance: Sendable, Equatable {
        package var ahead: Int
        package var behind: Int

        package init(ahead: Int, behind: Int) {
            self.ahead = ahead
            self.behind = behind
        }
    }

    package init(branch: String? = nil) {
        self.branch = branch
    }
}

/// Git wrote what we do not understand.
package struct GitOutputError: Error, Sendable, Equatable {
    package var record: String
}

/// Reads `git status --porcelain=v2 --branch -z`: records that end with NUL. Types are told by the first character:
///
///     # branch.head NAME                     1 XY SUB mH mI mW hH hI PATH
///     # branch.upstream NAME                 2 XY SUB mH mI mW hH hI SCORE PATH, and a second record with the former path
///     # branch.ab +AHEAD -BEHIND             u XY SUB m1 m2 m3 mW h1 h2 h3 PATH
///     ? PATH                                 ! PATH
package func parseStatus(_ output: ByteBufferView) throws(GitOutputError) -> GitStatusReport {
    var report = GitStatusReport()
    var rest = output
    while let record = nextRecord(&rest) {
        switch record.first {
        case UInt8(ascii: "#"): try readHeader(record, into: &report)
        case UInt8(ascii: "1"): report.files.append(try ordinaryChange(record, fields: 8))
        case UInt8(ascii: "2"):
            var file = try ordinaryChange(record, fields: 9)
            guard let former = nextRecord(&rest) else { throw unreadable(record) }
            file.extra = text(former)
            report.files.append(file)
        case UInt8(ascii: "u"): report.files.append(try unmergedFile(record))
        case UInt8(ascii: "?"):
            let name = text(try path(record, after: 1))
            report.files.append(ChangedFile(name: name, staging: .untracked, worktree: .untracked))
        case UInt8(ascii: "!"): break
        default: throw unreadable(record)
        }
    }
    return report
}

private func nextRecord(_ rest: inout ByteBufferView) -> ByteBufferView? {
    guard !rest.isEmpty else { return nil }
    let end = rest.firstIndex(of: 0) ?? rest.endIndex
    defer { rest = end < rest.endIndex ? rest[(end + 1)...] : rest[end...] }
    return rest[..<end]
}

private func readHeader(_ record: ByteBufferView, into report: inout GitStatusReport) throws(GitOutputError) {
    let words = text(record).split(separator: " ", maxSplits: 2)
    guard words.count == 3 else { return }  // headers of later versions
    switch words[1] {
    case "branch.head": report.branch = words[2] == "(detached)" ? nil : String(words[2])
    case "branch.upstream": report.upstream = String(words[2])
    case "branch.ab":
        let numbers = words[2].split(separator: " ")
        guard numbers.count == 2, let ahead = UInt32(numbers[0].dropFirst()),
            let behind = UInt32(numbers[1].dropFirst())
        else { throw unreadable(record) }
        report.distance = .init(ahead: Int(ahead), behind: Int(behind))
    default: break
    }
}

private func ordinaryChange(_ record: ByteBufferView, fields: Int) throws(GitOutputError) -> ChangedFile {
    let (staged, unstaged) = try letters(record)
    guard let staging = FileChange(letter: staged), let worktree = FileChange(letter: unstaged) else {
        throw unreadable(record)
    }
    return ChangedFile(name: text(try path(record, after: fields)), staging: staging, worktree: worktree)
}

private func unmergedFile(_ record: ByteBufferView) throws(GitOutputError) -> ChangedFile {
    let (ours, theirs) = try letters(record)
    let name = text(try path(record, after: 10))
    let sides = String(decoding: [ours, theirs], as: UTF8.self)
    guard let words = conflictWords[sides] else { throw unreadable(record) }
    return ChangedFile(name: name, extra: words, staging: .unmerged, worktree: .unmerged)
}

private let conflictWords = [
    "DD": "both deleted", "AU": "added by us", "UD": "deleted by them", "UA": "added by them", "DU": "deleted by us",
    "AA": "both added", "UU": "both modified",
]

private func letters(_ record: ByteBufferView) throws(GitOutputError) -> (UInt8, UInt8) {
    let start = record.startIndex
    guard record.count > 5, record[start + 1] == UInt8(ascii: " "), record[start + 4] == UInt8(ascii: " ") else {
        throw unreadable(record)
    }
    return (record[start + 2], record[start + 3])
}

/// What follows a number of fields, spaces and all.
private func path(_ record: ByteBufferView, after fields: Int) throws(GitOutputError) -> ByteBufferView {
    var rest = record
    for _ in 0..<fields {
        guard let space = rest.firstIndex(of: UInt8(ascii: " ")) else { throw unreadable(record) }
        rest = rest[(space + 1)...]
    }
    guard !rest.isEmpty else { throw unreadable(record) }
    return rest
}

private func text(_ bytes: ByteBufferView) -> String {
    String(decoding: bytes, as: UTF8.self)
}

private func unreadable(_ record: ByteBufferView) -> GitOutputError {
    GitOutputError(record: text(record.prefix(200)))
}
