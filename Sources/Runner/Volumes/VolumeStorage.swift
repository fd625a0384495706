/// The S3 that holds volumes, and the rclone that mounts them: one bucket, one folder in it for each volume, named by its id.
package struct VolumeStorage: Sendable, Hashable {
    /// `https://s3.example.com`.
    package var endpoint: String
    package var region = "us-east-1"
    package var accessKey: String
    package var secretKey: String
    package var bucket = "martlet-volumes"
    /// Before the volume's id, such as `prod/`; empty or ending with a slash.
    package var prefix = ""
    /// Whose S3 it is, in rclone's words (`AWS`, `Minio`, `Ceph`, …): each has its quirks.
    package var provider = "Other"
    /// The program, 1.65 or newer.
    package var rclone: String
    /// What a volume's cache on this host is kept below. What is not in S3 yet is never thrown away, so it may grow past it.
    package var cacheLimitBytes: Int64 = 10 << 30
    /// Caches shrink while the disk that they are on has less than this, and grow no more while it has less than half: see
    /// ``VolumeBrake``.
    package var freeBytesWanted: Int64 = 2 << 30

    package init(endpoint: String, accessKey: String, secretKey: String, rclone: String) {
        self.endpoint = endpoint
        self.accessKey = accessKey
        self.secretKey = secretKey
        self.rclone = rclone
    }

    /// rclone's configuration. A file, and not variables, because rclone names its cache after what variables say, and a cache
    /// must be found again when the keys have changed.
    func configuration() throws -> String {
        var lines = [
            ("type", "s3"), ("provider", provider), ("endpoint", endpoint), ("region", region),
            ("access_key_id", accessKey), ("secret_access_key", secretKey), ("force_path_style", "true"),
        ]
        // The server of rclone keeps the parts of an upload in memory, all at once.
        if provider == Self.embeddedProvider { lines.append(("use_multipart_uploads", "false")) }
        for (name, value) in lines where value.isEmpty || value.contains(where: \.isNewline) {
            throw RunnerError(.misconfigured, "the S3 setting \(name) is empty or holds a line break; see MARTLET_S3_…")
        }
        return "[\(Self.remote)]\n" + lines.map { "\($0) = \($1)\n" }.joined()
    }

    /// The provider of `rclone serve s3`.
    package static let embeddedProvider = "Rclone"
    static let remote = "volumes"
}
