package import Firewall

/// Which address belongs to which slot: the subnet's first is the bridge's, slot 1 has the next.
package struct AddressPlan: Sendable, Hashable {
    package let subnet: IPv4Range
    /// Slots 1…slots have addresses.
    package let slots: Int

    /// Throws if the subnet holds no sandbox.
    package init(subnet: IPv4Range) throws {
        guard (2...29).contains(subnet.prefixLength) else {
            throw RunnerError(
                .misconfigured,
                "the sandbox subnet \(subnet) is not between /2 and /29; give one such as 10.88.0.0/16"
            )
        }
        self.subnet = subnet
        // Without the network's, the bridge's and the broadcast address.
        slots = min((1 << (32 - subnet.prefixLength)) - 3, RunnerConfiguration.addressSlotsLimit)
    }

    package var gateway: IPv4Address { IPv4Address(rawValue: subnet.address.rawValue + 1) }

    /// Throws for a slot outside of the subnet: the row was booked when the subnet was larger.
    package func address(ofSlot slot: Int) throws -> IPv4Address {
        guard (1...slots).contains(slot) else {
            throw RunnerError(
                .noAddress,
                "slot \(slot) has no address: the sandbox subnet \(subnet) has \(slots); give the runner a larger subnet"
            )
        }
        return IPv4Address(rawValue: subnet.address.rawValue + 1 + UInt32(slot))
    }
}
