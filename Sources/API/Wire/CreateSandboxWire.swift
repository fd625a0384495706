import Store

/// The body of `POST /sandbox`, judged as far as it can be without the database.
struct CreateSandboxWire: Sendable {
    var name: String?
    var snapshot: String?
    var source: ImageSource?
    var user: String?
    var env: [String: String]
    var labels: [String: String]
    var isPublic: Bool
    var target: String?
    var size: SandboxSize
    var gpu: Int?
    var gpuTypes: [String]
    var networkBlockAll: Bool?
    var networkAllowList: String?
    var volumes: [VolumeMountWire]
    var autoStopMinutes: Int?
    var autoArchiveMinutes: Int?
    var autoDeleteMinutes: Int?
    var ttlMinutes: Int?
    var queueTimeoutMinutes: Int?
    /// A field of Martlet's own.
    var recordsTerminals: Bool?

    /// Throws one 400 that names every bad field, or 501 for what is not built yet. `organization` has the ceilings.
    init(_ body: [String: JSONValue], for organization: OrganizationRecord) throws {
        var fields = FieldReader(body)
        name = fields.string("name", limit: 4 * SandboxRules.nameLimit)
        snapshot = fields.string("snapshot")
        source = ImageSource(&fields)
        user = fields.string("user")
        env = fields.strings("env") ?? [:]
        labels = fields.strings("labels") ?? [:]
        isPublic = fields.bool("public") ?? false
        target = fields.string("target")
        size = SandboxSize(
            cpu: fields.integer("cpu", in: 1...organization.cpuLimitPerSandbox),
            memoryGib: fields.integer("memory", in: 1...organization.memoryLimitGibPerSandbox),
            diskGib: fields.integer("disk", in: 1...organization.diskLimitGibPerSandbox)
        )
        gpu = fields.integer("gpu", in: 0...16)
        gpuTypes = fields.list("gpuType", limit: SandboxRules.gpuTypes.count) ?? []
        networkBlockAll = fields.bool("networkBlockAll")
        networkAllowList = Self.networkAllowList(&fields)
        volumes = VolumeMountWire.list(&fields)
        autoStopMinutes = fields.integer("autoStopInterval", in: 0...SandboxRules.minutesLimit)
        autoArchiveMinutes = fields.integer("autoArchiveInterval", in: 0...SandboxRules.autoArchiveMinutesLimit)
        autoDeleteMinutes = fields.integer(
            "autoDeleteInterval",
            in: -SandboxRules.minutesLimit...SandboxRules.minutesLimit
        )
        ttlMinutes = fields.integer("ttlMinutes", in: 0...SandboxRules.minutesLimit)
        queueTimeoutMinutes = fields.integer("queueTimeout", in: 1...SandboxRules.minutesLimit)
        recordsTerminals = fields.bool("recordTerminals")
        judgeAutoPause(&fields)
        judge(&fields)
        if snapshot != nil, fields.value("buildInfo")?.isNothing == false {
            fields.complain("snapshot and buildInfo cannot go together: give one of them")
        }
        Self.refuseWhatIsNotBuilt(&fields)
        try fields.finish()
    }

    private static func networkAllowList(_ fields: inout FieldReader) -> String? {
        guard let text = fields.string("networkAllowList", limit: 4096) else { return nil }
        let (list, problems) = NetworkAllowList.parse(text)
        problems.forEach { fields.complain($0) }
        return list.text
    }

    /// Containers cannot pause, so only 0 is accepted.
    private func judgeAutoPause(_ fields: inout FieldReader) {
        guard let minutes = fields.integer("autoPauseInterval", in: 0...SandboxRules.minutesLimit), minutes != 0 else {
            return
        }
        if let autoStopMinutes, autoStopMinutes != 0 {
            fields.complain(
                "autoPauseInterval and autoStopInterval are both set; at most one of them may be other than 0"
            )
        } else {
            fields.complain(
                "autoPauseInterval is \(minutes), but sandboxes of class container cannot pause; use autoStopInterval"
            )
        }
    }

    private func judge(_ fields: inout FieldReader) {
        if let name, let problem = SandboxRules.problem(ofName: name) { fields.complain(problem) }
        if let user, let problem = SandboxRules.problem(ofUser: user) { fields.complain(problem) }
        SandboxRules.problems(ofEnvironment: env).forEach { fields.complain($0) }
        SandboxRules.problems(ofLabels: labels).forEach { fields.complain($0) }
        for type in gpuTypes where !SandboxRules.gpuTypes.contains(type) {
            fields.complain("gpuType '\(type.shortened)' is none of \(SandboxRules.gpuTypes.joined(separator: ", "))")
        }
        if snapshot != nil, hasResources {
            fields.complain(
                "snapshot and cpu, memory, disk or gpu cannot go together: a snapshot brings its own resources"
            )
        }
        if networkBlockAll == true, networkAllowList != nil {
            fields.complain("networkBlockAll and networkAllowList cannot go together: give one of them")
        }
    }

    private var hasResources: Bool {
        size.cpu != nil || size.memoryGib != nil || size.diskGib != nil || (gpu ?? 0) > 0
    }

    private static func refuseWhatIsNotBuilt(_ fields: inout FieldReader) {
        fields.refuse("secrets", "secrets are not built yet; use env")
        fields.refuse("kvm", "nested virtualisation is not offered to containers")
        fields.refuse("spot", "there are no spot GPUs here")
        fields.refuse("linkedSandbox", "linked sandboxes are not built yet")
        fields.refuse("outboundProxyUrl", "outbound proxies are not built yet")
        fields.refuse("domainAllowList", "rules by domain are not enforced yet; use networkAllowList")
        fields.refuse("otelEndpointOverride", "telemetry of sandboxes is not built yet")
    }
}
