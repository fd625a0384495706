import CLibPQ
import Glibc

/// A descriptor that wakes a thread from `poll`. Whoever may still raise it holds a reference, so that its number cannot
/// have been given to another file by then.
final class WakeSignal: Sendable {
    let descriptor: Int32

    init() throws {
        descriptor = eventfd(0, O_CLOEXEC | O_NONBLOCK)  // EFD_CLOEXEC and EFD_NONBLOCK are these
        guard descriptor >= 0 else {
            throw PostgresError(
                .connectionFailed,
                "no descriptor for a connection: \(String(cString: strerror(errno)))"
            )
        }
    }

    deinit { close(descriptor) }

    func raise() {
        var one: UInt64 = 1
        _ = write(descriptor, &one, MemoryLayout<UInt64>.size)
    }

    func lower() {
        var count: UInt64 = 0
        _ = read(descriptor, &count, MemoryLayout<UInt64>.size)
    }
}
