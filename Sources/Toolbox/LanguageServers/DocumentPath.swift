import HTTPTypes

/// Makes paths of what clients call documents.
package struct DocumentPath {
    /// Absolute paths that a URI may mean, the likeliest first. The SDK puts `file://` before whatever path it was given: it
    /// may be relative, and is not escaped. Relative ones begin at the project, and where nothing is there, as for the
    /// project itself, at the working directory. Clients that do escape are understood too.
    /// - Throws: 400 for what is no `file://` URI.
    package static func candidates(
        _ uri: String,
        in project: ServerProject,
        _ workingDirectory: WorkingDirectory
    ) throws -> [String] {
        let scheme = "file://"
        guard uri.hasPrefix(scheme), uri.utf8.count > scheme.utf8.count else {
            throw ToolboxError.badRequest("field 'uri' is '\(uri.prefix(200))', not file:// and a path")
        }
        let raw = String(uri.dropFirst(scheme.count))
        let decoded = decodePercent(raw, plusIsSpace: false)
        var paths: [String] = []
        for name in raw == decoded ? [raw] : [raw, decoded] {
            for base in [WorkingDirectory(project.path), workingDirectory] {
                let path = normalizedPath(try base.resolve(name))
                if !paths.contains(path) { paths.append(path) }
            }
        }
        return paths
    }

    /// The first of the candidates that is a file. Blocks.
    /// - Throws: 404 if none is there, 400 if it is something else.
    package static func existing(_ candidates: [String]) throws -> String {
        for path in candidates {
            guard let status = try FileStatus.of(path) else { continue }
            guard status.kind == .regular else {
                throw ToolboxError.invalidPath("\(path) is a \(status.kind.name), not a document")
            }
            return path
        }
        throw ToolboxError(.notFound, "FILE_NOT_FOUND", "file not found: \(candidates.first ?? "")")
    }
}

/// An absolute path without empty, `.` and `..` segments, as servers compare them.
package func normalizedPath(_ path: String) -> String {
    var kept: [Substring] = []
    for segment in path.split(separator: "/") where segment != "." {
        if segment == ".." { _ = kept.popLast() } else { kept.append(segment) }
    }
    return "/" + kept.joined(separator: "/")
}

/// The URI of an absolute path.
package func fileURI(_ path: String) -> String {
    let digits = Array("0123456789ABCDEF".utf8)
    var uri = Array("file://".utf8)
    for byte in path.utf8 {
        if isPlain(byte) { uri.append(byte) } else { uri += [37, digits[Int(byte >> 4)], digits[Int(byte & 15)]] }
    }
    return String(decoding: uri, as: UTF8.self)
}

private func isPlain(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
        UInt8(ascii: "~"), UInt8(ascii: "/"):
        true
    default: false
    }
}
