import CLibPQ
import Glibc

/// Where a database is, who we are there, and the limits that hold on each connection.
package struct PostgresConfiguration: Sendable {
    /// How long making a connection may take.
    package var connectDeadline: Duration = .seconds(10)
    /// How long a statement may take, where the caller says nothing else.
    package var statementDeadline: Duration = .seconds(30)
    /// How long a statement may wait for one lock; then it fails with `lock_not_available`, and its connection serves others.
    /// nil waits as long as the statement may take.
    package var lockDeadline: Duration?
    /// How long an interrupted statement may take to end before its connection is closed.
    package var cancelGrace: Duration = .seconds(5)
    /// How many prepared statements a connection keeps; the least recently used goes first.
    package var preparedStatementLimit = 256

    /// libpq's keywords (`host`, `dbname`, …) and their values.
    private var options: [String: String] = [:]

    /// Reads `postgres://user:password@host:port/database?option=value` (or libpq's `key=value` form) with libpq's own
    /// parser. What it leaves out comes from libpq's environment variables and defaults. Sets keepalives, unless the URL
    /// does. Throws `invalid_configuration`, without quoting the URL.
    package init(url: String, applicationName: String = "martlet") throws {
        options = try Self.parse(try url.rejectingNUL("the connection URL"))
        let defaults = [
            "application_name": applicationName, "keepalives": "1", "keepalives_idle": "30",
            "keepalives_interval": "10", "keepalives_count": "3", "tcp_user_timeout": "30000",
        ]
        options.merge(defaults) { given, _ in given }
    }

    private static func parse(_ url: String) throws -> [String: String] {
        var message: UnsafeMutablePointer<CChar>?
        guard let parsed = PQconninfoParse(url, &message) else {
            defer { PQfreemem(message) }
            // libpq quotes what it does not understand, which may be the password.
            let reason = message.map { String(cString: $0).withQuotedPartsHidden.onOneLine } ?? "out of memory"
            throw PostgresError(.invalidConfiguration, "the connection URL is wrong: \(reason)")
        }
        defer { PQconninfoFree(parsed) }
        var options: [String: String] = [:]
        var entry = parsed
        while let keyword = entry.pointee.keyword {
            if let value = entry.pointee.val { options[String(cString: keyword)] = String(cString: value) }
            entry += 1
        }
        return options
    }

    /// The database, if named.
    package var database: String? {
        get { options["dbname"] }
        set { options["dbname"] = newValue }
    }

    /// The role, if named.
    package var user: String? {
        get { options["user"] }
        set { options["user"] = newValue }
    }

    /// The password: can be set, not read.
    package mutating func setPassword(_ password: String?) { options["password"] = password }

    /// What `pg_stat_activity` shows.
    package var applicationName: String? {
        get { options["application_name"] }
        set { options["application_name"] = newValue }
    }

    /// Any option by libpq's keyword, such as `sslmode`.
    package mutating func setOption(_ keyword: String, to value: String?) { options[keyword] = value }

    /// The session settings that the codecs rely on; they outlive RESET ALL.
    private static let sessionSettings =
        "-c datestyle=ISO -c timezone=UTC -c intervalstyle=iso_8601 -c bytea_output=hex -c extra_float_digits=1"

    private var lockSetting: String? {
        lockDeadline.map { "-c lock_timeout=\(max(1, Int($0 / .milliseconds(1))))ms" }
    }

    /// Hands the options to libpq as two null-terminated lists.
    func withLibPQOptions<Result>(
        _ body: (_ keywords: UnsafePointer<UnsafePointer<CChar>?>, _ values: UnsafePointer<UnsafePointer<CChar>?>) ->
            Result
    ) -> Result {
        var all = options
        all["client_encoding"] = "UTF8"
        all["options"] = [options["options"], Self.sessionSettings, lockSetting].compactMap(\.self).joined(
            separator: " "
        )
        let keywords = all.map { strdup($0.key) }
        let values = all.map { strdup($0.value) }
        defer { (keywords + values).forEach { free($0) } }
        return body(keywords.map { UnsafePointer($0) } + [nil], values.map { UnsafePointer($0) } + [nil])
    }
}

extension PostgresConfiguration: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// `user@host:port/database`; never the password.
    package var description: String {
        let host = options["host"] ?? options["hostaddr"] ?? "localhost"
        let port = options["port"].map { ":\($0)" } ?? ""
        return "\(user.map { "\($0)@" } ?? "")\(host)\(port)/\(database ?? "")"
    }

    package var debugDescription: String { description }

    package var customMirror: Mirror { Mirror(self, children: ["address": description]) }
}

extension String {
    /// libpq's messages have several lines and end with one.
    var onOneLine: String {
        split(whereSeparator: \.isNewline).map { $0.drop { $0.isWhitespace } }.joined(separator: "; ")
    }
}
