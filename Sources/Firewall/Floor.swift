/// The destinations no sandbox reaches, whatever anybody configures.
enum Floor {
    /// Dropped before any allow rule, and closed to resolvers too.
    ///
    /// Link-local holds the metadata services of most clouds; the two single addresses are Alibaba's and Azure's. The last
    /// three are not unicast destinations at all.
    static let untouchable: [IPv4Range] = [
        IPv4Range(IPv4Address(169, 254, 0, 0), prefixLength: 16),
        IPv4Range(IPv4Address(100, 100, 100, 200)),
        IPv4Range(IPv4Address(168, 63, 129, 16)),
        IPv4Range(IPv4Address(0, 0, 0, 0), prefixLength: 8),
        IPv4Range(IPv4Address(224, 0, 0, 0), prefixLength: 4),
        IPv4Range(IPv4Address(240, 0, 0, 0), prefixLength: 4),
    ]

    /// Not part of the public Internet: dropped unless the operator allows them (RFC 6890).
    static let privateRanges: [IPv4Range] = [
        IPv4Range(IPv4Address(10, 0, 0, 0), prefixLength: 8),
        IPv4Range(IPv4Address(100, 64, 0, 0), prefixLength: 10),
        IPv4Range(IPv4Address(127, 0, 0, 0), prefixLength: 8),
        IPv4Range(IPv4Address(172, 16, 0, 0), prefixLength: 12),
        IPv4Range(IPv4Address(192, 0, 0, 0), prefixLength: 24),
        IPv4Range(IPv4Address(192, 168, 0, 0), prefixLength: 16),
        IPv4Range(IPv4Address(198, 18, 0, 0), prefixLength: 15),
    ]
}
