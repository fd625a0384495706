import Domain
import Store

/// What an image is made from: `buildInfo` of a request.
struct ImageSource: Sendable {
    let definition: BuildDefinition
    /// The image, if it is taken as it is.
    let plainImage: String?
    /// All images that it begins with.
    let images: [String]

    /// Nil where the field is absent, or wrong: then there is a complaint.
    init?(_ fields: inout FieldReader) {
        guard let value = fields.value("buildInfo"), !value.isNothing else { return nil }
        guard case .object(let object) = value else {
            fields.complain("buildInfo is \(value.kind), but must be an object")
            return nil
        }
        var inner = FieldReader(object)
        let text = inner.string("dockerfileContent", limit: Dockerfile.byteLimit) ?? ""
        let hashes = inner.list("contextHashes", limit: BuildDefinition.contextsLimit) ?? []
        for hash in hashes where hash.wholeMatch(of: /[0-9a-f]{32}/) == nil {
            inner.complain("contextHashes has '\(hash.shortened)', which is no MD5 in lower-case hexadecimal digits")
        }
        let dockerfile = Dockerfile(text)
        if inner.problems.isEmpty { dockerfile.problems.forEach { inner.complain("dockerfileContent \($0)") } }
        do {
            try inner.finish()
        } catch {
            let problem = (error as? APIError)?.message ?? "is wrong"
            fields.complain("buildInfo: \(problem)")
            return nil
        }
        definition = BuildDefinition(dockerfile: text, contextHashes: hashes)
        plainImage = hashes.isEmpty ? dockerfile.plainImage : nil
        images = dockerfile.images
    }

    /// Throws 400 for a base image of a registry that users must not make an engine ask.
    func admit(by gate: RegistryGate) async throws {
        for image in images {
            guard let name = try? ImageName(parsing: image) else { continue }
            try await gate.admit(name, field: "buildInfo: the image '\(image.shortened)'")
        }
    }
}
