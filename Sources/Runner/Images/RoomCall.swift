/// Asks the image cache to make room at once, where a disk turned out to be full. Calls while it does so are one.
package final class RoomCall: Sendable {
    let calls: AsyncStream<Void>
    private let continuation: AsyncStream<Void>.Continuation

    package init() { (calls, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1)) }

    /// Never blocks.
    package func call() { continuation.yield() }
}
