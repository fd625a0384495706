/// One rule of ours as a value. All matches must hold for the verdict.
struct Rule: Hashable, Sendable {
    enum Transport: String, Hashable, Sendable {
        case tcp, udp
    }

    struct Port: Hashable, Sendable {
        var transport: Transport
        var number: UInt16
    }

    enum Verdict: Hashable, Sendable {
        case drop
        /// Back to the caller; from a chain entered by goto, to its caller's caller.
        case pass
        case jump(String)
        case goTo(String)
    }

    var source: IPv4Range?
    /// Of the frame that brought the packet.
    var hardwareSource: HardwareAddress?
    var destination: IPv4Range?
    var inInterface: String?
    var outInterface: String?
    /// Destination port.
    var port: Port?
    /// Whether the destination is an address of the host.
    var isToHost = false
    /// Packets of, or caused by, a connection that exists.
    var isReply = false
    var comment: String?
    var verdict: Verdict

    init(
        source: IPv4Range? = nil,
        hardwareSource: HardwareAddress? = nil,
        destination: IPv4Range? = nil,
        inInterface: String? = nil,
        outInterface: String? = nil,
        port: Port? = nil,
        isToHost: Bool = false,
        isReply: Bool = false,
        comment: String? = nil,
        _ verdict: Verdict
    ) {
        // To iptables a range of all addresses is no match at all.
        self.source = source?.prefixLength == 0 ? nil : source
        self.hardwareSource = hardwareSource
        self.destination = destination?.prefixLength == 0 ? nil : destination
        self.inInterface = inInterface
        self.outInterface = outInterface
        self.port = port
        self.isToHost = isToHost
        self.isReply = isReply
        self.comment = comment
        self.verdict = verdict
    }

    /// As iptables-save prints it, without `-A chain`.
    var rendered: String {
        var words: [String] = []
        if let source { words += ["-s", "\(source)"] }
        if let destination { words += ["-d", "\(destination)"] }
        if let inInterface { words += ["-i", inInterface] }
        if let outInterface { words += ["-o", outInterface] }
        if let port {
            let transport = port.transport.rawValue
            words += ["-p", transport, "-m", transport, "--dport", "\(port.number)"]
        }
        if let hardwareSource { words += ["-m", "mac", "--mac-source", "\(hardwareSource)"] }
        if isToHost { words += ["-m", "addrtype", "--dst-type", "LOCAL"] }
        if isReply { words += ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"] }
        if let comment { words += ["-m", "comment", "--comment", "\"\(comment)\""] }
        return (words + verdict.words).joined(separator: " ")
    }
}

extension Rule.Verdict {
    fileprivate var words: [String] {
        switch self {
        case .drop: ["-j", "DROP"]
        case .pass: ["-j", "RETURN"]
        case .jump(let chain): ["-j", chain]
        case .goTo(let chain): ["-g", chain]
        }
    }

    /// The user-defined chain it leads to.
    var target: String? {
        switch self {
        case .drop, .pass: nil
        case .jump(let chain), .goTo(let chain): chain
        }
    }
}
