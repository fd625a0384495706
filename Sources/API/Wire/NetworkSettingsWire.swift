import Store

/// The body of `POST /sandbox/{id}/network-settings`.
struct NetworkSettingsWire: Sendable {
    private let blockAll: Bool?
    /// Outer nil: not mentioned. Inner nil: cleared.
    private let allowList: String??

    init(_ body: [String: JSONValue]) throws {
        var fields = FieldReader(body)
        blockAll = fields.bool("networkBlockAll")
        if let text = fields.string("networkAllowList", limit: 4096) {
            let (list, problems) = NetworkAllowList.parse(text)
            problems.forEach { fields.complain($0) }
            allowList = .some(list.text)
        } else {
            allowList = nil
        }
        fields.refuse("domainAllowList", "rules by domain are not enforced yet; use networkAllowList")
        if blockAll == true, case .some(.some) = allowList {
            fields.complain("networkBlockAll and networkAllowList cannot go together: give one of them")
        }
        try fields.finish()
    }

    /// A list means not to block; to block, or to stop blocking, clears the list; an empty list only clears the list.
    func change(of sandbox: SandboxRecord) -> SandboxChange {
        switch (blockAll, allowList) {
        case (nil, nil): .network(blockAll: sandbox.networkBlockAll, allowList: sandbox.networkAllowList)
        case (_, .some(.some(let list))): .network(blockAll: false, allowList: list)
        case (let blockAll?, _): .network(blockAll: blockAll, allowList: nil)
        case (nil, .some(.none)): .network(blockAll: sandbox.networkBlockAll, allowList: nil)
        }
    }
}
