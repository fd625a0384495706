// swift-tools-version: 6.2
import PackageDescription

/// Every target of ours is compiled alike: Swift 6 mode, no warning survives.
let ours: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
]

func library(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(
        name: name,
        dependencies: dependencies,
        exclude: (explained.contains(name) ? ["README.md"] : []) + (explainedFolders[name] ?? []),
        swiftSettings: ours
    )
}

/// Rooms that have a README of their own.
let explained: Set<String> = ["Firewall", "Reconciling", "Runner", "SSHGateway", "Toolbox", "WebSockets"]

/// READMEs of hard folders within rooms.
let explainedFolders = ["Toolbox": ["Interpreter/README.md", "SSH/README.md", "Sessions/README.md"]]

func executable(
    _ name: String,
    _ dependencies: [Target.Dependency],
    linker: [LinkerSetting] = []
) -> Target {
    .executableTarget(name: name, dependencies: dependencies, swiftSettings: ours, linkerSettings: linker)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: dependencies, swiftSettings: ours)
}

extension Target.Dependency {
    static let argumentParser = product(name: "ArgumentParser", package: "swift-argument-parser")
    static let asyncHTTPClient = product(name: "AsyncHTTPClient", package: "async-http-client")
    static let crypto = product(name: "Crypto", package: "swift-crypto")
    static let httpTypes = product(name: "HTTPTypes", package: "swift-http-types")
    static let hummingbird = product(name: "Hummingbird", package: "hummingbird")
    static let hummingbirdCore = product(name: "HummingbirdCore", package: "hummingbird")
    static let hummingbirdTLS = product(name: "HummingbirdTLS", package: "hummingbird")
    static let logging = product(name: "Logging", package: "swift-log")
    static let nioCore = product(name: "NIOCore", package: "swift-nio")
    static let nioEmbedded = product(name: "NIOEmbedded", package: "swift-nio")
    static let nioFoundation = product(name: "NIOFoundationEssentialsCompat", package: "swift-nio")
    static let nioHTTP1 = product(name: "NIOHTTP1", package: "swift-nio")
    static let nioHTTPTypes = product(name: "NIOHTTPTypes", package: "swift-nio-extras")
    static let nioHTTPTypesHTTP1 = product(name: "NIOHTTPTypesHTTP1", package: "swift-nio-extras")
    static let nioPosix = product(name: "NIOPosix", package: "swift-nio")
    static let nioSSL = product(name: "NIOSSL", package: "swift-nio-ssl")
    static let nioWebSocket = product(name: "NIOWebSocket", package: "swift-nio")
    static let serviceLifecycle = product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
    static let swiftASN1 = product(name: "SwiftASN1", package: "swift-asn1")
    static let subprocess = product(name: "Subprocess", package: "swift-subprocess")
    static let unixSignals = product(name: "UnixSignals", package: "swift-service-lifecycle")
    static let x509 = product(name: "X509", package: "swift-certificates")
}

