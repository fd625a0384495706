package import FoundationEssentials

/// An identifier of one kind of row: a UUID that cannot be mistaken for another kind's.
///
/// Its text is the lower-case UUID, which is also a valid DNS label.
package struct Identifier<Kind>: Hashable, Sendable, CustomStringConvertible, Codable {
    package let uuid: UUID

    package init(_ uuid: UUID) {
        self.uuid = uuid
    }

    /// A new random identifier (122 random bits).
    package static func random() -> Self { Self(UUID()) }

    /// Parses the canonical form: 36 characters, lower case.
    ///
    /// Nothing else is taken, so two texts never name one row.
    package init?(_ text: some StringProtocol) {
        guard text.utf8.count == 36, let uuid = UUID(uuidString: String(text)) else { return nil }
        self.uuid = uuid
        guard description == text else { return nil }
    }

    package var description: String { uuid.uuidString.lowercased() }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let value = Self(text) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "'\(text)' is not a canonical UUID")
        }
        self = value
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}

package enum SandboxKind {}
package enum RunnerKind {}
package enum OrganizationKind {}
package enum UserKind {}
package enum SnapshotKind {}
package enum APIKeyKind {}
package enum VolumeKind {}
package enum RegistryKind {}
package enum SSHAccessKind {}

package typealias SandboxID = Identifier<SandboxKind>
package typealias RunnerID = Identifier<RunnerKind>
package typealias OrganizationID = Identifier<OrganizationKind>
package typealias UserID = Identifier<UserKind>
package typealias SnapshotID = Identifier<SnapshotKind>
package typealias APIKeyID = Identifier<APIKeyKind>
package typealias VolumeID = Identifier<VolumeKind>
package typealias RegistryID = Identifier<RegistryKind>
package typealias SSHAccessID = Identifier<SSHAccessKind>
