import Testing

@testable import martlet

@Suite struct ListenAddressTests {
    @Test func takesHostAndPort() throws {
        let address = try #require(ListenAddress(argument: "127.0.0.1:3986"))
        #expect(address.host == "127.0.0.1" && address.port == 3986)
        let six = try #require(ListenAddress(argument: "[::1]:80"))
        #expect(six.host == "::1" && six.port == 80 && six.description == "[::1]:80")
    }

    @Test(arguments: ["", "3986", ":3986", "host:", "host:65536", "host:-1", "host:8x"])
    func refusesAnythingElse(text: String) {
        #expect(ListenAddress(argument: text) == nil)
    }
}

@Suite struct SettingLineTests {
    @Test func aURLLosesItsPasswordOnly() {
        #expect(SettingLine.redacted("postgres://api:s3:cr@t@db:5432/m") == "postgres://api:(hidden)@db:5432/m")
    }

    @Test func anyOtherSecretIsHiddenWhole() {
        #expect(SettingLine.redacted("mrt_abc") == "(hidden)")
    }
}

@Suite struct LineLogHandlerTests {
    @Test func aValueCannotForgeALineOrAColour() {
        let quoted = LineLogHandler.quoted("a\nerror b\u{1B}[31m\u{85}\"x\"")
        #expect(quoted == #""a\u{a}error b\u{1b}[31m\u{85}\"x\"""#)
    }

    @Test func aPlainValueStaysPlain() {
        #expect(LineLogHandler.quoted("started") == "started")
        #expect(LineLogHandler.quoted("") == "\"\"")
    }
}

@Suite struct PathEncodingTests {
    @Test func slashesAndColonsAreEncoded() {
        #expect(pathEncoded("org/img:1 é") == "org%2Fimg%3A1%20%C3%A9")
    }
}
