extension Duration {
    /// For arguments of SQL functions.
    var wholeSeconds: Int32 { Int32(clamping: components.seconds) }
}
