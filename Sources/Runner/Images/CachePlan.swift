package import FoundationEssentials

/// An image of the internal registry that is on this host, for the plan of the cache.
package struct CachedImage: Sendable, Hashable {
    /// The engine's id.
    package var id: String
    /// Every name of it in the internal registry, as the engine knows them.
    package var references: [String]
    /// With what it shares with others.
    package var sizeBytes: Int64
    /// When a sandbox was last made from it; nil if neither an active snapshot nor a sandbox here is for it.
    package var lastUsed: Date?
    /// Whether a container of this engine is of it.
    package var isInUse: Bool
    /// For how long nothing has been for it.
    package var unwantedFor: Duration
    /// The id of the image that it is a twin of (``PlainImages``), with which it shares all layers.
    package var original: String?

    package init(
        id: String,
        references: [String],
        sizeBytes: Int64,
        lastUsed: Date?,
        isInUse: Bool,
        unwantedFor: Duration = .zero,
        original: String? = nil
    ) {
        self.id = id
        self.references = references
        self.sizeBytes = sizeBytes
        self.lastUsed = lastUsed
        self.isInUse = isInUse
        self.unwantedFor = unwantedFor
        self.original = original
    }
}

/// What the cache lets go of, in this order.
package struct Evictions: Sendable, Hashable {
    /// Nothing is for them any more.
    package var unwanted: [CachedImage] = []
    /// They may be needed again, and go because the disk is too full.
    package var forRoom: [CachedImage] = []

    package init() {}
}

/// Decides what may go. What a container is of never does. A twin whose original is here stays and goes with it: neither alone
/// gives any room.
///
/// - Parameter excessBytes: by how much the disk is too full. A file system frees what is removed later, some much later, so what
///   an image may have given is believed until the next plan: or all would go while the disk stays as full as it is.
package func planEvictions(_ images: [CachedImage], grace: Duration, excessBytes: Int64) -> Evictions {
    var evictions = Evictions()
    let idle = joiningTwins(images).filter { !$0.isInUse }
    evictions.unwanted = idle.filter { $0.lastUsed == nil && $0.unwantedFor >= grace }
    let rest = idle.filter { $0.lastUsed != nil || $0.unwantedFor < grace }
    var excess = excessBytes
    for image in rest.sorted(by: { ($0.lastUsed ?? .distantPast, $0.id) < ($1.lastUsed ?? .distantPast, $1.id) }) {
        guard excess > 0 else { break }
        evictions.forRoom.append(image)
        excess -= image.sizeBytes
    }
    return evictions
}

private func joiningTwins(_ images: [CachedImage]) -> [CachedImage] {
    let here = Set(images.map(\.id))
    let isJoined = { (image: CachedImage) in image.original.map { $0 != image.id && here.contains($0) } ?? false }
    let twins = Dictionary(grouping: images.filter(isJoined), by: \.original)
    return images.filter { !isJoined($0) }.map { image in
        var joined = image
        for twin in twins[image.id] ?? [] {
            joined.references = twin.references + joined.references
            joined.isInUse = joined.isInUse || twin.isInUse
        }
        return joined
    }
}
