import CLinux
import Glibc
import NIOCore
import Synchronization

/// What a connection's thread is told by others.
enum ConnectionNews: Sendable {
    /// A program of the session with this number runs.
    case launched(Int, ProcessTree)
    /// It cannot: why.
    case notLaunched(Int, String)
    /// It ended.
    case exited(Int, ProgramExit)
    /// The addresses of a name that was looked up, none if it has none.
    case resolved(Int, [PeerAddress])
    /// The connection shall end.
    case end
}

/// Where the thread of a connection gets news from. It polls `wake`.
final class ConnectionMailbox: Sendable {
    private let news = Mutex<[ConnectionNews]?>([])
    private let bell: OpenFile
    /// Readable while there is news.
    let wake: OpenFile

    init() throws {
        (wake, bell) = try nonBlockingPipe()
    }

    /// False if the connection has ended and the news reaches nobody.
    @discardableResult
    func post(_ one: ConnectionNews) -> Bool {
        news.withLock { news in
            guard news != nil else { return false }
            news?.append(one)
            var byte: UInt8 = 0
            _ = write(bell.descriptor, &byte, 1)  // a full pipe wakes as well
            return true
        }
    }

    /// All news since the last time.
    func take() -> [ConnectionNews] {
        var bytes = [UInt8](repeating: 0, count: 64)
        while read(wake.descriptor, &bytes, bytes.count) == bytes.count {}
        return news.withLock { news in
            defer { if news != nil { news = [] } }
            return news ?? []
        }
    }

    /// Takes no more news, and answers what nobody looked at.
    func close() -> [ConnectionNews] {
        news.withLock { news in
            defer { news = nil }
            return news ?? []
        }
    }
}

/// A pipe neither of whose ends ever blocks.
func nonBlockingPipe() throws -> (read: OpenFile, write: OpenFile) {
    let pipe = try pipeForProgram()
    setNonBlocking(pipe.read.descriptor)
    setNonBlocking(pipe.write.descriptor)
    return pipe
}

/// A pipe both of whose ends block, as programs expect theirs to.
func pipeForProgram() throws -> (read: OpenFile, write: OpenFile) {
    var (read, write): (CInt, CInt) = (-1, -1)
    let result = martlet_pipe(&read, &write)
    guard result == 0 else { throw IOError(errnoCode: -result, reason: "pipe") }
    return (OpenFile(owning: read), OpenFile(owning: write))
}

/// Makes reads, writes, accepts and connects on a descriptor answer EAGAIN or EINPROGRESS rather than wait.
func setNonBlocking(_ descriptor: CInt) {
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
}
