import Docker
import Domain
import FoundationEssentials
import NIOCore
import Reconciling
import Store
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#endif

@testable import Runner

/// Images that declare volumes are run as if they did not, whose paths are folders of the sandbox.
@Suite(.timeLimit(.minutes(3))) struct PlainImageTests {
    // MARK: - What is decided

    @Test func onlyVolumesAreLeftOut() throws {
        let before = #"""
            {"architecture":"amd64","config":{"Env":["A=\"é/\u0001"],"Healthcheck":{"Interval":1500000000},"Labels":{"l":"1"},\#
            "StopTimeout":9223372036854775807,"Unknown":[1.5,null,true,{}],"Volumes":{"/a":{},"/b":{}}},"container_config":{\#
            "Volumes":{"/a":{}}},"history":[{"created_by":"VOLUME /a","empty_layer":true}],"os.features":["x"],"rootfs":{\#
            "diff_ids":["sha256:1"],"type":"layers"},"variant":"v"}
            """#
        let after = String(decoding: try PlainImages.withoutVolumes(Data(before.utf8)), as: UTF8.self)
        #expect(after == before.replacing(#","Volumes":{"/a":{},"/b":{}}"#, with: ""))
        #expect(try PlainImages.withoutVolumes(Data(after.utf8)) == Data(after.utf8), "once is enough")
    }

    /// As it reads names of members.
    @Test(arguments: ["volumes", "VOLUMES", "volume\u{17F}"]) func whatTheEngineTakesForVolumesIsLeftOut(name: String)
        throws
    {
        let before = #"{"Config":{"\#(name)":{"/a":{}},"User":"u"},"config":{"\#(name)":{"/b":{}}}}"#
        let after = String(decoding: try PlainImages.withoutVolumes(Data(before.utf8)), as: UTF8.self)
        #expect(after == #"{"Config":{"User":"u"},"config":{}}"#)
    }

    @Test func aTwinsNameSaysWhoseItIs() {
        let name = PlainImages.name(ofTwinOf: "sha256:12ab", at: "127.0.0.1:5000")
        #expect(PlainImages.original(ofTwin: name, at: "127.0.0.1:5000") == "sha256:12ab")
        #expect(PlainImages.original(ofTwin: "127.0.0.1:5000/snapshots/x:i1", at: "127.0.0.1:5000") == nil)
    }

    @Test func foldersAreCleanAndBounded() throws {
        let folders = try ImageFolders(["/a//b/", "c/./d", "/x/../../y", "/"])
        #expect(folders.paths == [["a", "b"], ["c", "d"], ["y"], []])
        #expect(ImageFolders(label: folders.label) == folders)
        for label in [nil, "", "[", "{}"] { #expect(ImageFolders(label: label).paths.isEmpty) }
        let most = (0..<ImageFolders.countLimit).map { "/\($0)" }
        #expect(try ImageFolders(most).paths.count == most.count)
        let deep = String(repeating: "/a", count: ImageFolders.depthLimit)
        for bad in [most + ["/more"], [deep + "/b"], ["/" + String(repeating: "a", count: 1024)], ["/a\u{0}"]] {
            #expect(throws: RunnerError.self) { try ImageFolders(bad) }
        }
        #expect(try ImageFolders([deep]).paths.count == 1)
    }

    /// A twin has the same layers: to remove one of the two gives no room.
    @Test func aTwinGoesWithItsOriginal() {
        func image(_ id: String, of original: String? = nil, isInUse: Bool = false) -> CachedImage {
            CachedImage(
                id: id,
                references: ["r/\(id)"],
                sizeBytes: 5,
                lastUsed: original == nil ? .distantPast : nil,
                isInUse: isInUse,
                unwantedFor: original == nil ? .zero : .seconds(100),
                original: original
            )
        }
        func plan(_ images: [CachedImage]) -> Evictions { planEvictions(images, grace: .seconds(10), excessBytes: 1) }
        #expect(plan([image("t", of: "o", isInUse: true), image("o")]) == Evictions(), "a container is of the twin")
        let both = plan([image("o"), image("t", of: "o")])
        #expect(both.unwanted.isEmpty, "the original is wanted")
        #expect(both.forRoom.map(\.references) == [["r/t", "r/o"]])
        #expect(plan([image("t", of: "away")]).unwanted.map(\.id) == ["t"])
        #expect(plan([image("t", of: "away", isInUse: true)]) == Evictions())
    }

    // MARK: - What is done

    /// The engine keeps nothing of the sandbox outside, though its runner dies between any two steps.
    @Test(arguments: ["after-ensure-image", "after-create-container", "folders-made"])
    func anImagesVolumesAreFoldersOfTheSandbox(fault: String) async throws {
        try await TestHost.with { host in
            try await host.withParts { parts in
                let image = try await importImage(host)
                let tenant = try await host.database.makeTenant(image: image)
                let id = try await host.database.makeSandbox(of: tenant).id
                try await pass(SandboxReconciler(parts), id, fault: fault)
                #expect(try await host.sandbox(id)?.state == .started)
                let container = try await host.container(id)
                #expect(container.volumePoints.isEmpty)
                #expect(container.labels["martlet.test"] == "\(image)", "its configuration is the image's")
                for path in ["/kept", "/missing", "/missing/deep", "/real/below"] {
                    let found = try #require(try await host.engine.inspectPath(path, of: container.id), "\(path)")
                    #expect(found.linkTarget == nil)
                }
                #expect(try await host.engine.inspectPath("/link", of: container.id)?.linkTarget == "/real")
                let modes = try statuses(of: container, ["kept", "missing", "missing/deep", "real", "real/below"])
                #expect(modes == ["1711 5:6", "755 0:0", "755 0:0", "700 7:7", "755 0:0"])

                try await host.want(id, .destroyed)
                _ = try await SandboxReconciler(parts).reconcile(id)
                try await host.waitUntilGone(id)
                let original = try await host.engine.inspectImage(image)
                #expect(original.volumes.count == 3)
                try await host.engine.removeImage(
                    PlainImages.name(ofTwinOf: original.id, at: parts.registry?.host ?? InternalImage.host)
                )
                try await host.engine.removeImage(image)
            }
        }
    }

    private func importImage(_ host: TestHost) async throws -> String {
        func entry(
            _ path: String,
            _ kind: LayerEntry.Kind,
            _ mode: UInt32,
            _ owner: (UInt32, UInt32),
            _ link: String = ""
        ) -> [UInt8] {
            var entry = LayerEntry(path: Array(path.utf8), kind: kind, mode: mode)
            (entry.user, entry.group, entry.link) = (owner.0, owner.1, Array(link.utf8))
            return entry.header
        }
        let tar = ByteBuffer(
            bytes: entry("kept/", .directory, 0o1711, (5, 6)) + entry("real/", .directory, 0o700, (7, 7))
                + entry("link", .symbolicLink, 0o777, (0, 0), "real") + LayerEntry.end
        )
        let name = "martlet-test/plain-\(UInt64.random(in: 0 ... .max))"
        _ = try await host.engine.importImage(
            tar: tar,
            repository: name,
            tag: "1",
            changes: ["VOLUME /kept /missing/deep /link/below", "LABEL martlet.test=\(name):1"]
        )
        return "\(name):1"
    }

    private func pass(_ reconciler: SandboxReconciler, _ id: SandboxID, fault: String) async throws {
        let plan = FaultPoint.Plan([FaultPoint.Fault(name: fault, action: .raise, passage: 1)])
        await #expect(throws: FaultPoint.Raised.self, "\(fault) was never reached") {
            try await FaultPoint.$plan.withValue(plan) { _ = try await reconciler.reconcile(id) }
        }
        for _ in 0..<20 { if case .settled = try await reconciler.reconcile(id) { return } }
        Issue.record("no pass settles after \(fault)")
    }

    /// As the host sees them.
    private func statuses(of container: ContainerInspection, _ paths: [String]) throws -> [String] {
        try paths.map { path in
            var found = stat()
            guard lstat("/proc/\(container.state.processID)/root/\(path)", &found) == 0 else {
                throw Unexpected("\(path) is not there")
            }
            return "\(String(found.st_mode & 0o7777, radix: 8)) \(found.st_uid):\(found.st_gid)"
        }
    }
}
