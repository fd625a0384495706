import HTTPTypes
import Limiting

extension FailedAttempts {
    /// Counts one more from `address`. Answers with `error`, or with 429 where that place had used up its tries before.
    ///
    /// Only who fails is told to wait. A valid key, or signature, is good also from an address that is exhausted, for that may be a
    /// proxy's, which everybody shares; and a secret of 256 random bits is not found by guessing, however fast.
    func refusal(_ error: APIError, from address: String) -> APIError {
        let place = Place(of: address)
        let wasExhausted = isExhausted(place)
        note(place)
        guard wasExhausted else { return error }
        return APIError(.tooManyRequests, "too many failed authentications from \(address). Try again in a minute")
    }
}
