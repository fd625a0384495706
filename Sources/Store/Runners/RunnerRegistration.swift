package import Domain
import Postgres

/// Who a login is: its row of `runner`.
package struct RunnerIdentity: Sendable, Hashable {
    package let id: RunnerID
    package let name: String
    package let regionID: String

    init(_ row: Row) throws {
        id = try row["id"]
        name = try row["name"]
        regionID = try row["region_id"]
    }
}

/// What a runner says of itself: its row of `runner_status`.
package struct RunnerRegistration: Sendable, Hashable {
    package var version: String
    package var protocolVersion: Int
    /// `x86_64` or `aarch64`.
    package var architecture: String
    package var labels: [String: String] = [:]
    /// What may be promised to sandboxes, over-commitment counted in.
    package var cpuCapacity = 0
    package var memoryCapacityGib = 0
    package var diskCapacityGib = 0
    package var gpuCapacity = 0
    package var gpuType: String?
    package var addressSlots = 1
    /// `host:port` that proxies connect to.
    package var ingressAddress = ""
    /// Lower-case hexadecimal SHA-256 of the ingress' certificate.
    package var tlsFingerprint = ""
    package var ingressSecret: [UInt8] = []
    package var engine = EngineReport()

    package init(version: String, protocolVersion: Int, architecture: String) {
        self.version = version
        self.protocolVersion = protocolVersion
        self.architecture = architecture
    }
}

/// Column `runner_status.engine`: what the host is and what it can enforce.
package struct EngineReport: Sendable, Hashable, Codable {
    package var serverVersion = ""
    package var storageDriver = ""
    package var cgroupVersion = 0
    package var kernelVersion = ""
    package var operatingSystem = ""
    package var runtime = ""
    package var liveRestore = false
    package var enforcesDiskQuota = false
    /// Whether the quota of a container that exists can be changed; where not, a resize of the disk is refused.
    package var changesDiskQuota = false
    /// Whether it has an S3 to mount volumes from; only then is it given sandboxes with volumes.
    package var mountsVolumes = false
    /// What is not as it should be, in words.
    package var warnings: [String] = []

    package init() {}
}