let targets: [Target] = [
    .systemLibrary(name: "CLibPQ", pkgConfig: "libpq", providers: [.apt(["libpq-dev"])]),
    .target(name: "CLinux"),
    .target(name: "CTerminalPage"),
    // Of the archives, so that all builds link what the static daemon does, and because the relay needs more of it than the
    // dynamic library shows. Debian's archive wants GSSAPI: see gssapi.c. Only what serves SSH may depend on it.
    .target(
        name: "CLibSSH",
        linkerSettings: [.linkedLibrary(":libssh.a"), .linkedLibrary("crypto"), .linkedLibrary("z")]
    ),

    library("Domain"),
    library("Reconciling", [.logging]),
    library("Postgres", ["CLibPQ", .logging]),
    library("Store", ["Domain", "Postgres", .crypto, .logging, .serviceLifecycle]),
    library("Docker", [.asyncHTTPClient, .logging, .nioCore, .nioFoundation, .nioHTTP1, .nioPosix]),
    library("Firewall", [.logging, .subprocess]),
    library(
        "WebSockets",
        [
            .httpTypes, .hummingbirdCore, .logging, .nioCore, .nioHTTP1, .nioHTTPTypes, .nioHTTPTypesHTTP1,
            .nioWebSocket,
        ]
    ),
    library("Limiting"),
    library("SSHServing", ["CLibSSH", "CLinux", .nioCore]),
    library("Tunnels", ["Domain", .crypto, .nioCore, .nioPosix, .nioSSL]),
    library(
        "Toolbox",
        [
            "CLibSSH", "CLinux", "CTerminalPage", "SSHServing", "WebSockets", .hummingbird, .hummingbirdCore,
            .httpTypes, .logging,
            .nioCore, .nioFoundation, .nioHTTPTypes, .nioPosix,
            .serviceLifecycle, .unixSignals,
        ]
    ),
    library(
        "API",
        [
            "Domain", "Limiting", "Postgres", "Store", .crypto, .hummingbird, .hummingbirdCore, .hummingbirdTLS,
            .httpTypes, .logging, .nioCore, .nioFoundation, .nioHTTPTypes, .nioSSL, .serviceLifecycle,
        ]
    ),
    library(
        "Runner",
        [
            "CLinux", "Docker", "Domain", "Firewall", "Postgres", "Reconciling", "Store", "Tunnels", .asyncHTTPClient,
            .crypto, .logging,
            .nioCore, .nioHTTP1, .nioPosix,
            .nioSSL, .serviceLifecycle, .subprocess, .swiftASN1, .x509,
        ]
    ),
    library(
        "Proxy",
        [
            "CLinux", "Domain", "Limiting", "Store", "Tunnels", .crypto, .logging, .nioCore, .nioFoundation, .nioHTTP1,
            .nioPosix, .nioSSL, .serviceLifecycle,
        ]
    ),
    library(
        "SSHGateway",
        [
            "CLibSSH", "Domain", "Limiting", "Proxy", "SSHServing", "Store", "Tunnels", .logging, .nioCore, .nioPosix,
            .nioSSL, .serviceLifecycle,
        ]
    ),

    executable(
        "martlet",
        [
            "API", "Docker", "Domain", "Firewall", "Postgres", "Proxy", "Runner", "SSHGateway", "SSHServing", "Store",
            .argumentParser,
            .asyncHTTPClient, .logging,
            .nioCore, .nioFoundation, .nioHTTP1, .serviceLifecycle, .unixSignals,
        ]
    ),
    executable(
        "martlet-daemon",
        ["Toolbox", .logging, .serviceLifecycle],
        // One file that runs in any image. Release builds are made with --static-swift-stdlib: see ops/build.
        linker: [.unsafeFlags(["-static-executable"], .when(configuration: .release))]
    ),

    .target(
        name: "TestSupport",
        dependencies: ["Domain", "Postgres", "Store", .logging],
        path: "Tests/TestSupport",
        swiftSettings: ours
    ),
    tests("DomainTests", ["Domain"]),
    tests("ReconcilingTests", ["Reconciling", .logging]),
    tests("PostgresTests", ["Postgres", .logging]),
    tests("StoreTests", ["Domain", "Postgres", "Store", "TestSupport", .logging]),
    tests("DockerTests", ["Docker", .logging, .nioCore, .nioHTTP1, .nioPosix]),
    tests("FirewallTests", ["Firewall", .logging, .subprocess]),
    tests(
        "ToolboxTests",
        [
            "CLibSSH", "SSHServing", "Toolbox", "WebSockets", .hummingbird, .hummingbirdCore, .logging, .nioCore,
            .nioHTTP1,
            .nioPosix,
            .serviceLifecycle,
        ]
    ),
    tests(
        "APITests",
        [
            "API", "Domain", "Postgres", "Store", "TestSupport", .asyncHTTPClient, .logging, .nioCore, .nioHTTP1,
            .nioPosix, .serviceLifecycle,
        ]
    ),
    tests(
        "RunnerTests",
        [
            "Docker", "Domain", "Firewall", "Postgres", "Reconciling", "Runner", "Store", "TestSupport", .logging,
            .nioCore,
            .nioPosix, .serviceLifecycle,
        ]
    ),
    tests(
        "ProxyTests",
        [
            "CLinux", "Domain", "Postgres", "Proxy", "Runner", "Store", "TestSupport", .crypto, .logging, .nioCore,
            .nioEmbedded,
            .nioHTTP1, .nioPosix, .nioSSL, .serviceLifecycle,
        ]
    ),
    tests(
        "SSHGatewayTests",
        [
            "CLibSSH", "Domain", "Limiting", "Postgres", "Proxy", "SSHGateway", "SSHServing", "Store", "TestSupport",
            .nioPosix, .serviceLifecycle, .subprocess,
        ]
    ),
    tests("MartletTests", ["martlet"]),
]

let package = Package(
    name: "martlet",
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-asn1", from: "1.7.0"),
        .package(url: "https://github.com/apple/swift-certificates", from: "1.21.1"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-extras", from: "1.34.1"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1", traits: []),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/swiftlang/swift-subprocess", from: "1.0.2", traits: []),
    ],
    targets: chosen(targets)
)

/// `MARTLET_ROOMS=Postgres,Store` builds and tests only these targets and what they need.
func chosen(_ targets: [Target]) -> [Target] {
    guard let rooms = Context.environment["MARTLET_ROOMS"], !rooms.isEmpty else { return targets }
    var wanted = Set(rooms.split(separator: ",").flatMap { [String($0), "\($0)Tests"] })
    var grew = true
    while grew {
        grew = false
        for target in targets where wanted.contains(target.name) {
            for case .byNameItem(let name, _) in target.dependencies where wanted.insert(name).inserted { grew = true }
        }
    }
    return targets.filter { wanted.contains($0.name) }
}
