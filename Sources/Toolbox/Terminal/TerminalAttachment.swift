package import NIOCore
import Synchronization

/// What a client of a terminal is told.
package enum TerminalEvent: Sendable, Equatable {
    case output(ByteBuffer)
    /// The client was too slow: so many bytes are lost to it, and the next output follows after them.
    case missed(Int)
    /// Nothing follows.
    case ended(TerminalEnd)
}

/// One client's view of a terminal: first what is kept of the output, then what comes, then the end. For one task at a time.
package final class TerminalAttachment: Sendable {
    package let session: TerminalSession
    private let key: Int

    init(session: TerminalSession, key: Int) {
        self.session = session
        self.key = key
    }

    deinit { detach() }

    /// Leaves the terminal, which goes on. `next` answers nil from now on.
    package func detach() {
        let waiter = session.state.withLock { $0.readers.removeValue(forKey: key)?.waiter }
        waiter?.resume()
        session.wakeProducer()
    }

    /// The next event; nil after the end, after `detach`, and if the task is cancelled while there is nothing to tell.
    package func next() async -> TerminalEvent? {
        while true {
            switch session.state.withLock({ $0.take(key) }) {
            case .event(let event):
                session.wakeProducer()
                return event
            case .nothing: return nil
            case .wait:
                if Task.isCancelled { return nil }
                await waitForMore()
            }
        }
    }

    private func waitForMore() async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let waits = session.state.withLock { state in
                    guard state.mustWait(key), !Task.isCancelled else { return false }
                    state.readers[key]?.waiter = continuation
                    return true
                }
                if !waits { continuation.resume() }
            }
        } onCancel: {
            let waiter = session.state.withLock { state in
                defer { state.readers[key]?.waiter = nil }
                return state.readers[key]?.waiter
            }
            waiter?.resume()
        }
    }
}

extension TerminalSession.State {
    fileprivate enum Taking {
        case event(TerminalEvent)
        case wait
        case nothing
    }

    fileprivate func mustWait(_ key: Int) -> Bool {
        guard let reader = readers[key], reader.position == history.end else { return false }
        if case .ended = phase { return false }
        return true
    }

    fileprivate mutating func take(_ key: Int) -> Taking {
        guard var reader = readers[key] else { return .nothing }
        if reader.position < history.start {
            let missed = history.start - reader.position
            reader.position = history.start
            readers[key] = reader
            return .event(.missed(missed))
        }
        let piece = history.read(from: reader.position, atMost: TerminalLimit.pieceBytes)
        if piece.readableBytes > 0 {
            reader.position += piece.readableBytes
            if reader.position == history.end { reader.isLeftBehind = false }
            readers[key] = reader
            return .event(.output(piece))
        }
        guard case .ended(let end) = phase else { return .wait }
        readers[key] = nil
        return .event(.ended(end))
    }
}
