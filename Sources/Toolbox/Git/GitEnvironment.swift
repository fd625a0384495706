/// What git must not be told by the sandbox's environment: other repositories than the one that was asked for, and chatter
/// among the messages that we read.
private let unwantedVariables: Set<String> = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CURL_VERBOSE", "GIT_DIR",
    "GIT_GLOB_PATHSPECS", "GIT_GRAFT_FILE", "GIT_ICASE_PATHSPECS", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE",
    "GIT_NAMESPACE", "GIT_NOGLOB_PATHSPECS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE", "SSH_ASKPASS",
]

/// The sandbox's variables, made fit for a git that nobody sits in front of: it never asks, opens no editor, speaks English.
/// - Parameter ceiling: git does not look for a repository in this directory, nor above it.
package func gitEnvironment(_ variables: [String: String], ceiling: String? = nil) -> [String: String] {
    var result = variables.filter { !unwantedVariables.contains($0.key) && !$0.key.hasPrefix("GIT_TRACE") }
    result["LC_ALL"] = "C"
    result["GIT_TERMINAL_PROMPT"] = "0"
    // Set but empty: no other program that asks is looked for.
    result["GIT_ASKPASS"] = ""
    result["SSH_ASKPASS_REQUIRE"] = "never"
    result["GIT_EDITOR"] = ":"
    result["GIT_SEQUENCE_EDITOR"] = ":"
    result["GIT_MERGE_AUTOEDIT"] = "no"
    result["GIT_OPTIONAL_LOCKS"] = "0"
    // Also for URLs that stand in a repository's own settings.
    result["GIT_ALLOW_PROTOCOL"] = variables["GIT_ALLOW_PROTOCOL"] ?? "file:git:http:https:ssh"
    result["GIT_HTTP_LOW_SPEED_LIMIT"] = variables["GIT_HTTP_LOW_SPEED_LIMIT"] ?? "1"
    result["GIT_HTTP_LOW_SPEED_TIME"] = variables["GIT_HTTP_LOW_SPEED_TIME"] ?? "\(GitLimit.stallSeconds)"
    result["GIT_CEILING_DIRECTORIES"] = ceiling
    return result
}
