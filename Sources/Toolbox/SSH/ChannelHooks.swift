import CLibSSH
import SSHServing

/// What libssh tells of a channel only by callbacks. The callbacks note it, and the channel acts when it has its turn: within
/// them libssh is in the middle of a packet.
final class ChannelHooks {
    /// The client closed the channel. There may still be something to read.
    fileprivate(set) var isClosed = false
    /// The client lets programs use its keys.
    fileprivate(set) var offersAgent = false
    /// Names of signals for the program.
    private var signals: [String] = []

    private let channel: ssh_channel
    private let callbacks = UnsafeMutablePointer<ssh_channel_callbacks_struct>.allocate(capacity: 1)

    init(_ channel: ssh_channel) {
        self.channel = channel
        var functions = ssh_channel_callbacks_struct()
        functions.size = MemoryLayout<ssh_channel_callbacks_struct>.size
        functions.userdata = Unmanaged.passUnretained(self).toOpaque()
        functions.channel_close_function = { _, _, context in hooks(context)?.isClosed = true }
        functions.channel_auth_agent_req_function = { _, _, context in hooks(context)?.offersAgent = true }
        functions.channel_signal_function = { _, _, name, context in hooks(context)?.note(text(name)) }
        callbacks.initialize(to: functions)
        ssh_set_channel_callbacks(channel, callbacks)
    }

    /// Signals since the last time.
    func takeSignals() -> [String] {
        defer { signals = [] }
        return signals
    }

    /// Closes the channel. libssh frees it once the client has closed it too; nobody may use it any more.
    func free() {
        ssh_remove_channel_callbacks(channel, callbacks)
        callbacks.deallocate()
        ssh_channel_free(channel)
    }

    private func note(_ signal: String) {
        if signals.count < SSHLimit.pendingSignals { signals.append(signal) }
    }
}

private func hooks(_ context: UnsafeMutableRawPointer?) -> ChannelHooks? {
    context.map { Unmanaged<ChannelHooks>.fromOpaque($0).takeUnretainedValue() }
}
