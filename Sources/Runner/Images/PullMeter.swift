package import Docker
package import Store
import Synchronization

/// Adds up what the engine says of a transfer, layer by layer, and remembers its last lines.
package final class PullMeter: Sendable {
    private struct State {
        var layers: [String: TransferProgress] = [:]
        var lines: [String] = []
    }

    /// Layers that are counted; an image has at most 127.
    static let layersLimit = 512
    static let linesLimit = 5
    static let lineLimit = 160

    private let state = Mutex(State())

    package init() {}

    package func note(_ progress: PullProgress) {
        state.withLock { state in
            if let layer = progress.layerID, let current = progress.currentBytes, let total = progress.totalBytes,
                total > 0,
                // Unpacking counts anew what was loaded.
                progress.status == "Downloading" || progress.status == "Pushing",
                state.layers[layer] != nil || state.layers.count < Self.layersLimit
            {
                state.layers[layer] = TransferProgress(doneBytes: min(current, total), totalBytes: total)
            } else {
                remember(progress, &state)
            }
        }
    }

    private func remember(_ progress: PullProgress, _ state: inout State) {
        if let layer = progress.layerID, ["Download complete", "Pull complete", "Pushed"].contains(progress.status),
            let total = state.layers[layer]?.totalBytes
        {
            state.layers[layer]?.doneBytes = total
        }
        let line = String(((progress.layerID.map { "\($0): " } ?? "") + progress.status).prefix(Self.lineLimit))
        guard !line.isEmpty, line != state.lines.last else { return }
        state.lines.append(line)
        if state.lines.count > Self.linesLimit { state.lines.removeFirst() }
    }

    /// Of the layers that are known so far.
    package var progress: TransferProgress {
        state.withLock { state in
            state.layers.values.reduce(into: TransferProgress()) { sum, layer in
                sum.doneBytes += layer.doneBytes
                sum.totalBytes += layer.totalBytes
            }
        }
    }

    /// The last things the engine said, oldest first, without control characters.
    package var lastLines: [String] {
        state.withLock { $0.lines }.map { line in
            String(String.UnicodeScalarView(line.unicodeScalars.map { $0.value < 32 || $0.value == 127 ? " " : $0 }))
        }
    }
}
