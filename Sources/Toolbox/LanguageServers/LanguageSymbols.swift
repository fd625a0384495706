/// A place between two characters, counted from 0 in UTF-16 units, as LSP does.
package struct DocumentPosition: Codable, Sendable, Equatable {
    package var line: Int
    package var character: Int
}

package struct DocumentRange: Codable, Sendable, Equatable {
    package var start: DocumentPosition
    package var end: DocumentPosition
}

/// A symbol as the SDK takes it: flat, with a location.
package struct LanguageSymbol: Codable, Sendable, Equatable {
    package struct Location: Codable, Sendable, Equatable {
        package var uri: String
        package var range: DocumentRange
    }

    package var name: String
    package var kind: Int
    package var location: Location
    package var containerName: String?
}

/// A symbol of a document as servers send it: hierarchical with a range, or flat with a location.
struct ServerSymbol: Decodable {
    var name: String
    var kind: Int
    var location: LanguageSymbol.Location?
    var containerName: String?
    var range: DocumentRange?
    var children: [ServerSymbol]?
}

/// Parents come before their children, and name them as their container. What has neither location nor range is left out.
func flatten(_ symbols: [ServerSymbol], in uri: String) -> [LanguageSymbol] {
    var flat: [LanguageSymbol] = []
    func add(_ symbols: [ServerSymbol], below container: String?) {
        for symbol in symbols {
            let location = symbol.location ?? symbol.range.map { LanguageSymbol.Location(uri: uri, range: $0) }
            if let location {
                let container = symbol.containerName ?? container
                flat.append(
                    LanguageSymbol(name: symbol.name, kind: symbol.kind, location: location, containerName: container)
                )
            }
            add(symbol.children ?? [], below: symbol.name)
        }
    }
    add(symbols, below: nil)
    return flat
}
