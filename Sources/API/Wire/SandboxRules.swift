import FoundationEssentials

/// The rules that fields of a sandbox obey, with their limits.
enum SandboxRules {
    static let nameLimit = 128
    static let minutesLimit = 5_256_000  // ten years
    static let autoArchiveMinutesLimit = 43_200  // 30 days; 0 means this
    static let environmentCountLimit = 512
    static let environmentNameLimit = 256
    static let environmentValueByteLimit = 32 << 10
    static let environmentByteLimit = 128 << 10
    static let labelCountLimit = 64
    static let labelKeyLimit = 128
    static let labelValueLimit = 1024
    static let languageLabel = "code-toolbox-language"
    static let languages = ["python", "typescript", "javascript"]
    static let gpuTypes = ["H100", "H200", "B200", "B300", "RTX-PRO-6000", "RTX-4090", "RTX-5090", "MI355X"]
    /// The runner speaks to the daemon by variables that begin so.
    static let reservedPrefix = "MARTLET_"

    static func problem(ofName name: String) -> String? {
        if name.isEmpty || name.count > nameLimit {
            return "name has \(name.count) characters, but must have 1 to \(nameLimit)"
        }
        let isClean = name.unicodeScalars.allSatisfy { $0.properties.generalCategory.isVisible }
        if !isClean || name.first == " " || name.last == " " {
            return "name must be of visible characters, and not begin or end with a space"
        }
        return nil
    }

    static func problems(ofEnvironment env: [String: String]) -> [String] {
        var problems = env.sorted { $0.key < $1.key }.compactMap { problem(ofVariable: $0, value: $1) }
        if env.count > environmentCountLimit {
            problems.append("env has \(env.count) variables; the limit is \(environmentCountLimit)")
        }
        let bytes = env.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count + 2 }
        if bytes > environmentByteLimit {
            problems.append("env is \(bytes) bytes in all; the limit is \(environmentByteLimit)")
        }
        return problems
    }

    private static func problem(ofVariable name: String, value: String) -> String? {
        let shown = name.shortened
        guard name.wholeMatch(of: /[A-Za-z_][A-Za-z0-9_]*/) != nil, name.count <= environmentNameLimit else {
            return "env.\(shown) is not a name of a variable: letters, digits and _, at most \(environmentNameLimit)"
        }
        if name.hasPrefix(reservedPrefix) {
            return "env.\(shown) is reserved: names with \(reservedPrefix) are Martlet's own"
        }
        if value.utf8.count > environmentValueByteLimit {
            return "env.\(shown) is \(value.utf8.count) bytes long; the limit is \(environmentValueByteLimit)"
        }
        return value.utf8.contains(0) ? "env.\(shown) holds a NUL character" : nil
    }

    static func problems(ofLabels labels: [String: String]) -> [String] {
        var problems = labels.sorted { $0.key < $1.key }.compactMap { problem(ofLabel: $0, value: $1) }
        if labels.count > labelCountLimit {
            problems.append("labels has \(labels.count) entries; the limit is \(labelCountLimit)")
        }
        return problems
    }

    private static func problem(ofLabel key: String, value: String) -> String? {
        let shown = key.shortened
        if key.isEmpty || key.count > labelKeyLimit {
            return "labels: the key '\(shown)' must have 1 to \(labelKeyLimit) characters"
        }
        if value.count > labelValueLimit {
            return "labels.\(shown) has \(value.count) characters; the limit is \(labelValueLimit)"
        }
        if key.utf8.contains(0) || value.utf8.contains(0) { return "labels.\(shown) holds a NUL character" }
        // The SDK raises on any other value, even while it lists: one such sandbox would hide all the rest.
        if key == languageLabel, !languages.contains(value) {
            return
                "labels.\(languageLabel) is '\(value.shortened)', but must be one of \(languages.joined(separator: ", "))"
        }
        return nil
    }

    static func problem(ofUser user: String) -> String? {
        user.wholeMatch(of: /[a-z_][a-z0-9_-]{0,31}|[0-9]{1,9}/) == nil
            ? "user is '\(user.shortened)', but must be a user name (a-z, 0-9, _ and -) or a numeric id" : nil
    }
}

extension Unicode.GeneralCategory {
    fileprivate var isVisible: Bool {
        switch self {
        case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: false
        default: true
        }
    }
}
