import Domain
import Postgres
import Store

/// Decides which registries the hosts' engines may be made to ask.
struct RegistryGate: Sendable {
    let database: any PostgresClient

    /// Throws 400 for an image at an address of this machine or of a private network, unless an operator has opened that host
    /// for everybody: users must not make an engine knock at doors that only it can see.
    func admit(_ image: ImageName, field: String) async throws {
        guard let host = RegistryHost(image.host) else { return }
        try await admit(host, field: field)
    }

    func admit(_ host: RegistryHost, field: String) async throws {
        guard host.isPrivate else { return }
        guard try await database.registries.isBlessed(host) else {
            throw APIError.badRequest(
                "\(field) is at '\(host.text.shortened)', which is this machine or a private network. An operator can open it for "
                    + "everybody: INSERT INTO docker_registry (name, host) VALUES ('ours', '\(host.text.shortened)')"
            )
        }
    }
}
