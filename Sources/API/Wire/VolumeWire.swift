import Domain
import FoundationEssentials
import Store

/// A volume on the wire: `VolumeDto` of the published client.
struct VolumeWire: Encodable {
    var id: String
    var name: String
    var organizationId: String
    var state: String
    var createdAt: Date
    var updatedAt: Date
    var lastUsedAt: Date?
    var errorReason: String?

    init(_ record: VolumeRecord) {
        id = record.id.description
        name = record.name
        organizationId = record.organizationID.description
        state = record.state.rawValue
        createdAt = record.createdAt
        updatedAt = record.updatedAt
        lastUsedAt = record.lastUsedAt
        errorReason = record.errorReason
    }
}

/// One entry of `volumes` in `POST /sandbox`, judged as far as it can be without the database.
struct VolumeMountWire: Sendable {
    /// Id or name.
    var volume: String
    var mountPath: String
    var subpath: String?

    /// Reads the whole list; complaints name the entry by its number.
    static func list(_ fields: inout FieldReader) -> [VolumeMountWire] {
        let entries = fields.objects("volumes", limit: VolumeRules.countLimit) ?? []
        let mounts = entries.enumerated().compactMap { read($1, "volumes[\($0)]", &fields) }
        VolumeRules.problems(ofPaths: mounts.map(\.mountPath)).forEach { fields.complain($0) }
        return mounts
    }

    private static func read(_ entry: [String: JSONValue], _ name: String, _ fields: inout FieldReader)
        -> VolumeMountWire?
    {
        var reader = FieldReader(entry)
        let volume = reader.string("volumeId")
        let path = reader.string("mountPath", limit: VolumeRules.pathByteLimit)
        let subpath = reader.string("subpath", limit: VolumeRules.pathByteLimit)
        if volume?.isEmpty ?? true, reader.problems.isEmpty { reader.complain("volumeId is missing") }
        if path == nil, reader.problems.isEmpty { reader.complain("mountPath is missing") }
        if let path, let problem = VolumeRules.problem(ofMountPath: path) { reader.complain(problem) }
        if let subpath, let problem = VolumeRules.problem(ofSubpath: subpath) { reader.complain(problem) }
        let problems = reader.problems + reader.unknownFields
        problems.forEach { fields.complain("\(name).\($0)") }
        guard problems.isEmpty, let volume, let path else { return nil }
        return VolumeMountWire(volume: volume, mountPath: path, subpath: (subpath?.isEmpty ?? true) ? nil : subpath)
    }
}

/// The rules that mounts of volumes obey, with their limits.
enum VolumeRules {
    /// For one sandbox.
    static let countLimit = 16
    static let pathByteLimit = 1024
    static let componentByteLimit = 255
    /// Nothing may be mounted on these, below them or above them: what is there makes the sandbox what it is.
    static let systemPaths = [
        "/.martlet", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin",
        "/sys", "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/sbin", "/var/run",
    ]

    static func problem(ofMountPath path: String) -> String? {
        let shown = path.shortened
        guard path.hasPrefix("/") else { return "mountPath is '\(shown)', but must be absolute: begin with /" }
        if path == "/" { return "mountPath is '/', but a volume cannot take the place of the whole file system" }
        if let problem = problem(ofComponents: path.dropFirst()) { return "mountPath is '\(shown)', but \(problem)" }
        if let system = systemPaths.first(where: { path.isWithin($0) || $0.isWithin(path) }) {
            return
                "mountPath is '\(shown)', but \(system) belongs to the system; choose another place, such as /mnt/data"
        }
        return nil
    }

    static func problem(ofSubpath path: String) -> String? {
        if path.isEmpty { return nil }
        if path.hasPrefix("/") {
            return "subpath is '\(path.shortened)', but must be relative to the volume: not begin with /"
        }
        return problem(ofComponents: path[...]).map { "subpath is '\(path.shortened)', but \($0)" }
    }

    /// Normalized: what is written is where it leads.
    private static func problem(ofComponents path: Substring) -> String? {
        for component in path.split(separator: "/", omittingEmptySubsequences: false) {
            switch component {
            case "": return "must be normalized: without // and without / at its end"
            case ".", "..": return "must be normalized: without '\(component)'"
            case _ where component.utf8.count > componentByteLimit:
                return "a name in it is \(component.utf8.count) bytes long; the limit is \(componentByteLimit)"
            case _ where component.unicodeScalars.contains(where: { $0.value < 32 || $0.value == 127 }):
                return "must not hold control characters"
            default: break
            }
        }
        return nil
    }

    /// No two volumes of a sandbox in one place, and none within another.
    static func problems(ofPaths paths: [String]) -> [String] {
        let sorted = paths.sorted()
        return sorted.indices.flatMap { first in
            sorted[(first + 1)...].compactMap { other in
                let path = sorted[first]
                guard other.isWithin(path) else { return nil }
                return other == path
                    ? "volumes: mountPath '\(path.shortened)' is given twice"
                    : "volumes: mountPath '\(other.shortened)' lies within '\(path.shortened)', where another volume is"
            }
        }
    }
}

extension String {
    /// Whether it is that path, or one below it. Both are normalized.
    fileprivate func isWithin(_ other: String) -> Bool { self == other || hasPrefix(other + "/") }
}
