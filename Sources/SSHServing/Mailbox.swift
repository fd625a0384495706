import CLinux
import Glibc
import NIOCore
import Synchronization

/// Where the thread of a connection gets news from. It polls `wake`.
package final class Mailbox<News: Sendable>: Sendable {
    private let news = Mutex<[News]?>([])
    private let bell: CInt
    /// Readable while there is news.
    package let wake: CInt

    package init() throws {
        let pipe = try openPipe()
        setNonBlocking(pipe.read)
        setNonBlocking(pipe.write)
        (wake, bell) = (pipe.read, pipe.write)
    }

    deinit {
        Glibc.close(wake)
        Glibc.close(bell)
    }

    /// False if the connection has ended and the news reaches nobody.
    @discardableResult
    package func post(_ one: News) -> Bool {
        news.withLock { news in
            guard news != nil else { return false }
            news?.append(one)
            var byte: UInt8 = 0
            _ = write(bell, &byte, 1)  // a full pipe wakes as well
            return true
        }
    }

    /// All news since the last time.
    package func take() -> [News] {
        var bytes = [UInt8](repeating: 0, count: 64)
        while read(wake, &bytes, bytes.count) == bytes.count {}
        return news.withLock { news in
            defer { if news != nil { news = [] } }
            return news ?? []
        }
    }

    /// Takes no more news, and answers what nobody looked at.
    @discardableResult
    package func close() -> [News] {
        news.withLock { news in
            defer { news = nil }
            return news ?? []
        }
    }
}

/// A pipe both of whose ends block. The caller closes them.
package func openPipe() throws -> (read: CInt, write: CInt) {
    var (read, write): (CInt, CInt) = (-1, -1)
    let result = martlet_pipe(&read, &write)
    guard result == 0 else { throw IOError(errnoCode: -result, reason: "pipe") }
    return (read, write)
}
