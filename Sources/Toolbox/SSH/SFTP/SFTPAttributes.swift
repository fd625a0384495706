import Glibc

/// What a packet says of a file; what is nil is not said.
struct SFTPAttributes {
    var size: UInt64?
    var owner: (user: UInt32, group: UInt32)?
    var permissions: UInt32?
    var times: (access: UInt32, modification: UInt32)?

    private static let sizeFlag: UInt32 = 1
    private static let ownerFlag: UInt32 = 2
    private static let permissionsFlag: UInt32 = 4
    private static let timesFlag: UInt32 = 8
    private static let extendedFlag: UInt32 = 0x8000_0000

    init(_ status: stat) {
        size = UInt64(clamping: status.st_size)
        owner = (status.st_uid, status.st_gid)
        permissions = status.st_mode
        times = (UInt32(clamping: status.st_atim.tv_sec), UInt32(clamping: status.st_mtim.tv_sec))
    }

    init(_ reader: inout SFTPReader) throws(SFTPFailure) {
        let flags = try reader.number()
        if flags & Self.sizeFlag != 0 { size = try reader.longNumber() }
        if flags & Self.ownerFlag != 0 { owner = (try reader.number(), try reader.number()) }
        if flags & Self.permissionsFlag != 0 { permissions = try reader.number() }
        if flags & Self.timesFlag != 0 { times = (try reader.number(), try reader.number()) }
        guard flags & Self.extendedFlag != 0 else { return }
        for _ in 0..<(try reader.number()) {
            _ = try reader.bytes()
            _ = try reader.bytes()
        }
    }

    func write(to writer: inout SFTPWriter) {
        writer.number(
            (size == nil ? 0 : Self.sizeFlag) | (owner == nil ? 0 : Self.ownerFlag)
                | (permissions == nil ? 0 : Self.permissionsFlag) | (times == nil ? 0 : Self.timesFlag)
        )
        if let size { writer.longNumber(size) }
        if let owner {
            writer.number(owner.user)
            writer.number(owner.group)
        }
        if let permissions { writer.number(permissions) }
        if let times {
            writer.number(times.access)
            writer.number(times.modification)
        }
    }

    /// The mode that a new file or directory is made with, before the umask.
    func mode(else standard: mode_t) -> mode_t { permissions.map { $0 & 0o7777 } ?? standard }

    /// Makes a file so. The size comes first, because it changes the time, and the owner before the permissions, because it
    /// clears set-id bits.
    func apply(
        truncate: (off_t) -> CInt,
        chown: (uid_t, gid_t) -> CInt,
        chmod: (mode_t) -> CInt,
        utimens: (UnsafePointer<timespec>) -> CInt
    ) throws(SFTPFailure) {
        if let size {
            guard let length = off_t(exactly: size) else { throw .system(EFBIG) }
            try check(truncate(length))
        }
        if let owner { try check(chown(owner.user, owner.group)) }
        if let permissions { try check(chmod(permissions & 0o7777)) }
        if let times {
            let both = [
                timespec(tv_sec: Int(times.access), tv_nsec: 0), timespec(tv_sec: Int(times.modification), tv_nsec: 0),
            ]
            try check(utimens(both))
        }
    }
}

/// - Throws: what errno says, if the result of a system call is negative.
@discardableResult
func check<Result: SignedInteger>(_ result: Result) throws(SFTPFailure) -> Result {
    guard result >= 0 else { throw .system(errno) }
    return result
}

/// A line as `ls -l` writes it, which some clients show.
func listingLine(_ name: some Collection<UInt8>, _ status: stat, _ accounts: Accounts) -> [UInt8] {
    let kinds: [mode_t: Character] = [
        S_IFDIR: "d", S_IFLNK: "l", S_IFIFO: "p", S_IFSOCK: "s", S_IFCHR: "c", S_IFBLK: "b",
    ]
    var mode = String(kinds[status.st_mode & S_IFMT] ?? "-")
    for shift in [6, 3, 0] as [mode_t] {
        let bits = status.st_mode >> shift & 7
        mode += bits & 4 == 0 ? "-" : "r"
        mode += bits & 2 == 0 ? "-" : "w"
        mode += bits & 1 == 0 ? "-" : "x"
    }
    let fields = [
        mode, padded("\(status.st_nlink)", 4), accounts.userName(status.st_uid), accounts.groupName(status.st_gid),
        padded("\(status.st_size)", 10), dateText(status.st_mtim.tv_sec), "",
    ]
    return Array(fields.joined(separator: " ").utf8) + name
}

private func padded(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.utf8.count)) + text
}

/// With the time of day in the last half year, else with the year.
private func dateText(_ seconds: time_t) -> String {
    var (seconds, parts) = (seconds, tm())
    localtime_r(&seconds, &parts)
    // A file may have any time, also one that is too far away to count with.
    let (age, isFar) = time(nil).subtractingReportingOverflow(seconds)
    let isRecent = !isFar && age.magnitude < 182 * 86400
    var text = [CChar](repeating: 0, count: 32)
    let length = strftime(&text, text.count, isRecent ? "%b %e %H:%M" : "%b %e  %Y", &parts)
    return String(decoding: text.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
