#define _GNU_SOURCE
#include "handover.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/// Room for one descriptor beside the bytes of a message.
union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
};

int martlet_hand_over(int connection, int descriptor, const char *text) {
    union control control = {.header = {
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof descriptor)
    }};
    memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
    struct iovec part = {.iov_base = (void *)text, .iov_len = strlen(text)};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
    };
    ssize_t sent;
    do sent = sendmsg(connection, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0) return -errno;
    return (size_t)sent == part.iov_len ? 0 : -EAGAIN;
}

/// Whether root or the caller's own user listens at the other end.
static int is_trusted(int connection) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return 0;
    return peer.uid == 0 || peer.uid == geteuid();
}

static int connect_within(int connection, const char *path, int milliseconds) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof address.sun_path) return -ENAMETOOLONG;
    memcpy(address.sun_path, path, length + 1);
    struct timeval limit = {.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000};
    if (setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0) return -errno;
    if (setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0) return -errno;
    if (connect(connection, (struct sockaddr *)&address, sizeof address) != 0) return -errno;
    return is_trusted(connection) ? 0 : -MARTLET_HANDOVER_STRANGER;
}

static int send_whole(int connection, const char *text) {
    for (size_t rest = strlen(text); rest > 0;) {
        ssize_t sent = send(connection, text, rest, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return -errno;
        text += sent;
        rest -= (size_t)sent;
    }
    return 0;
}

/// One piece of an answer, and the descriptor that may come with it. @return its length or a negative errno.
static ssize_t receive(int connection, char *bytes, size_t room, int *descriptor) {
    union control control;
    struct iovec part = {.iov_base = bytes, .iov_len = room};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
    };
    ssize_t count;
    do count = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
    while (count < 0 && errno == EINTR);
    if (count < 0) return -errno;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS
        && header->cmsg_len == CMSG_LEN(sizeof *descriptor)) {
        memcpy(descriptor, CMSG_DATA(header), sizeof *descriptor);
    }
    return count;
}

static int receive_answer(int connection, char *answer, size_t limit, int *descriptor) {
    size_t used = 0;
    while (*descriptor < 0 && used + 1 < limit) {
        ssize_t count = receive(connection, answer + used, limit - 1 - used, descriptor);
        if (count < 0) return (int)count;
        if (count == 0) break;
        used += (size_t)count;
    }
    answer[used] = '\0';
    return 0;
}

int martlet_take_over(const char *path, const char *request, int milliseconds, void *answer, size_t limit, int *descriptor) {
    *descriptor = -1;
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0) return -errno;
    int failure = connect_within(connection, path, milliseconds);
    if (failure == 0) failure = send_whole(connection, request);
    if (failure == 0) failure = receive_answer(connection, answer, limit, descriptor);
    if (failure == 0) return connection;
    close(connection);
    return failure;
}
