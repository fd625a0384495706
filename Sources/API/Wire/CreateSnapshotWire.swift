import Domain
import Postgres
import Store

/// The body of `POST /snapshots`, judged as far as it can be without the database.
struct CreateSnapshotWire: Sendable {
    static let argumentsLimit = 64
    static let argumentByteLimit = 4096

    var name: String
    /// Has exactly one of the two.
    var image: ImageName?
    var source: ImageSource?
    /// nil is the image's own.
    var entrypoint: [String]?
    var region: String?
    var size: SandboxSize
    var gpu: Int?
    var gpuType: String?

    /// Throws one 400 that names every bad field. `organization` has the ceilings.
    init(_ body: [String: JSONValue], for organization: OrganizationRecord) throws {
        var fields = FieldReader(body)
        let name = fields.string("name", limit: 4 * SandboxRules.nameLimit) ?? ""
        if let problem = SandboxRules.problem(ofName: name) { fields.complain(problem) }
        let image = Self.image(&fields)
        source = ImageSource(&fields)
        entrypoint = Self.entrypoint(&fields)
        region = fields.string("regionId").flatMap { $0.isEmpty ? nil : $0 }
        size = SandboxSize(
            cpu: fields.integer("cpu", in: 1...organization.cpuLimitPerSandbox),
            memoryGib: fields.integer("memory", in: 1...organization.memoryLimitGibPerSandbox),
            diskGib: fields.integer("disk", in: 1...organization.diskLimitGibPerSandbox)
        )
        gpu = fields.integer("gpu", in: 0...16)
        gpuType = Self.gpuType(&fields)
        if let kind = fields.string("sandboxClass"), kind != "container" {
            fields.complain(
                "sandboxClass is '\(kind.shortened)', but this Martlet runs sandboxes of class container only"
            )
        }
        if image != nil, source != nil {
            fields.complain("imageName and buildInfo cannot go together: give one of them")
        }
        try fields.finish()
        guard image != nil || source != nil else {
            throw APIError.badRequest(
                "imageName is missing: give the image to make the snapshot of, or buildInfo to build one"
            )
        }
        (self.name, self.image) = (name, image)
    }

    private static func image(_ fields: inout FieldReader) -> ImageName? {
        guard let text = fields.string("imageName") else { return nil }
        do {
            let name = try ImageName(parsing: text)
            // What it is today it may not be tomorrow, and two runners would run two things.
            if name.digest == nil, name.tag == nil || name.tag == "latest" {
                fields.complain(
                    "imageName '\(text.shortened)' needs a tag other than 'latest', or a digest (name:1.2 or name@sha256:…)"
                )
            }
            return name
        } catch {
            fields.complain("imageName '\(text.shortened)' \(error)")
            return nil
        }
    }

    private static func entrypoint(_ fields: inout FieldReader) -> [String]? {
        guard let words = fields.list("entrypoint", limit: argumentsLimit), !words.isEmpty else { return nil }
        for word in words where word.utf8.count > argumentByteLimit || word.utf8.contains(0) {
            fields.complain(
                "entrypoint has '\(word.shortened)', but each word is of at most \(argumentByteLimit) bytes and without NUL"
            )
        }
        if words[0].isEmpty { fields.complain("entrypoint begins with an empty word; it must begin with a program") }
        return words
    }

    private static func gpuType(_ fields: inout FieldReader) -> String? {
        let types = fields.list("gpuType", limit: SandboxRules.gpuTypes.count) ?? []
        for type in types where !SandboxRules.gpuTypes.contains(type) {
            fields.complain("gpuType '\(type.shortened)' is none of \(SandboxRules.gpuTypes.joined(separator: ", "))")
        }
        if types.count > 1 { fields.complain("gpuType names \(types.count) kinds; a snapshot may name one") }
        return types.first
    }
}
