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
        var first_quartile: Double?
        var median: Double?
        var third_quartile: Double?
        var max: Double?
        var outliers: [Double]?
        var type: String?
        var title: String?
        var png: String?
        var x_label: String?
        var y_label: String?
    }

    package var type: String
    package var title: String
    package var elements: [Element]
    var png: String?
    var x_label: String?
    var y_label: String?
    var x_ticks: [Double]?
    var y_ticks: [Double]?
    var x_tick_labels: [String]?
    var y_tick_labels: [String]?
    var x_scale: String?
    var y_scale: String?

    /// The charts in lines of JSON; a line that is none is dropped.
    package static func parse(lines: ByteBufferView) -> [Chart] {
        let decoder = JSONDecoder()
        return lines.split(separator: 0x0A).compactMap { try? decoder.decode(Chart.self, from: Data($0)) }
    }
}
