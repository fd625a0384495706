import Domain
import FoundationEssentials

/// `/toolbox/<sandbox id>/<rest>`, split before anything is decoded.
struct ToolboxPath {
    let sandbox: SandboxID
    /// Place of `/<rest>` with its query in the request's bytes; empty for `/`.
    let rest: Range<Int>

    private static let prefix: StaticString = "/toolbox/"
    private static let idLength = 36

    /// Nil unless the id is canonical and no empty segment is in the path.
    init?(_ bytes: UnsafeRawBufferPointer, target: Range<Int>) {
        let prefixLength = Self.prefix.utf8CodeUnitCount
        let idStart = target.lowerBound + prefixLength
        let idEnd = idStart + Self.idLength
        guard idEnd <= target.upperBound,
            (0..<prefixLength).allSatisfy({ bytes[target.lowerBound + $0] == Self.prefix.utf8Start[$0] }),
            let sandbox = Self.identifier(bytes, at: idStart)
        else { return nil }
        self.sandbox = sandbox
        rest = idEnd..<target.upperBound
        guard rest.isEmpty || bytes[idEnd] == UInt8(ascii: "/"), !Self.hasEmptySegment(bytes, rest) else { return nil }
    }

    private static func hasEmptySegment(_ bytes: UnsafeRawBufferPointer, _ path: Range<Int>) -> Bool {
        var previous: UInt8 = 0
        for index in path {
            let byte = bytes[index]
            if byte == UInt8(ascii: "?") { return false }
            if byte == UInt8(ascii: "/"), previous == byte { return true }
            previous = byte
        }
        return false
    }

    /// 32 lower-case hexadecimal digits with hyphens at their places.
    private static func identifier(_ bytes: UnsafeRawBufferPointer, at start: Int) -> SandboxID? {
        var uuid: uuid_t = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        let isValid = withUnsafeMutableBytes(of: &uuid) { result in
            var digits = 0
            for offset in 0..<idLength {
                let byte = bytes[start + offset]
                if offset == 8 || offset == 13 || offset == 18 || offset == 23 {
                    guard byte == UInt8(ascii: "-") else { return false }
                    continue
                }
                guard !(65...70).contains(byte), let value = Syntax.hexadecimalValue(byte) else { return false }
                result[digits >> 1] = result[digits >> 1] << 4 | value
                digits += 1
            }
            return true
        }
        return isValid ? SandboxID(UUID(uuid: uuid)) : nil
    }
}
