package import Domain

/// What the rows say about a volume on this host.
package struct VolumeDesired: Sendable, Hashable {
    package enum Demand: Sendable, Hashable {
        /// Some sandbox here runs with it, or is about to.
        case used
        /// None does. It is kept for `rest` longer; nil while that was not written down.
        case unused(rest: Duration?)
        /// It is deleted, or was never there: nothing of it may stay.
        case gone
    }

    package var demand: Demand
    /// What must be shown in containers that run.
    package var shown: [VolumeView] = []
    /// Slots that may be in use, whether or not their containers run by now.
    package var allowed: Set<VolumeSlot> = []
    package var reported: VolumeMountState?

    package init(_ demand: Demand) { self.demand = demand }
}

/// A part of a volume, and the slot where it is shown.
package struct VolumeView: Sendable, Hashable {
    package var slot: VolumeSlot
    package var subpath: String?

    package init(slot: VolumeSlot, subpath: String? = nil) {
        self.slot = slot
        self.subpath = subpath
    }
}

/// What is on this host of a volume, as one look found it.
package struct VolumeObserved: Sendable, Hashable {
    package enum Mount: Sendable, Hashable {
        case absent
        /// It is there, but nothing answers: its process is gone, or it hangs.
        case stale
        case alive
    }

    package enum Remains: Sendable, Hashable {
        case none
        /// A folder, and in it nothing that is not in S3.
        case clean
        /// Something was written that is not in S3 yet.
        case unsaved
    }

    package var mount = Mount.absent
    /// A process of rclone works for it.
    package var isServed = false
    /// The slots that show it.
    package var slots: Set<VolumeSlot> = []
    package var remains = Remains.none

    package init() {}
}

/// One thing to do for a volume; each may be repeated after a crash at any point.
package enum VolumeAction: Sendable, Hashable {
    /// Writes how the mount stands; before it is made, so that no mount is without a row.
    case report(VolumeMountState)
    /// Takes it away from containers. What they had open there fails.
    case hide(Set<VolumeSlot>)
    /// Takes a mount away that does not work, and ends its process. Its cache stays.
    case clearMount
    /// Starts rclone; it answers afterwards.
    case mount
    case show([VolumeView])
    /// Takes a mount away that works. Refused while something is not in S3.
    case unmount
    /// Removes the folder with the cache; with what is not in S3 only if `evenUnsaved`.
    case removeFolder(evenUnsaved: Bool)
    /// Removes what is in S3 once more: a late upload may have come after the removal by another.
    case purge
    /// Nothing is left here: the row goes.
    case forget
}

package struct VolumePlan: Sendable, Hashable {
    package var actions: [VolumeAction] = []
    package var recheck: Duration?

    package init() {}
}

/// Decides what to do for a volume. Pure and total.
///
/// What it guarantees, whatever was found: nothing is mounted of what is gone; what was written is thrown away only of what is
/// gone; a mount that containers use is taken away only when it does not work.
package func planVolume(desired: VolumeDesired, observed: VolumeObserved) -> VolumePlan {
    var plan = VolumePlan()
    switch desired.demand {
    case .used: planMounted(desired, observed, &plan)
    case .unused(let rest): planUnused(rest, desired, observed, &plan)
    case .gone: planGone(desired, observed, &plan)
    }
    return plan
}

private func planMounted(_ desired: VolumeDesired, _ observed: VolumeObserved, _ plan: inout VolumePlan) {
    if observed.mount == .alive {
        let unshown = desired.shown.filter { !observed.slots.contains($0.slot) }
        plan.hide(observed.slots.subtracting(desired.allowed))
        if !unshown.isEmpty { plan.actions.append(.show(unshown)) }
        if desired.reported != .mounted { plan.actions.append(.report(.mounted)) }
    } else {
        plan.mountAnew(desired, observed)
        if !desired.shown.isEmpty { plan.actions.append(.show(desired.shown)) }
        plan.actions.append(.report(.mounted))
    }
}

private func planUnused(
    _ rest: Duration?,
    _ desired: VolumeDesired,
    _ observed: VolumeObserved,
    _ plan: inout VolumePlan
) {
    switch observed.mount {
    case .alive:
        plan.hide(observed.slots.subtracting(desired.allowed))
        guard let rest else {
            plan.actions.append(.report(.idle))
            plan.recheck = .zero
            return
        }
        if rest > .zero {
            plan.recheck = rest
        } else {
            plan.actions += [.unmount, .removeFolder(evenUnsaved: false), .forget]
        }
    case .stale, .absent:
        // What is not in S3 yet gets there through a mount only.
        if observed.remains == .unsaved {
            plan.mountAnew(desired, observed)
            plan.actions.append(.report(.idle))
            plan.recheck = .zero
            return
        }
        plan.clear(observed)
        plan.end(desired, observed, evenUnsaved: false)
    }
}

private func planGone(_ desired: VolumeDesired, _ observed: VolumeObserved, _ plan: inout VolumePlan) {
    plan.clear(observed)
    if desired.reported != nil, observed.remains != .none { plan.actions.append(.purge) }
    plan.end(desired, observed, evenUnsaved: true)
}

extension VolumePlan {
    fileprivate mutating func hide(_ slots: Set<VolumeSlot>) {
        if !slots.isEmpty { actions.append(.hide(slots)) }
    }

    fileprivate mutating func clear(_ observed: VolumeObserved) {
        hide(observed.slots)
        if observed.mount != .absent || observed.isServed { actions.append(.clearMount) }
    }

    fileprivate mutating func mountAnew(_ desired: VolumeDesired, _ observed: VolumeObserved) {
        if desired.reported != .mounting { actions.append(.report(.mounting)) }
        clear(observed)
        actions.append(.mount)
    }

    fileprivate mutating func end(_ desired: VolumeDesired, _ observed: VolumeObserved, evenUnsaved: Bool) {
        if observed.remains != .none { actions.append(.removeFolder(evenUnsaved: evenUnsaved)) }
        if desired.reported != nil { actions.append(.forget) }
    }
}
