import CLibSSH
import SSHServing
import Store

/// Whether a question is to be put now. Only one is open at a time: an answer could overtake another and be the older one.
struct Inquiry {
    private var isOpen = false
    private var isToBeRepeated = false

    /// Something is to be asked: true if now, else it is once the open question is answered.
    mutating func begin() -> Bool {
        isToBeRepeated = isOpen
        defer { isOpen = true }
        return !isOpen
    }

    /// The answer came: true if there is to be another question, since what it says may be of before.
    mutating func end() -> Bool {
        defer { isToBeRepeated = false }
        isOpen = isToBeRepeated
        return isOpen
    }
}

/// A client's attempts to log in. The user's name is the token; how it is offered does not matter. An attempt is answered
/// with yes once the way into the sandbox stands, and with no after a fixed time, whatever was wrong with it.
struct Login {
    enum Verdict: Equatable {
        /// Nothing to do yet.
        case pending
        /// It opens something.
        case admitted(SSHAdmission)
        /// It was told no, and may try again.
        case refused
        /// It has tried too often, and is to be sent away.
        case exhausted
    }

    private struct Attempt {
        let message: SSHMessage
        let user: String
        let refusedAt: ContinuousClock.Instant
        /// nil until it is known.
        var admission: SSHAdmission??
    }

    private let limits: GatewayLimits
    private var attempt: Attempt?
    private var refusals = 0
    private var lastRefused: String?

    init(limits: GatewayLimits) { self.limits = limits }

    /// An attempt waits for its answer; until then nothing is read.
    var isBusy: Bool { attempt != nil }

    /// When an attempt is answered at the latest.
    var deadline: ContinuousClock.Instant? { attempt?.refusedAt }

    /// Begins an attempt.
    /// - Returns: the token to ask about; nil if the answer is known without.
    mutating func begin(_ message: SSHMessage, now: ContinuousClock.Instant = .now) -> SSHToken? {
        let user = text(ssh_message_auth_user(message.raw))
        let token = user == lastRefused ? nil : SSHToken(user)
        attempt = Attempt(
            message: message,
            user: user,
            refusedAt: now + limits.refusalDelay,
            admission: token == nil ? .some(nil) : nil
        )
        return token
    }

    /// What the database says of the attempt.
    mutating func learn(_ admission: SSHAdmission?) { attempt?.admission = .some(admission) }

    /// Answers an attempt that is to be refused, when it is time.
    /// - Parameter isSuspect: its address had too many refusals.
    mutating func judge(isSuspect: Bool, now: ContinuousClock.Instant = .now) -> Verdict {
        guard let attempt else { return .pending }
        switch attempt.admission {
        case .some(.some(let admission)): return .admitted(admission)
        case nil: return .pending
        case .some(nil):
            guard now >= attempt.refusedAt else { return .pending }
            self.attempt = nil
            lastRefused = attempt.user
            refusals += 1
            // A client that hears no may not stay for the word that follows.
            if isSuspect || refusals >= limits.refusalsLimit { return .exhausted }
            attempt.message.refuse()
            return .refused
        }
    }

    /// Says yes.
    mutating func accept() {
        if let attempt { ssh_message_auth_reply_success(attempt.message.raw, 0) }
        attempt = nil
    }

    /// Forgets what was not answered: libssh must still be there.
    mutating func abandon() { attempt = nil }
}
