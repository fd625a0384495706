/// Where a Docker Engine listens: a unix socket of this machine.
///
/// TCP is refused on purpose: whoever speaks to the engine owns the host, and a unix socket is guarded by file permissions.
package struct DockerHost: Sendable, Hashable, CustomStringConvertible {
    /// Absolute path of the engine's socket.
    package let socketPath: String

    /// The engine listening on the socket at `socketPath`.
    package init(socketPath: String) {
        self.socketPath = socketPath
    }

    /// Reads the `DOCKER_HOST` notation, `unix:///var/run/docker.sock`.
    ///
    /// Throws `DockerError` (`.badRequest`) for any other scheme and for a relative path.
    package init(parsing text: String) throws {
        let scheme = "unix://"
        guard text.hasPrefix(scheme), text.dropFirst(scheme.count).hasPrefix("/") else {
            throw DockerError.refused(
                operation: "read the Docker host",
                "'\(text)' is not a unix socket: write it as unix:///absolute/path/docker.sock"
            )
        }
        socketPath = String(text.dropFirst(scheme.count))
    }

    package var description: String { "unix://\(socketPath)" }
}
