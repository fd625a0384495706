import Glibc

/// What a new thread is to do. Built by one thread and used only by the other.
private final class ThreadMain {
    let run: () -> Void
    init(run: @escaping () -> Void) { self.run = run }
}

/// Enough for libpq with TLS and name resolution.
private let threadStackBytes = 1 << 20

/// Starts a detached thread that runs `run` with `context`, which the caller must not touch afterwards. Answers false if
/// the system has no thread for us.
func startThread<Context>(_ context: Context, run: @escaping (Context) -> Void) -> Bool {
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
    pthread_attr_setstacksize(&attributes, threadStackBytes)
    let main = Unmanaged.passRetained(ThreadMain { run(context) })
    var thread = pthread_t()
    let status = pthread_create(
        &thread,
        &attributes,
        { raw in
            Unmanaged<ThreadMain>.fromOpaque(raw!).takeRetainedValue().run()
            return nil
        },
        main.toOpaque()
    )
    if status != 0 { main.release() }
    return status == 0
}
