#ifndef MARTLET_SERVER_H
#define MARTLET_SERVER_H

#include "CLibSSH.h"

/// A server's session on a connected socket, which it takes over, also on failure: then NULL. Packets are shown to `first`
/// before libssh's own functions get them.
ssh_session martlet_ssh_new_server(int connection, ssh_key host_key, ssh_packet_callbacks first);

#endif
