import Domain
import FoundationEssentials
import Store

/// The query of `GET /sandbox`, judged.
struct SandboxListWire: Sendable {
    static let limitBounds = 1...200
    static let defaultLimit = 100

    var filter: SandboxFilter
    var cursor: SandboxCursor?
    var limit: Int

    /// Throws one 400 that names every bad parameter.
    init(_ query: Query, for organization: OrganizationID) throws {
        var reader = QueryReader(query)
        filter = SandboxFilter(organizationID: organization)
        limit = reader.integer("limit", in: Self.limitBounds) ?? Self.defaultLimit
        filter.idPrefix = reader.text("id")
        filter.namePrefix = reader.text("name")
        filter.labels = reader.labels("labels") ?? [:]
        filter.states = reader.states("states")
        filter.snapshots = reader.list("snapshots")
        filter.regionIDs = reader.list("regionIds")
        if let classes = reader.list("sandboxClasses"), !classes.contains("container") { filter.states = [] }
        filter.cpu = reader.numbers("minCpu", "maxCpu")
        filter.memoryGib = reader.numbers("minMemoryGiB", "maxMemoryGiB")
        filter.diskGib = reader.numbers("minDiskGiB", "maxDiskGiB")
        filter.gpu = reader.numbers("minGpu", "maxGpu")
        filter.createdAt = reader.dates("createdAtAfter", "createdAtBefore")
        filter.lastActivityAt = reader.dates("lastEventAfter", "lastEventBefore")
        filter.autoDestroyAt = reader.dates("autoDestroyAtAfter", "autoDestroyAtBefore")
        filter.isPublic = reader.bool("isPublic")
        filter.isRecoverable = reader.bool("isRecoverable")
        // Destroyed sandboxes leave no errors behind, and there are no warm ones: both are checked and change nothing.
        _ = (reader.bool("includeErroredDeleted"), reader.bool("includeWarm"))
        filter.sort = reader.choice("sort") ?? .lastActivityAt
        filter.order = reader.choice("order") ?? .desc
        cursor = reader.cursor("cursor", for: filter)
        try reader.finish()
    }
}

extension SandboxCursor {
    /// Opaque to clients: base64url of JSON.
    func wireText() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        return try encoder.encode(self).base64URLText
    }
}

/// Reads parameters and keeps every complaint.
struct QueryReader {
    private static let textLimit = 1024
    private static let listLimit = 200

    private let query: Query
    private var problems: [String] = []

    init(_ query: Query) { self.query = query }

    func finish() throws {
        if !problems.isEmpty { throw APIError.badRequest(problems.joined(separator: "; ")) }
    }

    mutating func text(_ name: String) -> String? {
        guard let text = query[name], !text.isEmpty else { return nil }
        if text.utf8.count > Self.textLimit {
            problems.append("\(name) is \(text.utf8.count) bytes long; the limit is \(Self.textLimit)")
        }
        return text
    }

    mutating func list(_ name: String) -> [String]? {
        guard let values = query.all(name) else { return nil }
        if values.count > Self.listLimit {
            problems.append("\(name) has \(values.count) values; the limit is \(Self.listLimit)")
        }
        return values
    }

    mutating func integer(_ name: String, in bounds: ClosedRange<Int>) -> Int? {
        guard let text = query[name] else { return nil }
        if let number = Int(text), bounds.contains(number) { return number }
        problems.append(
            "\(name) is '\(text.shortened)', but must be a whole number from \(bounds.lowerBound) to \(bounds.upperBound)"
        )
        return nil
    }

    mutating func bool(_ name: String) -> Bool? {
        guard let text = query[name] else { return nil }
        if let flag = Bool(text) { return flag }
        problems.append("\(name) is '\(text.shortened)', but must be true or false")
        return nil
    }

    mutating func choice<Choice: RawRepresentable<String> & CaseIterable>(_ name: String) -> Choice? {
        guard let text = query[name] else { return nil }
        if let choice = Choice(rawValue: text) { return choice }
        let known = Choice.allCases.map(\.rawValue).joined(separator: ", ")
        problems.append("\(name) is '\(text.shortened)', but must be one of \(known)")
        return nil
    }

    mutating func states(_ name: String) -> [String]? {
        guard let values = list(name) else { return nil }
        for value in values where PublicState(rawValue: value) == nil {
            problems.append("\(name): '\(value.shortened)' is not a state of a sandbox")
        }
        return values
    }

    mutating func labels(_ name: String) -> [String: String]? {
        guard let text = query[name] else { return nil }
        guard let labels = try? JSONDecoder().decode([String: String].self, from: Data(text.utf8)),
            labels.count <= SandboxRules.labelCountLimit,
            labels.allSatisfy({ !$0.key.utf8.contains(0) && !$0.value.utf8.contains(0) })
        else {
            problems.append("\(name) must be a JSON object of at most \(SandboxRules.labelCountLimit) strings")
            return nil
        }
        return labels
    }

    mutating func numbers(_ low: String, _ high: String) -> SandboxFilter.Bounds<Double> {
        .init(lowest: number(low), highest: number(high))
    }

    private mutating func number(_ name: String) -> Double? {
        guard let text = query[name] else { return nil }
        if let number = Double(text), number.isFinite, number >= 0 { return number }
        problems.append("\(name) is '\(text.shortened)', but must be a number that is not negative")
        return nil
    }

    mutating func dates(_ low: String, _ high: String) -> SandboxFilter.Bounds<Date> {
        .init(lowest: date(low), highest: date(high))
    }

    private mutating func date(_ name: String) -> Date? {
        guard let text = query[name] else { return nil }
        if let date = Timestamp.date(text) { return date }
        problems.append("\(name) is '\(text.shortened)', but must be a time as in 2026-01-01T00:00:00Z")
        return nil
    }

    mutating func cursor(_ name: String, for filter: SandboxFilter) -> SandboxCursor? {
        guard let text = text(name) else { return nil }
        guard let data = Data(base64URLText: text),
            let cursor = try? JSONDecoder().decode(SandboxCursor.self, from: data),
            cursor.sort == filter.sort.rawValue, cursor.order == filter.order.rawValue, !cursor.key.utf8.contains(0)
        else {
            problems.append(
                "\(name) is not one that this list gave: use nextCursor of the page before, with the same sort and order"
            )
            return nil
        }
        return cursor
    }
}
