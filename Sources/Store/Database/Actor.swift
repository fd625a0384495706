package import Postgres

/// Who makes a change, as rows of `event` name it: `key:mrt_abcd`, `operator`, `bootstrap`.
package struct Actor: Sendable, Hashable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }

    /// An API key by its prefix.
    package static func key(prefix: String) -> Actor { Actor("key:\(prefix)") }

    /// Makes the statement that begins with this run as this actor: triggers read `martlet.actor`. The statement must take
    /// rows from `acting` (`FROM acting`), because Postgres does not run what nothing reads.
    package var acting: SQL {
        "WITH acting AS MATERIALIZED (SELECT set_config('martlet.actor', \(description), true))"
    }
}
