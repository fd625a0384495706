/// Completions that one answer holds at most; a longer list is cut and marked as incomplete.
package let completionItemLimit = 2000

/// Completions as the SDK takes them.
package struct LanguageCompletions: Encodable, Sendable, Equatable {
    package var isIncomplete: Bool
    package var items: [LanguageCompletion]

    package init(isIncomplete: Bool, items: [LanguageCompletion]) {
        self.isIncomplete = isIncomplete || items.count > completionItemLimit
        self.items = Array(items.prefix(completionItemLimit))
    }
}

package struct LanguageCompletion: Encodable, Sendable, Equatable {
    /// Text with its kind, `plaintext` or `markdown`. The SDK takes nothing but an object.
    package struct Documentation: Codable, Sendable, Equatable {
        package var kind: String
        package var value: String
    }

    package var label: String
    package var kind: Int?
    package var detail: String?
    package var documentation: Documentation?
    package var sortText: String?
    package var filterText: String?
    package var insertText: String?
}

/// What servers answer: a list with a mark, only its items, or null.
struct ServerCompletions: Decodable {
    private struct List: Decodable {
        var isIncomplete: Bool?
        var items: [LanguageCompletion]
    }

    var completions: LanguageCompletions

    init(from decoder: any Decoder) throws {
        if let items = try? [LanguageCompletion](from: decoder) {
            completions = LanguageCompletions(isIncomplete: false, items: items)
        } else {
            let list = try List(from: decoder)
            completions = LanguageCompletions(isIncomplete: list.isIncomplete ?? false, items: list.items)
        }
    }
}

extension LanguageCompletion: Decodable {
    private enum ServerKeys: String, CodingKey {
        case label, kind, detail, documentation, sortText, filterText, insertText, textEdit
    }

    private struct TextEdit: Decodable {
        var newText: String
    }

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: ServerKeys.self)
        label = try values.decode(String.self, forKey: .label)
        kind = try values.decodeIfPresent(Int.self, forKey: .kind)
        detail = try values.decodeIfPresent(String.self, forKey: .detail)
        sortText = try values.decodeIfPresent(String.self, forKey: .sortText)
        filterText = try values.decodeIfPresent(String.self, forKey: .filterText)
        insertText = try values.decodeIfPresent(String.self, forKey: .insertText)
        if insertText == nil { insertText = try? values.decodeIfPresent(TextEdit.self, forKey: .textEdit)?.newText }
        if let text = try? values.decodeIfPresent(String.self, forKey: .documentation) {
            documentation = Documentation(kind: "plaintext", value: text)
        } else {
            documentation = try values.decodeIfPresent(Documentation.self, forKey: .documentation)
        }
    }
}
