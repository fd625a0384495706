import Domain
import FoundationEssentials
import Store

/// A sandbox on the wire: `Sandbox` of the published client, field by field. Absent fields are left out.
struct SandboxWire: Encodable {
    var id: String
    var organizationId: String
    var name: String
    var snapshot: String?
    var user: String
    /// nil in lists, which do not carry it.
    var env: [String: String]?
    var labels: [String: String]
    var `public`: Bool
    var networkBlockAll: Bool
    var networkAllowList: String?
    /// nil in lists.
    var kvm: Bool?
    var target: String
    var cpu: Int
    var gpu: Int
    var gpuType: String?
    var memory: Int
    var disk: Int
    var spot = false
    var state: String
    var desiredState: String
    var errorReason: String?
    var recoverable: Bool
    var backupState: String
    /// nil in lists.
    var backupCreatedAt: Date?
    var autoStopInterval: Int
    var autoPauseInterval = 0
    var autoArchiveInterval: Int
    var autoDeleteInterval: Int
    var autoDestroyAt: Date?
    var queueTimeout: Int?
    var queueTimedOutAt: Date?
    /// nil in lists.
    var volumes: [SandboxVolume]?
    var createdAt: Date
    var updatedAt: Date
    var lastActivityAt: Date?
    var sandboxClass = "container"
    var daemonVersion: String?
    var runnerId: String?
    var toolboxProxyUrl: String
    /// A field of Martlet's own.
    var recordTerminals: Bool

    init(_ record: SandboxRecord, toolboxProxyURL: String) {
        id = record.id.description
        organizationId = record.organizationID.description
        name = record.name
        snapshot = record.snapshotName
        user = record.osUser ?? ""
        env = record.env
        labels = record.labels
        `public` = record.isPublic
        networkBlockAll = record.networkBlockAll
        networkAllowList = record.networkAllowList
        kvm = false
        target = record.regionID
        cpu = record.cpu
        gpu = record.gpu
        gpuType = record.gpuType
        memory = record.memoryGib
        disk = record.diskGib
        state = record.state.rawValue
        desiredState = record.desiredState.rawValue
        errorReason = record.errorReason
        recoverable = record.isRecoverable
        backupState = record.backupState.rawValue
        backupCreatedAt = record.backupCreatedAt
        autoStopInterval = record.autoStopMinutes
        autoArchiveInterval = record.autoArchiveMinutes
        autoDeleteInterval = record.autoDeleteMinutes
        autoDestroyAt = record.autoDestroyAt
        queueTimeout = record.queueTimeoutMinutes
        queueTimedOutAt = record.queueTimedOutAt
        volumes = record.volumes
        createdAt = record.createdAt
        updatedAt = record.updatedAt
        lastActivityAt = record.lastActivityAt
        daemonVersion = record.daemonVersion
        runnerId = record.runnerID?.description
        toolboxProxyUrl = toolboxProxyURL
        recordTerminals = record.recordsTerminals
    }

    /// As lists show it: `SandboxListItem`.
    var asListItem: SandboxWire {
        var item = self
        (item.env, item.kvm, item.volumes, item.backupCreatedAt) = (nil, nil, nil, nil)
        return item
    }
}

/// A page of a list.
struct SandboxPageWire: Encodable {
    var items: [SandboxWire]
    var nextCursor: String?
}

struct LabelsWire: Encodable { var labels: [String: String] }
struct URLWire: Encodable { var url: String }
