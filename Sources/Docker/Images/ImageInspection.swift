package import FoundationEssentials

/// `GET /images/{name}/json`.
package struct ImageInspection: Sendable, Hashable, Decodable {
    package let id: String
    package let repositoryTags: [String]
    package let repositoryDigests: [String]
    package let entrypoint: [String]
    package let command: [String]
    package let env: [String]
    package let workingDirectory: String
    package let user: String
    package let labels: [String: String]
    /// In Go's words: `amd64`, `arm64`.
    package let architecture: String
    package let operatingSystem: String
    package let sizeBytes: Int64
    /// For example `8080/tcp`.
    package let exposedPorts: [String]
    /// Instructions that a builder runs by itself where this image is the base.
    package let buildTriggers: [String]
    /// Paths of a container that the engine keeps in volumes of their own (`VOLUME`), where nothing else is mounted on them.
    package let volumes: [String]

    enum CodingKeys: String, CodingKey {
        case id = "Id"
        case repositoryTags = "RepoTags"
        case repositoryDigests = "RepoDigests"
        case configuration = "Config"
        case architecture = "Architecture"
        case operatingSystem = "Os"
        case sizeBytes = "Size"
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        id = try container.decode(String.self, forKey: .id)
        repositoryTags = try container.decodeIfPresent([String].self, forKey: .repositoryTags) ?? []
        repositoryDigests = try container.decodeIfPresent([String].self, forKey: .repositoryDigests) ?? []
        let configuration = try container.decodeIfPresent(ProcessConfiguration.self, forKey: .configuration)
        entrypoint = configuration?.entrypoint ?? []
        command = configuration?.command ?? []
        env = configuration?.env ?? []
        workingDirectory = configuration?.workingDirectory ?? ""
        user = configuration?.user ?? ""
        labels = configuration?.labels ?? [:]
        exposedPorts = configuration?.exposedPorts?.keys.sorted() ?? []
        buildTriggers = configuration?.buildTriggers ?? []
        volumes = configuration?.volumes?.keys.sorted() ?? []
        architecture = try container.decodeIfPresent(String.self, forKey: .architecture) ?? ""
        operatingSystem = try container.decodeIfPresent(String.self, forKey: .operatingSystem) ?? ""
        sizeBytes = try container.decode(Int64.self, forKey: .sizeBytes)
    }
}

/// One line of `GET /images/json`.
package struct ImageSummary: Sendable, Hashable, Decodable {
    package let id: String
    package let repositoryTags: [String]
    package let repositoryDigests: [String]
    package let labels: [String: String]
    package let sizeBytes: Int64
    package let createdAt: Date
    /// What it was made upon by a build or a commit of this engine; nil for what came from elsewhere.
    package let parentID: String?

    enum CodingKeys: String, CodingKey {
        case id = "Id"
        case repositoryTags = "RepoTags"
        case repositoryDigests = "RepoDigests"
        case labels = "Labels"
        case sizeBytes = "Size"
        case createdAt = "Created"
        case parentID = "ParentId"
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        id = try container.decode(String.self, forKey: .id)
        repositoryTags = try container.decodeIfPresent([String].self, forKey: .repositoryTags) ?? []
        repositoryDigests = try container.decodeIfPresent([String].self, forKey: .repositoryDigests) ?? []
        labels = try container.decodeIfPresent([String: String].self, forKey: .labels) ?? [:]
        sizeBytes = try container.decode(Int64.self, forKey: .sizeBytes)
        createdAt = Date(timeIntervalSince1970: try container.decode(Double.self, forKey: .createdAt))
        parentID = try container.decodeIfPresent(String.self, forKey: .parentID).flatMap { $0.isEmpty ? nil : $0 }
    }
}

/// `GET /distribution/{name}/json`, the part that names the manifest.
struct DistributionInspection: Decodable {
    struct Descriptor: Decodable { let digest: String }

    let descriptor: Descriptor

    enum CodingKeys: String, CodingKey { case descriptor = "Descriptor" }
}
