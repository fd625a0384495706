import FoundationEssentials
package import NIOCore

/// A chart as the SDK's `Chart` reads it. Decoded from what the wrapper wrote, so that only well-formed charts are passed on.
package struct Chart: Codable, Sendable, Equatable {
    package struct Element: Codable, Sendable, Equatable {
        var label: String?
        var points: [[Double]]?
        var value: String?
        var group: String?
        var angle: Double?
        var radius: Double?
        var min: Double?
        var firstQuartile: Double?
        var median: Double?
        var thirdQuartile: Double?
        var max: Double?
        var outliers: [Double]?
        var type: String?
        var title: String?
        var png: String?
        var xLabel: String?
        var yLabel: String?
    }

    package var type: String
    package var title: String
    package var elements: [Element]
    var png: String?
    var xLabel: String?
    var yLabel: String?
    var xTicks: [Double]?
    var yTicks: [Double]?
    var xTickLabels: [String]?
    var yTickLabels: [String]?
    var xScale: String?
    var yScale: String?

    /// The charts in lines of JSON; a line that is none is dropped.
    package static func parse(lines: ByteBufferView) -> [Chart] {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return lines.split(separator: 0x0A).compactMap { try? decoder.decode(Chart.self, from: Data($0)) }
    }

    /// The charts as the `artifacts` of an answer.
    package static func artifacts(_ charts: [Chart]) throws -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.withoutEscapingSlashes]
        return String(decoding: try encoder.encode(["charts": charts]), as: UTF8.self)
    }
}
