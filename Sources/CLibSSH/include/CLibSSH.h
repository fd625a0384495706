#ifndef MARTLET_CLIBSSH_H
#define MARTLET_CLIBSSH_H

// libssh.a of Debian's libssh-dev, linked statically everywhere: `martlet_ssh_accept` uses what only the archive shows.
#include <libssh/libssh.h>
#include <libssh/callbacks.h>
#include <libssh/server.h>

#include <stddef.h>
#include <stdint.h>

/// Keeps OpenSSL from reading the image's openssl.cnf, which could name plug-ins to load, and libssh from logging.
/// Before the first use of anything else here.
void martlet_ssh_prepare(void);

/// The host key of a sandbox: the Ed25519 key whose seed is HMAC-SHA256 of a fixed label under `secret`. NULL on failure;
/// else to be freed with ssh_key_free.
ssh_key martlet_ssh_host_key(const char *secret, size_t length);

/// A server's session on a connected socket, which it takes over: public keys only, nothing read from configuration files,
/// non-blocking. NULL on failure, then the socket is closed; else to be freed with ssh_free.
///
/// The opening of a `direct-streamlocal@openssh.com` channel, which libssh does not know, arrives as one of `direct-tcpip`
/// whose destination is the path of the socket: it begins with a slash, as no host does.
ssh_session martlet_ssh_accept(int connection, ssh_key host_key);

// What a message says. libssh means these to be replaced by callbacks, which however must answer at once; a connection that is
// to be forwarded is answered when it stands.

/// The key of a public key authentication; borrowed from the message.
ssh_key martlet_ssh_offered_key(ssh_message message);

/// Whether the signature of a public key authentication: 0 has still to be made, 1 is right, else is wrong.
int martlet_ssh_signature_state(ssh_message message);

/// What a pty-req or window-change asks for. The name of the terminal is borrowed from the message; NULL with window-change.
void martlet_ssh_terminal(ssh_message message, const char **name, int *columns, int *rows);

#endif
