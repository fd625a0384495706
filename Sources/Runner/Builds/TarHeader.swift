/// The 512 bytes before each entry of a tar (POSIX ustar, with GNU's long sizes): read with its checksum, and written.
struct TarHeader: Hashable {
    static let size = 512

    /// What an entry is, as far as anything here cares.
    enum Kind: Hashable {
        case file, directory, symbolicLink, hardLink
        /// Attributes of the next entry.
        case extended
        /// Attributes of all others.
        case global
        /// GNU's way to say the next entry's name, or its link's.
        case longName, longLink
        /// By its letter: devices, pipes, sparse files, and what nobody knows.
        case other(UInt8)
    }

    var name: [UInt8]
    var kind: Kind
    var mode: Int
    var bytes: Int
    var linkName: [UInt8]

    init(name: [UInt8], kind: Kind, mode: Int, bytes: Int, linkName: [UInt8] = []) {
        self.name = name
        self.kind = kind
        self.mode = mode
        self.bytes = bytes
        self.linkName = linkName
    }

    /// Throws where the block is no header. Nil for a block of zeros, with which archives end.
    init?(reading block: [UInt8]) throws(ArchiveProblem) {
        if block.allSatisfy({ $0 == 0 }) { return nil }
        guard Self.octal(block[148..<156]) == Self.checksum(block) else {
            throw ArchiveProblem("is no tar archive, or is damaged: the checksum of an entry is wrong")
        }
        guard let bytes = Self.number(block[124..<136]), let mode = Self.number(block[100..<108]) else {
            throw ArchiveProblem("has an entry whose size or mode is no number")
        }
        let isPOSIX = block[257..<262].elementsEqual("ustar".utf8)
        let prefix = isPOSIX && block[262] == 0 ? Self.text(block[345..<500]) : []
        let name = Self.text(block[0..<100])
        self.init(
            name: prefix.isEmpty ? name : prefix + [UInt8(ascii: "/")] + name,
            kind: Kind(letter: block[156]),
            mode: mode,
            bytes: bytes,
            linkName: Self.text(block[157..<257])
        )
    }

    /// Owned by root and as old as time. The name and the link's must be ASCII of at most 100 bytes.
    var block: [UInt8] {
        var block = [UInt8](repeating: 0, count: Self.size)
        func put(_ bytes: some Sequence<UInt8>, at start: Int) {
            for (offset, byte) in bytes.enumerated() { block[start + offset] = byte }
        }
        put(name, at: 0)
        put(Self.octalText(mode, digits: 7), at: 100)
        put(Self.octalText(0, digits: 7), at: 108)
        put(Self.octalText(0, digits: 7), at: 116)
        put(Self.octalText(bytes, digits: 11), at: 124)
        put(Self.octalText(0, digits: 11), at: 136)
        block[156] = kind.letter
        put(linkName, at: 157)
        put("ustar\u{0}00".utf8, at: 257)
        put(Self.octalText(Self.checksum(block), digits: 6), at: 148)
        block[155] = UInt8(ascii: " ")
        return block
    }

    private static func text(_ field: ArraySlice<UInt8>) -> [UInt8] { Array(field.prefix { $0 != 0 }) }

    /// Octal digits, or GNU's binary form for what is too large for them.
    private static func number(_ field: ArraySlice<UInt8>) -> Int? {
        guard let first = field.first, first & 0x80 != 0 else { return octal(field) }
        guard first == 0x80 else { return nil }
        var value = 0
        for byte in field.dropFirst() {
            guard value < 1 << 53 else { return nil }
            value = value << 8 | Int(byte)
        }
        return value
    }

    private static func octal(_ field: ArraySlice<UInt8>) -> Int? {
        let digits = field.drop { $0 == UInt8(ascii: " ") }.prefix { $0 != 0 && $0 != UInt8(ascii: " ") }
        guard digits.count <= 12 else { return nil }
        var value = 0
        for digit in digits {
            guard (UInt8(ascii: "0")...UInt8(ascii: "7")).contains(digit) else { return nil }
            value = value << 3 | Int(digit - UInt8(ascii: "0"))
        }
        return value
    }

    private static func octalText(_ value: Int, digits: Int) -> [UInt8] {
        let text = String(value, radix: 8)
        return Array(String(repeating: "0", count: max(0, digits - text.count)).utf8) + Array(text.utf8)
    }

    /// The sum of all bytes, its own field taken for blanks.
    private static func checksum(_ block: [UInt8]) -> Int {
        block.enumerated().reduce(0) { $0 + ((148..<156).contains($1.offset) ? 32 : Int($1.element)) }
    }
}

extension TarHeader.Kind {
    init(letter: UInt8) {
        switch letter {
        case 0, UInt8(ascii: "0"), UInt8(ascii: "7"): self = .file
        case UInt8(ascii: "1"): self = .hardLink
        case UInt8(ascii: "2"): self = .symbolicLink
        case UInt8(ascii: "5"): self = .directory
        case UInt8(ascii: "x"): self = .extended
        case UInt8(ascii: "g"): self = .global
        case UInt8(ascii: "L"): self = .longName
        case UInt8(ascii: "K"): self = .longLink
        default: self = .other(letter)
        }
    }

    var letter: UInt8 {
        switch self {
        case .file: UInt8(ascii: "0")
        case .hardLink: UInt8(ascii: "1")
        case .symbolicLink: UInt8(ascii: "2")
        case .directory: UInt8(ascii: "5")
        case .extended: UInt8(ascii: "x")
        case .global: UInt8(ascii: "g")
        case .longName: UInt8(ascii: "L")
        case .longLink: UInt8(ascii: "K")
        case .other(let letter): letter
        }
    }
}

/// What is wrong with an archive of a user's, in words that follow "the build context".
struct ArchiveProblem: Error, Hashable, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
