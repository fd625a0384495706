import Domain
import Testing

@Suite struct IdentifierTests {
    @Test func canonicalTextRoundTrips() {
        let id = SandboxID.random()
        #expect(SandboxID(id.description) == id)
    }

    @Test(arguments: [
        "", "abc", "9B1C0000-0000-4000-8000-000000000001", "{9b1c0000-0000-4000-8000-000000000001}",
        "9b1c00000000400080000000000000010000", "9b1c0000-0000-4000-8000-00000000000g",
        " 9b1c0000-0000-4000-8000-000000000001",
    ])
    func anythingElseIsRefused(text: String) {
        #expect(SandboxID(text) == nil)
    }
}
