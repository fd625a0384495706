extension PostgresError {
    /// Reads an error result. Without an SQLSTATE it is libpq's own, that is, a connection that broke.
    init(of result: PostgresResult) {
        guard let state = result.errorField("C") else {
            self.init(.connectionLost, result.errorMessage.onOneLine)
            return
        }
        self.init(Code(rawValue: state), result.errorField("M") ?? result.errorMessage.onOneLine)
        detail = result.errorField("D")
        hint = result.errorField("H")
        schema = result.errorField("s")
        table = result.errorField("t")
        column = result.errorField("c")
        constraint = result.errorField("n")
    }
}
