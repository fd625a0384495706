import Docker
import Domain
import FoundationEssentials
@testable import Runner
import Store
import Testing

@testable import struct Docker.PullProgress

/// What is decided without an engine: the fate of failures, and what the cache lets go of.
@Suite struct SnapshotPlanTests {
    @Test(arguments: [DockerError.Kind.badRequest, .unauthorized, .notFound])
    func whatTheRegistryWouldSayAgainIsFinal(kind: DockerError.Kind) {
        let error = DockerError(operation: "pull", kind: kind, message: "x")
        #expect(judgeSnapshotFailure(error, step: .pull, failures: 0) == .final)
        #expect(judgeSnapshotFailure(error, step: .push, failures: 0) != .final, "our own registry will be put right")
    }

    @Test func aUsersRegistryThatIsAwayIsTriedAFewTimes() {
        let error = DockerError(
            operation: "pull",
            kind: .server,
            status: 500,
            message: "dial tcp 192.0.2.1:443: connect: connection refused"
        )
        let fates = (0..<5).map { judgeSnapshotFailure(error, step: .pull, failures: $0) }
        #expect(fates.firstIndex(of: .final) == strangersTriesLimit - 1)
        #expect(fates.prefix(2).allSatisfy { if case .retry(let pause) = $0 { pause <= .seconds(4) } else { false } })
    }

    /// As skopeo 1.9 of Debian 12 prints it.
    @Test(arguments: [
        (
            #"time="2026-11-26T07:59:06Z" level=fatal msg="Error parsing image name \"docker://r.example/a:1\": pinging container registry r.example: Get \"https://r.example/v2/\": x509: certificate signed by unknown authority""#,
            "pinging container registry r.example: Get 'https://r.example/v2/': x509: certificate signed by unknown authority",
            DockerError.Kind.server
        ),
        (
            "a warning\n"
                + #"time="2026-11-26T07:59:06Z" level=fatal msg="Error parsing image name \"docker://r/a:1\": reading manifest 1 in r/a: manifest unknown""#,
            "reading manifest 1 in r/a: manifest unknown", .notFound
        ),
        (
            #"time="2026-11-26T07:59:06Z" level=fatal msg="initializing source docker://r/a:1: reading manifest 1 in r/a: unauthorized: authentication required""#,
            "reading manifest 1 in r/a: unauthorized: authentication required", .unauthorized
        ),
        ("", "it said nothing", .server),
    ])
    func whatSkopeoSaysIsTheRegistrysWord(output: String, words: String, kind: DockerError.Kind) {
        #expect(Skopeo.gist(output) == words)
        #expect(DockerError.saidByRegistry(operation: "pull", message: Skopeo.gist(output)).kind == kind)
    }

    /// It is for whoever may read it there, and not for whoever asked us to.
    @Test func whatARegistryAnswersBesideIsNotRepeated() {
        let line =
            #"time="…" level=fatal msg="pinging container registry r: StatusCode: 403, <html>inner secret</html>""#
        #expect(Skopeo.gist(line) == "pinging container registry r: StatusCode: 403")
    }

    @Test func whatIsAskedForByDigestIsThat() throws {
        let digest = try Skopeo.digest(of: "{}", askedAs: "r.example/a:1")
        #expect(digest == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")
        #expect(try Skopeo.digest(of: "{}", askedAs: "r.example/a@\(digest)") == digest)
        #expect(throws: UnusableImage.self) { try Skopeo.digest(of: "{ }", askedAs: "r.example/a@\(digest)") }
    }

