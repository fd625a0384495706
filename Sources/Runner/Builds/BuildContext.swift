import NIOCore
import Store
import Synchronization

/// The one archive that the engine builds from: the Dockerfile, and what the uploaded archives hold, filtered as it streams by.
struct BuildContext: AsyncSequence, Sendable {
    typealias Element = ByteBuffer

    /// Where the Dockerfile is in it.
    static let dockerfileName = ".martlet.Dockerfile"
    /// Bytes read from the database at a time.
    private static let pieceBytes = 1 << 20

    let job: SnapshotJob
    let dockerfile: String
    let hashes: [String]
    let queries: RunnerQueries
    /// What ended the stream early. The HTTP client knows only that something did.
    let fault = Fault()

    final class Fault: Sendable {
        private let state = Mutex<(any Error)?>(nil)
        var error: (any Error)? { state.withLock { $0 } }
        fileprivate func note(_ error: any Error) { state.withLock { if $0 == nil { $0 = error } } }
    }

    func makeAsyncIterator() -> Iterator { Iterator(self) }

    struct Iterator: AsyncIteratorProtocol {
        private let context: BuildContext
        private var filter = ArchiveFilter(reserved: BuildContext.dockerfileName)
        private var hasBegun = false
        private var hashes: ArraySlice<String>
        /// Where it is in the archive that comes first in `hashes`.
        private var (part, offset) = (1, 0)
        private var hasEnded = false

        fileprivate init(_ context: BuildContext) {
            self.context = context
            hashes = context.hashes[...]
        }

        mutating func next() async throws -> ByteBuffer? {
            do {
                return try await nextPiece()
            } catch {
                context.fault.note(error)
                throw error
            }
        }

        private mutating func nextPiece() async throws -> ByteBuffer? {
            guard hasBegun else {
                hasBegun = true
                let text = Array(context.dockerfile.utf8)
                return ByteBuffer(bytes: ArchiveFilter.entry(name: BuildContext.dockerfileName, content: text))
            }
            while let hash = hashes.first {
                let output = try await read(hash)
                if !output.isEmpty { return ByteBuffer(bytes: output) }
            }
            guard !hasEnded else { return nil }
            hasEnded = true
            return ByteBuffer(bytes: ArchiveFilter.ending)
        }

        /// What goes on of the next piece of an archive; may be nothing.
        private mutating func read(_ hash: String) async throws -> [UInt8] {
            let (part, offset) = (part, offset)
            let piece = try await context.queries.readContext(
                hash,
                of: context.job,
                part: part,
                from: offset,
                atMost: BuildContext.pieceBytes
            )
            guard let piece else {
                // Numbers have no gaps, so the first part that is not there is the end; but the first of all must be.
                if part == 1 { throw BuildFailure("the build context \(hash) is not here any more: upload it again") }
                try filter.endArchive()
                hashes.removeFirst()
                (self.part, self.offset) = (1, 0)
                return []
            }
            if piece.isEmpty { (self.part, self.offset) = (part + 1, 0) } else { self.offset = offset + piece.count }
            return try filter.take(piece)
        }
    }
}

/// Why a build failed for good, in words for whoever asked for it.
struct BuildFailure: Error, Hashable, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
