#ifndef MARTLET_NAMES_H
#define MARTLET_NAMES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/// The TCP addresses of a host's name or number, at most `limit`, by /etc/hosts and DNS only: other name services are
/// plug-ins of the image's, which a static program must not load. Blocks for as long as DNS takes.
/// @return how many, or a negative error of getaddrinfo.
int martlet_resolve(const char *host, uint16_t port, struct sockaddr_storage *addresses, size_t limit);

/// Writes the path of the other end of a pseudo-terminal; 0 or -errno.
int martlet_terminal_name(int master, char *name, size_t limit);

/// Names the calling thread, as ps shows it: at most 15 bytes.
void martlet_name_thread(const char *name);

#endif
