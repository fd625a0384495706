/// Limits of recordings. A daemon's are fixed; tests have smaller ones.
package struct RecordingLimits: Sendable {
    /// Bytes of one recording's file; what its terminal shows beyond is not recorded.
    package var recordingBytes = 16 << 20
    /// Bytes of all files together: the oldest recordings that have ended go first.
    package var totalBytes = 256 << 20
    /// Recordings, those that go on included; likewise.
    package var count = 500

    package init() {}

    /// Encoded output that waits for the disk; what comes while there is so much is missing in the recording.
    static let bufferBytes = 256 << 10
    /// Output in one event.
    static let pieceBytes = 32 << 10
    /// Files that are looked at in the directory.
    static let files = 10_000
    /// Kept free in each file, for what says how the recording ended.
    static let endBytes = 512
    /// A text of a file's head or of a marker.
    static let textBytes = 256
    /// Read of an earlier daemon's recording for its first line, which is shorter than this;
    static let headerBytes = 16 << 10
    /// and for its last one. Holds the longest event.
    static let lineBytes = 256 << 10
    /// Time that recordings have to reach the disk when the daemon stops.
    static let stopping = Duration.seconds(1)
}
