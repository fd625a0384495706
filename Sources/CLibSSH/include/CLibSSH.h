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

enum { martlet_ssh_key_file_limit = 512 };

/// Writes the text of a file with a new Ed25519 key, as ssh-keygen does without a passphrase, NUL at its end. `size` is at
/// least martlet_ssh_key_file_limit. 0, or -1 on failure.
int martlet_ssh_new_key_file(char *text, size_t size);

/// A server's session on a connected socket, which it takes over: public keys only, nothing read from configuration files,
/// non-blocking. NULL on failure, then the socket is closed; else to be freed with ssh_free.
///
/// The opening of a `direct-streamlocal@openssh.com` channel, which libssh does not know, arrives as one of `direct-tcpip`
/// whose destination is the path of the socket: it begins with a slash, as no host does.
ssh_session martlet_ssh_accept(int connection, ssh_key host_key);

// Relaying: two sessions whose peers speak the connection protocol (RFC 4254) with each other. Each packet of it goes on as it
// came, so libssh knows of no channel; keys are exchanged, and renewed, between each peer and us.

typedef struct martlet_ssh_leg martlet_ssh_leg;

/// Gets a packet of the connection protocol: its type, and what follows that. Called within functions of libssh for the leg's
/// session; it may send on the other leg.
typedef void (*martlet_ssh_packet_handler)(uint8_t type, const unsigned char *bytes, uint32_t length, void *context);

/// A server's leg on a connected socket, which it takes over, also on failure: then NULL. Who logs in, and how, is the
/// caller's to decide by messages.
martlet_ssh_leg *martlet_ssh_server_leg(int connection, ssh_key host_key, martlet_ssh_packet_handler handler, void *context);

/// A client's leg, likewise: nothing is read from files or name services, and only Ed25519 host keys are taken. The caller
/// connects, compares the host key and logs in.
martlet_ssh_leg *martlet_ssh_client_leg(int connection, martlet_ssh_packet_handler handler, void *context);

/// Closes the connection, and forgets it.
void martlet_ssh_free_leg(martlet_ssh_leg *leg);

ssh_session martlet_ssh_leg_session(martlet_ssh_leg *leg);

/// Sends a packet, in the order of the calls; never waits. -1 if the connection is broken.
int martlet_ssh_send_packet(martlet_ssh_leg *leg, uint8_t type, const void *bytes, uint32_t length);

/// Reads what came, at most 4 KiB of it, and has it handled; writes too. SSH_AGAIN if there was nothing, SSH_ERROR if the
/// connection is broken or ended. Only once `ssh_connect` or `ssh_handle_key_exchange` was called.
int martlet_ssh_read_some(martlet_ssh_leg *leg);

/// Writes what waits to be, as far as the socket takes it, and reads nothing. -1 if the connection is broken.
int martlet_ssh_write_some(martlet_ssh_leg *leg);

/// Whether something waits until the socket takes it.
int martlet_ssh_is_writing(martlet_ssh_leg *leg);

/// Bytes of packets that were sent since last nothing waited to be written, libssh's own among them; 0 if nothing does.
size_t martlet_ssh_unwritten(martlet_ssh_leg *leg);

/// Whether new keys are being agreed on: until then packets wait within libssh.
int martlet_ssh_is_changing_keys(martlet_ssh_leg *leg);

/// A message that was read already, NULL if there is none. Unlike ssh_message_get it reads nothing.
ssh_message martlet_ssh_next_message(ssh_session session);

/// Bytes that came from the peer so far.
uint64_t martlet_ssh_bytes_read(martlet_ssh_leg *leg);

// What a message says. libssh means these to be replaced by callbacks, which however must answer at once; a connection that is
// to be forwarded is answered when it stands.

/// The key of a public key authentication; borrowed from the message.
ssh_key martlet_ssh_offered_key(ssh_message message);

/// Whether the signature of a public key authentication: 0 has still to be made, 1 is right, else is wrong.
int martlet_ssh_signature_state(ssh_message message);

/// What a pty-req or window-change asks for. The name of the terminal is borrowed from the message; NULL with window-change.
void martlet_ssh_terminal(ssh_message message, const char **name, int *columns, int *rows);

#endif
