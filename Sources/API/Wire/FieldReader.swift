import FoundationEssentials

/// Reads the fields of an object (or the keys of a query) and keeps every complaint, so that one answer names all of them.
struct FieldReader {
    private let fields: [String: JSONValue]
    private var known: Set<String> = []
    /// What is wrong, one sentence for each field.
    private(set) var problems: [String] = []
    /// What is asked for and cannot be given.
    private(set) var unsupported: [String] = []

    init(_ fields: [String: JSONValue]) { self.fields = fields }

    mutating func complain(_ problem: String) { problems.append(problem) }

    /// The field, unless it is absent or null.
    mutating func value(_ name: String) -> JSONValue? {
        known.insert(name)
        guard let value = fields[name], value != .null else { return nil }
        return value
    }

    mutating func string(_ name: String, limit: Int = 1024) -> String? {
        guard let value = value(name) else { return nil }
        guard case .string(let text) = value else { return complain(about: name, value, "must be a string") }
        guard text.utf8.count <= limit else {
            return complain(about: name, "is \(text.utf8.count) bytes long; the limit is \(limit)")
        }
        guard !text.utf8.contains(0) else { return complain(about: name, "holds a NUL character") }
        return text
    }

    mutating func integer(_ name: String, in bounds: ClosedRange<Int>) -> Int? {
        guard let value = value(name) else { return nil }
        guard case .integer(let number) = value else { return complain(about: name, value, "must be a whole number") }
        guard bounds.contains(number) else {
            return complain(about: name, "is \(number), but must be from \(bounds.lowerBound) to \(bounds.upperBound)")
        }
        return number
    }

    mutating func bool(_ name: String) -> Bool? {
        guard let value = value(name) else { return nil }
        guard case .bool(let flag) = value else { return complain(about: name, value, "must be true or false") }
        return flag
    }

    /// An object of strings.
    mutating func strings(_ name: String) -> [String: String]? {
        guard let value = value(name) else { return nil }
        guard case .object(let object) = value else {
            return complain(about: name, value, "must be an object of strings")
        }
        var strings: [String: String] = [:]
        for (key, value) in object {
            guard case .string(let text) = value else {
                complain("\(name).\(key.shortened) is \(value.kind), but must be a string")
                continue
            }
            strings[key] = text
        }
        return strings
    }

    /// A list of strings.
    mutating func list(_ name: String, limit: Int) -> [String]? {
        guard let value = value(name) else { return nil }
        guard case .array(let items) = value, items.count <= limit else {
            return complain(about: name, value, "must be a list of at most \(limit) strings")
        }
        let texts = items.compactMap { item in if case .string(let text) = item { text } else { nil } }
        guard texts.count == items.count else { return complain(about: name, "must hold strings only") }
        return texts
    }

    /// A list of objects.
    mutating func objects(_ name: String, limit: Int) -> [[String: JSONValue]]? {
        guard let value = value(name) else { return nil }
        guard case .array(let items) = value else { return complain(about: name, value, "must be a list of objects") }
        guard items.count <= limit else {
            return complain(about: name, "has \(items.count) entries; the limit is \(limit)")
        }
        let objects = items.compactMap { item in if case .object(let fields) = item { fields } else { nil } }
        guard objects.count == items.count else { return complain(about: name, "must hold objects only") }
        return objects
    }

    /// A field of which only emptiness can be honoured as yet. Anything else is refused by name, not passed over.
    mutating func refuse(_ name: String, _ why: String) {
        guard let value = value(name), !value.isNothing else { return }
        unsupported.append("\(name) is not supported: \(why)")
    }

    /// Throws all complaints in one: 400, or 501 where nothing is wrong but something is beyond us. Fields that nobody asked
    /// for are complaints too: a misspelt limit must not be passed over.
    func finish() throws {
        let all = problems + unknownFields
        if !all.isEmpty { throw APIError.badRequest((all + unsupported).joined(separator: "; ")) }
        if !unsupported.isEmpty { throw APIError.unsupported(unsupported.joined(separator: "; ")) }
    }

    /// A complaint for each field that was not read.
    var unknownFields: [String] {
        fields.keys.filter { !known.contains($0) }.sorted().map { "\($0.shortened) is not a field of this request" }
    }

    private mutating func complain<Value>(about name: String, _ value: JSONValue, _ rule: String) -> Value? {
        complain(about: name, "is \(value.kind), but \(rule)")
    }

    private mutating func complain<Value>(about name: String, _ problem: String) -> Value? {
        problems.append("\(name) \(problem)")
        return nil
    }
}
