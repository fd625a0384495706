import Glibc
package import Logging
package import Postgres

/// The real parts that tests run against, found by environment. A part that is missing is a failure, not a skip.
package enum TestStack {
    /// Says which variable is missing and what sets it.
    package struct Missing: Error, CustomStringConvertible {
        package let description: String
    }

    /// The value of a variable such as `MARTLET_TEST_DATABASE_URL`.
    package static func environment(_ name: String) throws -> String {
        guard let value = getenv(name).map({ String(cString: $0) }), !value.isEmpty else {
            throw Missing(description: "\(name) is not set: run the tests with ops/test, which starts the real parts")
        }
        return value
    }

    /// The superuser's way to the test cluster.
    package static func superuser() throws -> PostgresConfiguration {
        try PostgresConfiguration(url: try environment("MARTLET_TEST_DATABASE_URL"), applicationName: "martlet-tests")
    }

    /// Says nothing below error: tests assert, they do not log.
    package static let logger: Logger = {
        var logger = Logger(label: "martlet.tests")
        logger.logLevel = getenv("MARTLET_TEST_LOG") == nil ? .critical : .debug
        return logger
    }()

    /// Where `migrations/` is: the repository this file was compiled in.
    package static var migrationsDirectory: String {
        var path = #filePath.split(separator: "/", omittingEmptySubsequences: false)
        path.removeLast(3)
        return path.joined(separator: "/") + "/migrations"
    }
}
