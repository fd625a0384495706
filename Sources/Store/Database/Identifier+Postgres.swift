package import Domain
import FoundationEssentials
package import Postgres

extension Identifier: PostgresCodable, PostgresArrayElement {
    package static var postgresType: PostgresType { .uuid }
    package static var postgresArrayType: PostgresType { .uuidArray }

    package func encodedForPostgres() throws -> PostgresParameter { uuid.encodedForPostgres() }

    package init(postgres value: PostgresValue) throws { self.init(try UUID(postgres: value)) }
}

extension DesiredState: PostgresCodable, PostgresArrayElement {}
extension ObservedState: PostgresCodable, PostgresArrayElement {}
extension PublicState: PostgresCodable, PostgresArrayElement {}
extension VolumeMountState: PostgresCodable, PostgresArrayElement {}
extension VolumeState: PostgresCodable, PostgresArrayElement {}
extension VolumeWish: PostgresCodable, PostgresArrayElement {}
extension SnapshotState: PostgresCodable, PostgresArrayElement {}
extension CapturePurpose: PostgresCodable, PostgresArrayElement {}
extension BackupState: PostgresCodable, PostgresArrayElement {}
extension SnapshotJobKind: PostgresCodable, PostgresArrayElement {}
extension SnapshotFailureCause: PostgresCodable {}
