import CLinux
import Glibc
import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle
import UnixSignals

/// The static executable: configuration, signals, exit.
package enum DaemonProgram {
    /// Longest that stopping may take: the programs' grace, killing, and answering their calls. Less than Docker's 10 s.
    private static let stopLimit = Duration.seconds(8)

    /// Makes this process the supervisor of the daemon, in which alone this returns: see `martlet_supervise`.
    package static func supervise() { martlet_supervise() }

    /// Runs the daemon until SIGTERM or SIGINT, then exits: 0 when asked to, 1 when it failed, 2 for a bad configuration.
    ///
    /// The main thread only waits. At an `await` there the runtime would end it by `pthread_exit`, for which a static program
    /// sorts the table of all its functions' frames: 35 ms of CPU at each sandbox's start, more than all the rest of it.
    package static func run() -> Never {
        // It ends with the process.
        Task.detached { await serve() }
        // Signals are for the threads that wait for them.
        var all = sigset_t()
        sigfillset(&all)
        pthread_sigmask(SIG_BLOCK, &all, nil)
        while true { pause() }
    }

    private static func serve() async -> Never {
        martlet_limit_memory()
        martlet_raise_descriptor_limit(UInt64(ServerLimit.descriptors))
        LoggingSystem.bootstrap { StandardErrorLog(label: $0) }
        let logger = Logger(label: "martlet-daemon")
        var configuration: DaemonConfiguration
        do {
            configuration = try DaemonConfiguration.read(
                arguments: CommandLine.arguments,
                environment: EnvironmentStore.ofThisProcess()
            )
        } catch {
            logger.critical("cannot start", metadata: ["error": "\(error)"])
            exit(CInt(MARTLET_DAEMON_MISCONFIGURED))
        }
        if let token = Legacy.find(.token) { configuration.token = String(decoding: token, as: UTF8.self) }
        if Legacy.restarts > 0 {
            logger.warning("the daemon runs again", metadata: ["daemon.restarts": "\(Legacy.restarts)"])
        }
        hideOwnEnvironment()
        _ = chdir(configuration.workingDirectory.path)
        NIOSingletons.blockingPoolThreadCountSuggestion = 4
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let daemon = ToolboxDaemon(configuration: configuration, group: group, logger: logger)
        var services = ServiceGroupConfiguration(
            services: [daemon],
            gracefulShutdownSignals: [.sigterm, .sigint],
            logger: logger
        )
        services.maximumGracefulShutdownDuration = stopLimit
        do {
            try await ServiceGroup(configuration: services).run()
        } catch {
            logger.critical("the daemon failed", metadata: ["error": "\(error)"])
            exit(1)
        }
        exit(0)
    }

    /// /proc/<pid>/environ shows the memory that a process got its environment in, so the token is wiped there.
    private static func hideOwnEnvironment() {
        var kept = environ
        var entry = environ
        while let text = entry.pointee {
            if strncmp(text, "MARTLET_", 8) == 0 {
                memset(text, 0, strlen(text))
            } else {
                kept.pointee = text
                kept += 1
            }
            entry += 1
        }
        kept.pointee = nil
    }
}
