import HTTPTypes

/// Routes of the contract that are not built yet answer 501, so that a user learns more than "not found".
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
