import NIOCore

/// One request and its response, from the head to the last byte.
final class Exchange {
    let head: RequestHead
    let path: ToolboxPath
    let credential: Credential
    let id: String
    /// Follows the request's body as it is sent on.
    var body: BodyScanner
    var destination: Destination?
    var tunnel: Tunnel?
    /// The whole request as sent, while sending it again is possible.
    var replay: ByteBuffer?
    /// A byte of the response has come.
    var responseBegan = false
    var hasRetried = false
    var hasRefreshedRoute = false
    var lastMarked = NIODeadline.now()

    init(_ head: RequestHead, path: ToolboxPath, credential: Credential, id: String) {
        self.head = head
        self.path = path
        self.credential = credential
        self.id = id
        body = BodyScanner(head.framing, allowsTrailers: false)
    }
}
