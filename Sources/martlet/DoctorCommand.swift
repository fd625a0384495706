import ArgumentParser
import Docker
import Firewall
import Logging
import Postgres
import SSHServing

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

struct DoctorCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Check what Martlet needs of this machine, and say what to do about what is missing."
    )

    @OptionGroup var database: DatabaseOptions
    @Option(help: "Docker Engine's socket. [MARTLET_DOCKER_HOST]")
    var dockerHost = Environment["MARTLET_DOCKER_HOST"] ?? Environment["DOCKER_HOST"] ?? "unix:///var/run/docker.sock"
    @Option(help: "Where users reach the SSH gateway; looked at when given. [MARTLET_SSH_GATEWAY_PUBLIC]")
    var sshGateway: ListenAddress?
    @Option(help: "Port to be free, or already Martlet's; may be repeated.")
    var port: [Int] = []

    func run() async throws {
        var failed = false
        for check in checks {
            let finding = await check.examine()
            print("\(finding.mark)  \(check.name): \(finding.text)")
            failed = failed || finding.isFailure
        }
        if failed { throw ExitCode.failure }
    }

    private var checks: [Check] {
        var checks = [
            Check(name: "postgres", examine: examinePostgres),
            Check(name: "docker", examine: examineDocker),
            Check(name: "disk quotas", examine: examineQuotas),
            Check(name: "iptables", examine: examineFirewall),
            Check(name: "forwarding", examine: examineForwarding),
            Check(name: "dns", examine: examineResolvers),
        ]
        let known = Environment["MARTLET_SSH_GATEWAY_PUBLIC"].flatMap { ListenAddress(argument: $0) }
        if let gateway = sshGateway ?? known {
            checks.append(Check(name: "ssh gateway", examine: { examineGateway(gateway) }))
        }
        return checks + port.map { port in Check(name: "port \(port)", examine: { examinePort(port) }) }
    }

    private func examinePostgres() async -> Finding {
        do {
            let url = try database.url
            let connection = try await PostgresConnection.connect(PostgresConfiguration(url: url), logger: .silent)
            let row = try await connection.query(
                "SELECT current_setting('server_version_num')::int AS version, current_user::text AS login, to_regclass('sandbox') IS NOT NULL AS migrated"
            ).first
            await connection.close()
            guard let row else { return .failure("it answered no row to a SELECT") }
            let version: Int = try row.decode("version")
            let login: String = try row.decode("login")
            guard version >= 150_000 else {
                return .failure("version \(version / 10_000) is too old; Martlet needs 15 or later")
            }
            guard try row.decode("migrated", as: Bool.self) else {
                return .failure("reachable as \(login), but not migrated: run `martlet migrate`")
            }
            return .good("version \(version / 10_000), logged in as \(login), migrated")
        } catch {
            return .failure("\(error). Check --database-url, and that Postgres runs")
        }
    }

    private func withEngine(_ examine: (DockerEngine) async throws -> Finding) async -> Finding {
        do {
            let engine = DockerEngine(host: try DockerHost(parsing: dockerHost), logger: .silent)
            do {
                let finding = try await examine(engine)
                try await engine.shutdown()
                return finding
            } catch {
                try await engine.shutdown()
                throw error
            }
        } catch {
            return .failure("\(error). Check --docker-host (\(dockerHost)), and that dockerd runs")
        }
    }

    private func examineDocker() async -> Finding {
        await withEngine { engine in
            let engineInformation = try await engine.information()
            return .good(
                "\(engineInformation.serverVersion), \(engineInformation.architecture), cgroup v\(engineInformation.cgroupVersion), runtimes \(engineInformation.runtimes.sorted().joined(separator: " "))"
                    + (engineInformation.liveRestoreEnabled
                        ? "" : "; live-restore is off, so sandboxes restart with dockerd")
            )
        }
    }

    private func examineQuotas() async -> Finding {
        await withEngine { engine in
            let information = try await engine.information()
            switch information.storageDriver {
            case "btrfs", "zfs": return .good("enforced by \(information.storageDriver)")
            case "overlay2" where information.storageStatus["Backing Filesystem"] == "xfs":
                return .good("overlay2 on xfs: enforced if it is mounted with pquota")
            case let other:
                return .warning(
                    "storage driver \(other) cannot limit a sandbox's disk; sandboxes will report so. Use btrfs, or overlay2 on xfs with pquota"
                )
            }
        }
    }

    private func examineFirewall() async -> Finding {
        do {
            _ = try await KernelFirewall(logger: .silent).observe(tag: try ChainTag("doctor"))
            return .good("readable")
        } catch {
            return .failure("\(error). Install iptables and run as root")
        }
    }

    private func examineForwarding() async -> Finding {
        let text = readText("/proc/sys/net/ipv4/ip_forward")
        return text?.hasPrefix("1") == true
            ? .good("on") : .warning("net.ipv4.ip_forward is off; dockerd turns it on when it starts")
    }

    private func examineResolvers() async -> Finding {
        let lines = (readText("/etc/resolv.conf") ?? "").split(separator: "\n")
        let servers = lines.filter { $0.hasPrefix("nameserver") }.compactMap {
            $0.split(separator: " ").last.map(String.init)
        }
        let usable = servers.filter { !$0.hasPrefix("127.") && $0 != "::1" }
        return usable.isEmpty
            ? .warning(
                "this host resolves through \(servers.joined(separator: ", ")) only, which sandboxes cannot reach; set --resolver"
            )
            : .good(usable.joined(separator: ", "))
    }

    /// Whatever speaks SSH says so before anybody asks.
    private func examineGateway(_ address: ListenAddress) -> Finding {
        let advice = "`martlet ssh-gateway` serves there; its log says what it waits for"
        guard let port = UInt16(exactly: address.port),
            let socket = PeerAddress.resolve(address.host, port: port).first?.connectingSocket()
        else { return .failure("\(address) cannot be reached; \(advice)") }
        defer { close(socket) }
        var state = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
        var banner = [UInt8](repeating: 0, count: 256)
        guard poll(&state, 1, Self.bannerMilliseconds) > 0, case let count = read(socket, &banner, banner.count),
            count > 0,
            banner.starts(with: "SSH-2.0-".utf8)
        else { return .failure("nothing at \(address) says that it speaks SSH; \(advice)") }
        return .good("answers at \(address)")
    }

    private static let bannerMilliseconds: Int32 = 5_000

    private func examinePort(_ port: Int) -> Finding {
        guard (1...65535).contains(port) else { return .failure("not a port; 1 to 65535 are") }
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var yes: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        return result == 0
            ? .good("free")
            : .warning(
                "taken on 127.0.0.1 (\(String(cString: strerror(errno)))); `ss -ltnp sport = :\(port)` shows by whom"
            )
    }

    private func readText(_ path: String) -> String? {
        guard let file = fopen(path, "r") else { return nil }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 65536)
        let count = fread(&bytes, 1, bytes.count, file)
        return String(decoding: bytes[..<count], as: UTF8.self)
    }
}

private struct Check {
    let name: String
    let examine: () async -> Finding
}

/// What a check found; only a failure makes `doctor` fail.
private enum Finding {
    case good(String)
    case warning(String)
    case failure(String)

    var isFailure: Bool {
        switch self {
        case .good, .warning: false
        case .failure: true
        }
    }

    var mark: String {
        switch self {
        case .good: "ok     "
        case .warning: "warning"
        case .failure: "FAILED "
        }
    }

    var text: String {
        switch self {
        case .good(let text), .warning(let text), .failure(let text): text
        }
    }
}

extension Logger {
    /// A logger for commands whose errors are printed, not logged.
    static let silent = Logger(label: "silent") { _ in SwiftLogNoOpLogHandler() }
}
