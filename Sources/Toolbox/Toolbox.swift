import Hummingbird
import NIOPosix

package func probe() async throws {
    let router = Router()
    router.get("version") { _, _ in "hello" }
    let app = Application(
        router: router, configuration: .init(address: .hostname("127.0.0.1", port: 2280)),
        eventLoopGroupProvider: .shared(MultiThreadedEventLoopGroup(numberOfThreads: 1)))
    try await app.runService()
}
