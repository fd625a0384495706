import HTTPTypes

/// Routes of the contract that are not built yet answer 501, so that a user learns more than "not found".
func addLaterRoutes(to routes: inout RouteMap) {
    let later: [(HTTPRequest.Method, [String])] = [
        (.get, ["/process/session", "/process/session/{id}", "/process/session/{id}/command/{command}"]),
        (.get, ["/process/session/{id}/command/{command}/logs"]),
        (.post, ["/process/session", "/process/session/{id}/exec", "/process/session/{id}/command/{command}/input"]),
        (.delete, ["/process/session/{id}", "/process/pty/{id}", "/process/interpreter/context/{id}"]),
        (.get, ["/process/pty", "/process/pty/create-connect", "/process/pty/{id}", "/process/pty/{id}/connect"]),
        (.post, ["/process/pty", "/process/pty/{id}/resize", "/process/interpreter/context"]),
        (.get, ["/process/interpreter/context", "/process/interpreter/execute"]),
        (
            .post,
            ["add", "branches", "checkout", "clone", "commit", "config", "config/user", "credentials", "init"].map {
                "/git/\($0)"
            }
        ),
        (.post, ["pull", "push", "remotes", "reset", "restore"].map { "/git/\($0)" }),
        (.get, ["branches", "config", "history", "remotes", "status"].map { "/git/\($0)" }),
        (.delete, ["/git/branches"]),
    ]
    for (method, paths) in later {
        for path in paths {
            routes.on(method, path) { call in
                await call.drain()
                throw notImplemented(method, path)
            }
        }
    }
    for method in [HTTPRequest.Method.get, .post, .delete] {
        routes.onPrefix(method, "/computeruse/") { call in
            await call.drain()
            throw notImplemented(method, "/computeruse")
        }
    }
}

private func notImplemented(_ method: HTTPRequest.Method, _ path: String) -> ToolboxError {
    ToolboxError(
        .notImplemented,
        "NOT_IMPLEMENTED",
        "\(method.rawValue) \(path) is not implemented by this version of Martlet"
    )
}
