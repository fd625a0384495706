import Postgres

/// One change of a sandbox's spec. What needs no runner (timers, labels, public) does not bump `generation`.
package enum SandboxChange: Sendable {
    case start
    case stop(force: Bool)
    case archive
    case destroy
    /// A new try after a recoverable error.
    case recover
    case resize(cpu: Int, memoryGib: Int, diskGib: Int)
    case labels([String: String])
    case isPublic(Bool)
    case autoStop(minutes: Int)
    case autoArchive(minutes: Int)
    case autoDelete(minutes: Int)
    /// From now; nil switches it off.
    case timeToLive(minutes: Int?)
    case network(blockAll: Bool, allowList: String?)
    case newSigningKey
    /// Of terminals opened from now on.
    case recordsTerminals(Bool)

    var assignments: SQL {
        switch self {
        case .start: "desired_state = 'started', force_stop = false"
        case .stop(let force): "desired_state = 'stopped', force_stop = \(force)"
        case .archive: "desired_state = 'archived', force_stop = false"
        case .destroy: "desired_state = 'destroyed'"
        case .recover: "desired_state = 'started', force_stop = false, recover_count = recover_count + 1"
        case .resize(let cpu, let memoryGib, let diskGib):
            "cpu = \(cpu), memory_gib = \(memoryGib), disk_gib = \(diskGib)"
        case .labels(let labels): "labels = \(json: labels)"
        case .isPublic(let isPublic): "public = \(isPublic)"
        case .autoStop(let minutes): "auto_stop_minutes = \(minutes)"
        case .autoArchive(let minutes): "auto_archive_minutes = \(minutes)"
        case .autoDelete(let minutes): "auto_delete_minutes = \(minutes)"
        case .timeToLive(let minutes): "auto_destroy_at = now() + make_interval(mins => \(minutes.map(Int32.init)))"
        case .network(let blockAll, let allowList):
            "network_block_all = \(blockAll), network_allow_list = \(allowList)"
        case .newSigningKey:
            "signing_key = encode(sha256(gen_random_uuid()::text::bytea || gen_random_uuid()::text::bytea), 'hex')"
        case .recordsTerminals(let records): "record_terminals = \(records)"
        }
    }
}
