import CLinux
import Domain
import NIOCore
import NIOPosix
import Synchronization

#if canImport(Glibc)
    import Glibc
#endif

/// Runners of this proxy's own host, which give it their connections into sandboxes instead of copying bytes.
///
/// They are asked as by CONNECT, with the same token, over a Unix socket that only root or this process's own user can have
/// made. Asking blocks, so a few threads do it; while all of them wait, tunnels are opened as to any other runner.
final class LocalIngress: Sendable {
    /// What the runner made of the request.
    enum Answer: Sendable {
        case connected(HandedOverSocket)
        case refused(status: Int, body: ByteBuffer)
        /// Nobody answers there: the runner has to be reached as one elsewhere.
        case absent
    }

    private static let answerBytesLimit = 4096

    private let folder: String
    private let threads: NIOThreadPool
    private let free: Mutex<Int>
    private let stepMilliseconds: CInt

    init(folder: String, limits: ProxyLimits) {
        self.folder = folder
        free = Mutex(limits.handoversAtOnceLimit)
        stepMilliseconds = CInt(clamping: limits.tunnelDeadline.nanoseconds / 1_000_000)
        threads = NIOThreadPool(numberOfThreads: limits.handoversAtOnceLimit)
        threads.start()
    }

    /// Ends the threads once they have their answers.
    func close() async { try? await threads.shutdownGracefully() }

    /// Asks the runner with this certificate. Nil where it is not on this host, or nobody is free to ask it.
    func ask(_ fingerprint: String, _ request: String, on loop: any EventLoop) -> EventLoopFuture<Answer>? {
        let path = HandoverSocket.path(in: folder, fingerprint: fingerprint)
        guard access(path, W_OK) == 0, takeThread() else { return nil }
        let milliseconds = stepMilliseconds
        return threads.runIfActive(eventLoop: loop) { Self.ask(path, request, milliseconds) }
            .always { _ in self.giveThread() }
    }

    private func takeThread() -> Bool {
        free.withLock { free in
            guard free > 0 else { return false }
            free -= 1
            return true
        }
    }

    private func giveThread() { free.withLock { $0 += 1 } }

    private static func ask(_ path: String, _ request: String, _ milliseconds: CInt) -> Answer {
        var descriptor: CInt = -1
        var text = [UInt8](repeating: 0, count: answerBytesLimit)
        let lease = martlet_take_over(path, request, milliseconds, &text, answerBytesLimit, &descriptor)
        guard lease >= 0 else { return .absent }
        let answer = String(decoding: text.prefix { $0 != 0 }, as: UTF8.self)
        if descriptor >= 0 { return .connected(HandedOverSocket(descriptor, lease: lease)) }
        Glibc.close(lease)
        let parts = answer.split(separator: "\r\n\r\n", maxSplits: 1)
        guard let status = parts.first?.split(separator: " ").dropFirst().first.flatMap({ Int($0) }) else {
            return .absent
        }
        return .refused(status: status, body: ByteBuffer(substring: parts.count > 1 ? parts[1] : ""))
    }
}

/// A connection into a sandbox that a runner gave away. The runner counts it while the lease is open.
final class HandedOverSocket: Sendable {
    private let descriptor: Mutex<CInt?>
    private let lease: CInt

    init(_ descriptor: CInt, lease: CInt) {
        self.descriptor = Mutex(descriptor)
        self.lease = lease
    }

    /// What nobody took is closed here.
    deinit {
        if let descriptor = take() { Glibc.close(descriptor) }
        Glibc.close(lease)
    }

    /// The connection, once; whoever takes it closes it.
    func take() -> CInt? {
        descriptor.withLock { descriptor in
            defer { descriptor = nil }
            return descriptor
        }
    }
}
