/// A version of the Engine API, as in `/v1.41/`.
package struct APIVersion: Sendable, Hashable, Comparable, CustomStringConvertible {
    package let major: Int
    package let minor: Int

    package init(major: Int, minor: Int) {
        self.major = major
        self.minor = minor
    }

    /// Reads `1.41`; nil for anything else.
    package init?(parsing text: String) {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 2, let major = Int(parts[0]), let minor = Int(parts[1]) else { return nil }
        self.init(major: major, minor: minor)
    }

    package static func < (left: APIVersion, right: APIVersion) -> Bool {
        (left.major, left.minor) < (right.major, right.minor)
    }

    package var description: String { "\(major).\(minor)" }

    var prefix: String { "/v\(self)" }

    /// The oldest version that both we and the engine speak.
    static func chosen(_ offered: EngineVersion) throws -> APIVersion {
        let ours = DockerEngine.minimumAPIVersion
        guard let newest = APIVersion(parsing: offered.apiVersion), newest >= ours else {
            throw DockerError(
                operation: "agree on an API version",
                kind: .server,
                message:
                    "the engine \(offered.version) speaks API \(offered.apiVersion); \(ours) (Docker 20.10) or later is needed"
            )
        }
        return max(ours, APIVersion(parsing: offered.minimumAPIVersion) ?? ours)
    }
}

/// `GET /version`.
package struct EngineVersion: Sendable, Hashable, Decodable {
    package let version: String
    /// The newest API the engine speaks.
    package let apiVersion: String
    /// The oldest API the engine speaks.
    package let minimumAPIVersion: String
    package let kernelVersion: String
    /// In Go's words: `amd64`, `arm64`.
    package let architecture: String

    enum CodingKeys: String, CodingKey {
        case version = "Version"
        case apiVersion = "ApiVersion"
        case minimumAPIVersion = "MinAPIVersion"
        case kernelVersion = "KernelVersion"
        case architecture = "Arch"
    }
}
