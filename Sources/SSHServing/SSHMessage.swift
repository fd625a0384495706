package import CLibSSH

/// Something that the client asks for; it must be answered. Freed with the last reference.
package final class SSHMessage {
    package let raw: ssh_message

    package init(_ raw: ssh_message) { self.raw = raw }

    deinit { ssh_message_free(raw) }

    package var type: CInt { ssh_message_type(raw) }
    package var subtype: CInt { ssh_message_subtype(raw) }

    /// Says no, or for a service yes.
    package func refuse() { ssh_message_reply_default(raw) }
}
