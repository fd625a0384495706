package import Docker
package import Firewall
package import Reconciling

/// What a runner itself finds wrong.
package struct RunnerError: Error, Sendable, Hashable, CustomStringConvertible {
    package enum Code: String, Sendable, Hashable, CaseIterable {
        /// The operator must change a setting.
        case misconfigured
        /// The slot lies outside of the subnet.
        case noAddress
        /// The address's former owner still has its container or its rules here.
        case addressHeld
        /// A file of the state directory cannot be read or written.
        case stateDirectory
        /// The daemon did not answer in time.
        case daemonSilent
        /// The container ended while its daemon was waited for.
        case endedWhileStarting
        /// The row is no longer this runner's.
        case fenced
        /// An image is not here, and cannot be fetched.
        case noImage
        /// The image leaves no room on the sandbox's disk.
        case imageTooLarge
        /// A volume cannot be mounted, or shown in a container.
        case volume
        /// The internal registry does not answer, or not as it should.
        case registryAway
        /// The internal registry has lost the image.
        case imageLost
        /// A container's disk quota cannot be changed.
        case diskQuota
        /// Something on the host changed between looking and acting: look again.
        case changedMeanwhile
    }

    package let code: Code
    /// What happened, with values, and what to do.
    package let message: String

    package init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    package var description: String { "\(code.rawValue): \(message)" }
}

extension DockerError: RetryAdvising {
    package var retry: RetryAdvice { isRetryable ? .backoff : .never }
}

extension FirewallError: RetryAdvising {
    package var retry: RetryAdvice { isRetryable ? .backoff : .never }
}
