import Glibc
import SSHServing

extension PeerAddress {
    /// A socket that is connecting, or is connected; nil if that failed at once.
    func connect() -> OpenFile? { connectingSocket().map { OpenFile(owning: $0) } }

    /// A socket that listens; nil if the address is in use or not allowed.
    func listen(backlog: CInt = 128) -> OpenFile? { listeningSocket(backlog: backlog).map { OpenFile(owning: $0) } }
}

/// The next connection of a listening socket, which never blocks; nil if there is none.
func acceptConnection(_ listener: CInt) -> OpenFile? {
    let descriptor = accept(listener, nil, nil)
    guard descriptor >= 0 else { return nil }
    setNonBlocking(descriptor)
    return OpenFile(owning: descriptor)
}

/// A pipe both of whose ends block, as programs expect theirs to.
func pipeForProgram() throws -> (read: OpenFile, write: OpenFile) {
    let pipe = try openPipe()
    return (OpenFile(owning: pipe.read), OpenFile(owning: pipe.write))
}