    @Test func whatIsOursIsWaitedFor() {
        for kind in [DockerError.Kind.unavailable, .timeout] {
            for step in SnapshotStep.allCases {
                #expect(
                    judgeSnapshotFailure(
                        DockerError(operation: "x", kind: kind, message: "x"),
                        step: step,
                        failures: 100
                    ) == .retry(after: .seconds(30))
                )
            }
        }
        let push = DockerError(operation: "push", kind: .server, message: "connection refused")
        #expect(judgeSnapshotFailure(push, step: .push, failures: 100) == .retry(after: .seconds(30)))
        #expect(judgeSnapshotFailure(UnusableImage(description: "too large"), step: .inspect, failures: 0) == .final)
        #expect(judgeSnapshotFailure(SecretBox.Failure(description: "no key"), step: .pull, failures: 0) == .final)
        let full = DockerError(operation: "pull", kind: .noSpace, message: "no space left on device")
        #expect(judgeSnapshotFailure(full, step: .pull, failures: 0) != .final, "another runner may have room")
        #expect(judgeSnapshotFailure(full, step: .pull, failures: 9) == .final)
    }

    /// Whoever counts the failures of each in a row lets none use up another's tries.
    @Test func failuresAreCountedByWhoseTheyAre() {
        func cause(_ kind: DockerError.Kind, _ step: SnapshotStep) -> SnapshotFailureCause {
            SnapshotFailureCause(DockerError(operation: "x", kind: kind, message: "x"), step: step)
        }
        for step in SnapshotStep.allCases {
            #expect(cause(.unavailable, step) == .ours)
            #expect(cause(.noSpace, step) == .disk)
            #expect(cause(.server, step) == (step == .pull ? .theirs : .ours))
        }
        #expect(SnapshotFailureCause(UnusableImage(description: "too large"), step: .pull) == .theirs)
        #expect(SnapshotFailureCause(CancellationError(), step: .pull) == .ours)
    }

    @Test func aFullDiskIsToldWithNumbers() {
        let full = DockerError(operation: "pull", kind: .noSpace, message: "write /a: no space left on device")
        let usage = DiskUsage(path: "/var/lib/docker", usedBytes: 63 << 30, freeBytes: 1 << 30)
        let reason = snapshotReason(full, step: .pull, image: "a:1", lines: [], disk: usage)
        #expect(reason.contains("disk is full (/var/lib/docker is 98 % full, 1024 of 65536 MiB are free)"), "\(reason)")
        #expect(usage.excessBytes(above: 75) == (63 << 30) - (64 << 30) / 100 * 75)
        #expect(usage.excessBytes(above: 99) == 0)
    }

    /// What a killed runner's build had made and not told yet hangs on what it had told.
    @Test func whatWasMadeUponStepsIsFound() throws {
        func image(_ id: String, upon parent: String, tags: String = "null") throws -> ImageSummary {
            let text =
                #"{"Id": "sha256:\#(id)", "ParentId": "\#(parent)", "RepoTags": \#(tags), "Size": 1, "Created": 1}"#
            return try JSONDecoder().decode(ImageSummary.self, from: Data(text.utf8))
        }
        let images = try [
            image("aaaa1", upon: ""), image("bbbb1", upon: "sha256:aaaa1"), image("cccc1", upon: "sha256:bbbb1"),
            image("dddd1", upon: "sha256:cccc1"), image("eeee1", upon: "sha256:aaaa1", tags: #"["a:1"]"#),
            image("ffff1", upon: "", tags: #"["<none>:<none>"]"#),
        ]
        #expect(BuildRemains.children(of: ["bbbb"], among: images) == ["sha256:cccc1", "sha256:dddd1"])
        #expect(BuildRemains.children(of: ["dddd", "none"], among: images).isEmpty)
        #expect(BuildRemains.children(of: [], among: images).isEmpty)
        #expect(BuildRemains.somebodys(among: images) == ["sha256:aaaa1", "sha256:eeee1"])
    }

    // MARK: - Cache

    /// Whatever there is: nothing in use goes, nothing goes twice, and what is wanted goes only to make room, oldest first.
    @Test func theCacheNeverLetsGoOfWhatIsUsed() {
        var random = SeededRandom.fromEnvironment()
        for _ in 0..<500 {
            let images = (0..<Int.random(in: 0...12, using: &random)).map { index in
                CachedImage(
                    id: "\(index)",
                    references: ["r/\(index)"],
                    sizeBytes: .random(in: 0...9, using: &random),
                    lastUsed: Bool.random(using: &random)
                        ? Date(timeIntervalSince1970: .random(in: 0...9, using: &random)) : nil,
                    isInUse: Bool.random(using: &random),
                    unwantedFor: .seconds(Int.random(in: 0...20, using: &random))
                )
            }
            let excess = Int64.random(in: -10...30, using: &random)
            let plan = planEvictions(images, grace: .seconds(10), excessBytes: excess)
            let all = plan.unwanted + plan.forRoom
            #expect(all.allSatisfy { !$0.isInUse }, "seed \(random.seed)")
            #expect(Set(all.map(\.id)).count == all.count, "seed \(random.seed)")
            #expect(
                plan.unwanted.allSatisfy { $0.lastUsed == nil && $0.unwantedFor >= .seconds(10) },
                "seed \(random.seed)"
            )
            let given = plan.forRoom.map(\.sizeBytes)
            #expect(given.dropLast().reduce(0, +) < max(excess, 1), "no more than is needed, seed \(random.seed)")
            #expect(excess > 0 || plan.forRoom.isEmpty, "seed \(random.seed)")
            let ages = plan.forRoom.map { $0.lastUsed ?? .distantPast }
            #expect(ages == ages.sorted(), "seed \(random.seed)")
            let isAllGone = all.count == images.count { !$0.isInUse }
            #expect(isAllGone || given.reduce(0, +) >= excess, "enough, or all that there is, seed \(random.seed)")
        }
    }

    // MARK: - Progress

    @Test func aTransferIsAddedUpLayerByLayer() {
        let meter = PullMeter()
        func say(_ status: String, _ layer: String? = nil, _ current: Int64? = nil, _ total: Int64? = nil) {
            meter.note(PullProgress(status: status, layerID: layer, currentBytes: current, totalBytes: total))
        }
        say("Pulling from library/a", "1.0")
        say("Downloading", "a", 10, 100)
        say("Downloading", "b", 50, 50)
        say("Downloading", "a", 60, 100)
        #expect(meter.progress == TransferProgress(doneBytes: 110, totalBytes: 150))
        say("Download complete", "a")
        say("Extracting", "a", 1, 400)
        #expect(meter.progress == TransferProgress(doneBytes: 150, totalBytes: 150), "unpacking counts nothing anew")
        for index in 0..<50 { say("line \(index)\u{1b}[31m") }
        #expect(meter.lastLines.count == 5)
        #expect(meter.lastLines.last == "line 49 [31m")
    }

    @Test func namesInTheInternalRegistryAreTheRows() throws {
        let access = try RegistryAccess(url: "http://127.0.0.1:5000", username: "u", password: "hidden-word")
        #expect(
            access.internalName(of: "127.0.0.1:5000/snapshots/x@sha256:1")
                == "registry.martlet.internal/snapshots/x@sha256:1"
        )
        #expect(access.internalName(of: "127.0.0.1:50001/x@sha256:1") == nil)
        #expect(!"\(access)".contains("hidden"))
        for bad in ["127.0.0.1:5000", "ftp://x", "http://", "http://a/b", "http://u:p@a"] {
            #expect(throws: RunnerError.self, "\(bad)") { try RegistryAccess(url: bad, username: "", password: "") }
        }
    }

    /// Whoever waits for a capture cannot stop his sandbox meanwhile.
    @Test func whatHoldsASandboxUpIsNotTriedForEver() {
        let away = DockerError(operation: "push", kind: .unavailable, message: "away")
        for failures in 0..<20 {
            let isLast = failures >= heldUpTriesLimit - 1
            for purpose in CapturePurpose.allCases {
                let fate = judgeCaptureFailure(away, step: .push, failures: failures, for: purpose)
                #expect((fate == .final) == (isLast && purpose != .backup), "\(purpose) \(failures)")
            }
        }
        #expect(
            judgeCaptureFailure(CaptureRefused("too large"), step: .read, failures: 0, for: .backup) == .final
        )
    }

    /// A container that is not there is not waited for as a registry is: an archive would look stuck.
    @Test func whatIsNotThereIsAskedForAFewTimes() {
        let errors: [any Error] = [
            CaptureTrouble("no container", .doubtful),
            DockerError(operation: "pause", kind: .notFound, message: "no such container"),
        ]
        for error in errors {
            for purpose in CapturePurpose.allCases {
                let fates = (0..<5).map { judgeCaptureFailure(error, step: .read, failures: $0, for: purpose) }
                #expect(fates.firstIndex(of: .final) == strangersTriesLimit - 1)
            }
        }
        #expect(judgeCaptureFailure(errors[1], step: .push, failures: 9, for: .backup) != .final, "our own registry")
    }

    /// Each try would fill the disk again.
    @Test func aFullDiskIsTriedSeldom() throws {
        let errors: [any Error] = [
            try #require(throws: CaptureTrouble.self) { try CaptureRoom.judge("/", before: .max / 4) },
            DockerError(operation: "make an image", kind: .noSpace, message: "3 MiB are free"),
        ]
        for full in errors {
            #expect(SnapshotFailureCause(full, step: .read) == .disk, "the cache is asked for room")
            #expect(judgeCaptureFailure(full, step: .read, failures: 9, for: .backup) == .retry(after: lastingPause))
            let owners = judgeCaptureFailure(full, step: .read, failures: 2, for: .snapshot)
            #expect(owners == .final, "somebody waits for it")
        }
    }
}

/// Random numbers that can be had again: the seed is printed by what fails, and taken from SEED.
struct SeededRandom: RandomNumberGenerator {
    let seed: UInt64
    private var state: UInt64

    static func fromEnvironment() -> SeededRandom {
        SeededRandom(ProcessInfo.processInfo.environment["SEED"].flatMap(UInt64.init) ?? .random(in: 0 ... .max))
    }

    init(_ seed: UInt64) { (self.seed, state) = (seed, seed) }

    /// SplitMix64.
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }
}
