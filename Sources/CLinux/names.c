#define _GNU_SOURCE
#include "names.h"

#include <errno.h>
#include <netdb.h>
#include <nss.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void choose_services(void) {
    __nss_configure_lookup("hosts", "files dns");
}

int martlet_resolve(const char *host, uint16_t port, struct sockaddr_storage *addresses, size_t limit) {
    static pthread_once_t chosen = PTHREAD_ONCE_INIT;
    pthread_once(&chosen, choose_services);
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    int failure = getaddrinfo(host, service, &wanted, &found);
    if (failure != 0) return failure < 0 ? failure : -failure;
    size_t count = 0;
    for (struct addrinfo *one = found; one != NULL && count < limit; one = one->ai_next) {
        if (one->ai_addrlen > sizeof *addresses) continue;
        memset(&addresses[count], 0, sizeof *addresses);
        memcpy(&addresses[count++], one->ai_addr, one->ai_addrlen);
    }
    freeaddrinfo(found);
    return (int)count;
}

int martlet_terminal_name(int master, char *name, size_t limit) {
    int failure = ptsname_r(master, name, limit);
    return failure == 0 ? 0 : -failure;
}

void martlet_name_thread(const char *name) {
    (void)pthread_setname_np(pthread_self(), name);
}
