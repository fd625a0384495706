import CLinux
import Glibc
import NIOCore

/// Stack of a connection's thread.
package let connectionStackBytes = 512 << 10

/// Runs a function on a thread of its own, which ends with it. For work that blocks, and may do so for long.
/// - Throws: `IOError` if the kernel refuses another thread.
package func startThread(
    _ name: String,
    stackBytes: Int = connectionStackBytes,
    _ body: @escaping @Sendable () -> Void
) throws {
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    pthread_attr_setstacksize(&attributes, stackBytes)
    pthread_attr_setdetachstate(&attributes, CInt(PTHREAD_CREATE_DETACHED))
    let work = Unmanaged.passRetained(ThreadWork(name, body))
    var thread = pthread_t()
    let failure = pthread_create(&thread, &attributes, runThread, work.toOpaque())
    guard failure == 0 else {
        work.release()
        throw IOError(errnoCode: failure, reason: "pthread_create")
    }
}

private final class ThreadWork: Sendable {
    let name: String
    let body: @Sendable () -> Void

    init(_ name: String, _ body: @escaping @Sendable () -> Void) {
        (self.name, self.body) = (name, body)
    }
}

private func runThread(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context else { return nil }
    let work = Unmanaged<ThreadWork>.fromOpaque(context).takeRetainedValue()
    martlet_name_thread(work.name)
    work.body()
    return nil
}
