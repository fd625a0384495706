#define _GNU_SOURCE
#include "netns.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CGROUP_FILE_LIMIT = 16 * 1024, DIAL_STACK_BYTES = 256 * 1024 };

/// Reads up to `limit - 1` bytes of `name` below `directory` and ends them with NUL.
static int read_text(int directory, const char *name, char *text, size_t limit) {
    int file = openat(directory, name, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -errno;
    size_t used = 0;
    int failure = 0;
    while (used < limit - 1) {
        ssize_t count = read(file, text + used, limit - 1 - used);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) failure = -errno;
        if (count <= 0) break;
        used += (size_t)count;
    }
    close(file);
    text[used] = '\0';
    return failure;
}

/// Whether two descriptors are of one namespace.
static int same_namespace(int first, int second) {
    struct stat a, b;
    if (fstat(first, &a) != 0 || fstat(second, &b) != 0) return 1;
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/// Opens the network namespace of the process behind `process`, a descriptor of its /proc directory.
static int open_namespace(int process, const char *cgroup_fragment) {
    char groups[CGROUP_FILE_LIMIT];
    int failure = read_text(process, "cgroup", groups, sizeof groups);
    if (failure != 0) return failure;
    if (cgroup_fragment[0] == '\0' || strstr(groups, cgroup_fragment) == NULL) return -MARTLET_NETNS_STRANGER;

    int target = openat(process, "ns/net", O_RDONLY | O_CLOEXEC);
    if (target < 0) return -errno;
    int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0) {
        failure = -errno;
    } else {
        if (same_namespace(target, home)) failure = -MARTLET_NETNS_HOME;
        close(home);
    }
    if (failure != 0) {
        close(target);
        return failure;
    }
    return target;
}

struct visit {
    int target;
    int result;
};

/// The life of the thread that visits the namespace: in, one socket, and never back.
static void *visit_namespace(void *argument) {
    struct visit *visit = argument;
    if (setns(visit->target, CLONE_NEWNET) != 0) {
        visit->result = -errno;
        return NULL;
    }
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    if (connection < 0) {
        visit->result = -errno;
        return NULL;
    }
    int on = 1;
    (void)setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    visit->result = connection;
    return NULL;
}

static int socket_in(int target) {
    pthread_attr_t attributes;
    int failure = pthread_attr_init(&attributes);
    if (failure != 0) return -failure;
    struct visit visit = {.target = target, .result = -EIO};
    pthread_t thread;
    failure = pthread_attr_setstacksize(&attributes, DIAL_STACK_BYTES);
    if (failure == 0) failure = pthread_create(&thread, &attributes, visit_namespace, &visit);
    pthread_attr_destroy(&attributes);
    if (failure != 0) return -failure;
    pthread_join(thread, NULL);
    return visit.result;
}

int martlet_netns_socket(pid_t pid, const char *cgroup_fragment) {
    if (pid <= 0) return -ESRCH;
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    int process = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (process < 0) return -errno;
    int target = open_namespace(process, cgroup_fragment);
    close(process);
    if (target < 0) return target;
    int result = socket_in(target);
    close(target);
    return result;
}

int martlet_reseat(int source, int target) {
    return dup3(source, target, O_CLOEXEC) < 0 ? -errno : 0;
}
