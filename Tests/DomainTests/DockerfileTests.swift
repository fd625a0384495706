import Domain
import Testing

@Suite struct DockerfileTests {
    @Test func readsContinuedLinesAndComments() {
        let file = Dockerfile("# a comment\nFROM busybox:1\nRUN echo one \\\n  # between\n  && echo two\n\nenv A=b\n")
        #expect(file.problems == [])
        #expect(file.instructions.map(\.keyword) == ["FROM", "RUN", "ENV"])
        #expect(file.instructions.map(\.line) == [2, 3, 7])
        #expect(file.instructions[1].arguments == "echo one   && echo two")
    }

    @Test func namesItsImagesOnce() {
        let file = Dockerfile(
            """
            ARG VERSION=3.12
            ARG BASE="python"
            FROM ${BASE}:$VERSION AS build
            FROM scratch
            FROM build
            COPY --from=build /a /a
            COPY --from=0 /a /b
            COPY --from=busybox:1 --chown=1:1 /bin/sh /sh
            FROM busybox:1
            """
        )
        #expect(file.problems == [])
        #expect(file.images == ["python:3.12", "busybox:1"])
        #expect(file.plainImage == nil)
    }

    @Test func imagesGetOtherNamesAndNothingElseChanges() {
        let text = """
            ARG BASE=python
            FROM ${BASE}:3 AS Build
            RUN echo FROM python:3 \\
              --from=busybox:1
            from \\
              # between
              python:3
            FROM build
            COPY --chown=1:1 \\
              --from=busybox:1 /bin/sh /--from=busybox:1
            COPY --from=build /a /b\r
            FROM busybox:1\r
            RUN true
            """
        let file = Dockerfile(text)
        #expect(file.problems == [])
        #expect(Dockerfile("FROM a\nRUN b \\\n c\n").text(naming: [:]) == "FROM a\nRUN b \\\n c\n")
        #expect(
            file.text(naming: ["python:3": "p@sha256:1", "busybox:1": "b@sha256:2"]) == """
                ARG BASE=python
                FROM p@sha256:1 AS Build
                RUN echo FROM python:3 \\
                  --from=busybox:1
                FROM p@sha256:1


                FROM build
                COPY --chown=1:1   --from=b@sha256:2 /bin/sh /--from=busybox:1

                COPY --from=build /a /b
                FROM b@sha256:2
                RUN true
                """
        )
        let reread = Dockerfile(file.text(naming: ["python:3": "p:3", "busybox:1": "b:1"]))
        #expect(reread.images == ["p:3", "b:1"])
        #expect(reread.instructions.map(\.line) == file.instructions.map(\.line))
    }

    @Test func knowsAPlainImage() {
        #expect(Dockerfile("FROM busybox:1.36\n").plainImage == "busybox:1.36")
        #expect(Dockerfile("FROM scratch\n").plainImage == nil)
        #expect(Dockerfile("FROM busybox AS a\n").plainImage == nil)
    }

    @Test(arguments: [
        ("", "no FROM"), ("RUN true", "before the first FROM"), ("FROM $X", "gives the value"),
        ("FROM ${X:-busybox}", "gives the value"), ("FROM Bad/Name", "image name"), ("FROM a b", "FROM image AS name"),
        ("FROM --platform=linux/arm64 a", "--platform"), ("FROM a\nRUN --mount=type=secret,id=x cat /x", "BuildKit"),
        ("FROM a\nRUN --network=host true", "BuildKit"), ("FROM a\nADD http://169.254.169.254/ /x", "may not have"),
        ("FROM a\nADD [\"https\\u003a//x\", \"/x\"]", "may not have"), ("FROM a\nADD http':'//x /x", "may not have"),
        ("FROM a\nADD http:\\\n//x /x", "may not have"), ("FROM a\r\nADD http:/\u{301}/@x /x\r\n", "may not have"),
        ("# escape=`\nFROM a", "escape"), ("FROM a\nARG U=http://x\nADD $U /x", "may not have"),
        ("FROM a\nADD ht\\\ntp://x /x", "may not have"), ("FROM a\nADD git@github.com:x/y /x", "may not have"),
        ("FROM a\nONBUILD ADD http://x /x", "not supported"), ("FROM a\nonbuild run true", "not supported"),
        ("FROM a\nCOPY --from=$X /a /b", "--from"), ("FROM a\nCOPY --link a b", "BuildKit"),
        ("FROM a\nRUN <<EOF\necho\nEOF", "Here-documents"), ("FROM a\nFETCH x", "no instruction"),
        ("FROM a\nRUN \0", "NUL"), ("FROM a\nRUN echo \\\\\nADD http://x /x", "two backslashes"),
        ("FROM a\nRUN echo \\\\\\ \t\r\nADD http://x /x", "two backslashes"),
        ("FROM a\nADD \\\n \u{301}# http://x /x\nRUN true", "may not have"),
        ("FROM a\nCOPY --chown=\" x\" --from=evil a b", "quotes"),
        ("FROM a\nCOPY --chown=a\\ --from=evil b c", "quotes"),
        ("FROM a\nADD --chown=' x' b c", "quotes"), ("FROM scratch\u{a0}as\u{a0}b", "ASCII"),
        ("#\u{a0}escape=`\nFROM a\n \u{301}# x", "no instruction"),
    ])
    func refuses(text: String, because words: String) {
        let problems = Dockerfile(text).problems
        #expect(problems.contains { $0.contains(words) }, "\(problems)")
    }

    @Test func isBounded() {
        #expect(Dockerfile("FROM a\n" + String(repeating: "#", count: Dockerfile.byteLimit)).problems.count == 1)
        #expect(Dockerfile("FROM a\n" + String(repeating: "RUN a\n", count: 1001)).problems.count == 1)
        #expect(Dockerfile("FROM a\n" + String(repeating: "ONBUILD a\n", count: 100)).problems.count == 20)
    }
}
