import HTTPTypes

/// Computer use is in the contract and not built yet. Its routes answer 501, as DESIGN 9 asks of what is not supported: from
/// "not found" a user would learn that the address is wrong.
func addLaterRoutes(to routes: inout RouteMap) {
    for method in [HTTPRequest.Method.get, .post, .delete] {
        routes.onPrefix(method, "/computeruse/") { call in
            await call.drain()
            throw ToolboxError(
                .notImplemented,
                "NOT_IMPLEMENTED",
                "\(method.rawValue) /computeruse is not implemented by this version of Martlet"
            )
        }
    }
}
