/// What a key may do beyond reading. The names are the published client's.
enum Permission: String, Sendable, CaseIterable {
    case writeRegistries = "write:registries"
    case deleteRegistries = "delete:registries"
    case writeSnapshots = "write:snapshots"
    case deleteSnapshots = "delete:snapshots"
    case writeSandboxes = "write:sandboxes"
    case deleteSandboxes = "delete:sandboxes"
    case readVolumes = "read:volumes"
    case writeVolumes = "write:volumes"
    case deleteVolumes = "delete:volumes"
    case writeRegions = "write:regions"
    case deleteRegions = "delete:regions"
    case readRunners = "read:runners"
    case writeRunners = "write:runners"
    case deleteRunners = "delete:runners"
    case readAuditLogs = "read:audit_logs"
    case manageSecrets = "manage:secrets"
}

/// The permissions of a key: all (`*`), also those of later versions, or some. None means reading only.
struct PermissionSet: Sendable, Hashable {
    static let everything = "*"

    let isEverything: Bool
    private let some: Set<String>

    init(_ names: [String]) {
        isEverything = names.contains(Self.everything)
        some = Set(names)
    }

    func contains(_ permission: Permission) -> Bool { isEverything || some.contains(permission.rawValue) }

    /// As clients know them: `*` is written out.
    var names: [String] { isEverything ? Permission.allCases.map(\.rawValue) : some.sorted() }

    /// What the other set has beyond this one.
    func missing(of other: PermissionSet) -> [String] {
        if isEverything { return [] }
        return other.isEverything ? [Self.everything] : other.some.subtracting(some).sorted()
    }
}
