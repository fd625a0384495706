/// A user name and password for one call. They reach git by variables of that one process, which a credential helper given on
/// its command line reads; so they are in no argument, URL, file or setting. The helper is asked for the remote's own host
/// only: a server that redirects elsewhere does not make git send them there. Helpers of the user's are put aside, because
/// they would be told to remember what worked.
package struct GitCredentials: Sendable, Equatable {
    package let username: String
    package let password: String

    private static let usernameVariable = "MARTLET_GIT_USERNAME"
    private static let passwordVariable = "MARTLET_GIT_PASSWORD"
    private static let helper =
        #"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$MARTLET_GIT_USERNAME" "$MARTLET_GIT_PASSWORD"; }; f"#

    /// - Throws: 400 for what cannot be handed to a credential helper, which takes one line each.
    package init(username: String, password: String) throws {
        for (field, value) in [("username", username), ("password", password)] {
            guard value.utf8.count <= GitLimit.credentialBytes,
                !value.utf8.contains(where: { [0, 10, 13].contains($0) })
            else {
                throw ToolboxError.badRequest(
                    "field '\(field)' holds a NUL or a line break, or is longer than \(GitLimit.credentialBytes) bytes, the limit"
                )
            }
        }
        self.username = username
        self.password = password
    }

    /// What a request gives, nil if nothing. A token alone is a password: servers that take one ignore the name.
    package static func given(username: String?, password: String?) throws -> GitCredentials? {
        let (name, secret) = (username ?? "", password ?? "")
        if name.isEmpty && secret.isEmpty { return nil }
        return try GitCredentials(username: name.isEmpty ? "git" : name, password: secret)
    }

    /// Lets git use them for these origins, in this one run.
    package func authorize(_ command: inout GitCommand, for origins: [String]) {
        command.set("credential.helper", to: "")
        for origin in origins { command.set("credential.\(origin).helper", to: Self.helper) }
        command.variables[Self.usernameVariable] = username
        command.variables[Self.passwordVariable] = password
    }
}
