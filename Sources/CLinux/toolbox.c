#define _GNU_SOURCE
#include "toolbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

// Everything below `keeper` and `leader` runs in a copy of a process with many threads: only system calls and our own
// memory, never malloc, stdio or a lock.

enum {
    SAFE_DESCRIPTOR = 100,      // above every number that a program is given
    PROCESS_LIMIT = 65536,      // processes looked at in one pass
    STOP_ROUNDS = 20,           // passes of SIGSTOP before SIGKILL, so that a fork bomb stands still
    KILL_INTERVAL_MIN_MS = 2,
    KILL_INTERVAL_MAX_MS = 500, // for descendants we may not kill (set-uid programs)
};

struct process {
    pid_t id;
    pid_t parent;
    char state;
    bool ours;
};

struct directory_entry {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

static void send_report(int descriptor, int32_t kind, int32_t value) {
    struct martlet_report report = {.kind = kind, .value = value};
    while (write(descriptor, &report, sizeof report) < 0 && errno == EINTR) {}
}

static int parse_number(const char *text) {
    int number = 0;
    if (*text == 0) return -1;
    for (; *text != 0; text++) {
        if (*text < '0' || *text > '9' || number > 100000000) return -1;
        number = number * 10 + (*text - '0');
    }
    return number;
}

// Calls `visit` with each entry of a directory whose name is a number, until it answers false.
static bool each_number_in(const char *path, bool (*visit)(int number, int directory, void *context), void *context) {
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return false;
    _Alignas(8) char buffer[4096];
    for (;;) {
        long filled = syscall(SYS_getdents64, directory, buffer, sizeof buffer);
        if (filled <= 0) break;
        for (long at = 0; at < filled;) {
            struct directory_entry *entry = (struct directory_entry *)(buffer + at);
            at += entry->length;
            int number = parse_number(entry->name);
            if (number >= 0 && !visit(number, directory, context)) filled = 0;
        }
        if (filled == 0) break;
    }
    close(directory);
    return true;
}

static bool close_one(int number, int directory, void *context) {
    if (number >= *(int *)context && number != directory) close(number);
    return true;
}

static void close_all_from(int first) {
    if (syscall(SYS_close_range, (unsigned)first, ~0U, 0) == 0) return;
    if (each_number_in("/proc/self/fd", close_one, &first)) return;
    for (int number = first; number < 4096; number++) close(number);
}

struct range {
    int first;
    int last;
};

static bool hide_one(int number, int directory, void *context) {
    (void)directory;
    const struct range *range = context;
    if (number >= range->first && number <= range->last) fcntl(number, F_SETFD, FD_CLOEXEC);
    return true;
}

// Keeps a program from inheriting descriptors. Not every library opens its own so: NIO's accepted connections are not.
static void hide(int first, int last) {
    if (syscall(SYS_close_range, (unsigned)first, (unsigned)last, CLOSE_RANGE_CLOEXEC) == 0) return;
    struct range range = {first, last};
    if (each_number_in("/proc/self/fd", hide_one, &range)) return;
    for (int number = first; number < 4096 && number <= last; number++) fcntl(number, F_SETFD, FD_CLOEXEC);
}

static int moved_up(int descriptor) {
    return descriptor < 0 ? -1 : fcntl(descriptor, F_DUPFD_CLOEXEC, SAFE_DESCRIPTOR);
}

static void reset_signals(void) {
    struct sigaction standard = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++) sigaction(number, &standard, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

// When memory runs out, programs go before the daemon and the keepers, however small each is. (A process that shares its
// memory after vfork has this value to itself.)
static void be_killed_first(void) {
    int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file < 0) return;
    (void)!write(file, "1000", 4);
    close(file);
}

// What programs get, if the daemon has raised its own limit; zero if not.
static struct rlimit given_descriptors;

void martlet_raise_descriptor_limit(uint64_t wanted) {
    struct rlimit limit;
    if (given_descriptors.rlim_max != 0 || getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
    struct rlimit raised = limit;
    raised.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) given_descriptors = limit;
}

// The program's own process, up to execve.
static _Noreturn void leader(const struct martlet_spawn_request *request, int report) {
    setsid();
    be_killed_first();
    if (request->terminal >= 0) ioctl(request->terminal, TIOCSCTTY, 0);
    const int given[] = {request->input, request->output, request->error, request->artifacts, request->source};
    const int wanted[] = {0, 1, 2, MARTLET_ARTIFACTS_DESCRIPTOR, MARTLET_SOURCE_DESCRIPTOR};
    int safe[5];
    for (int i = 0; i < 5; i++) safe[i] = moved_up(given[i]);
    int directory = moved_up(request->directory);
    bool placed = directory < 0 || fchdir(directory) == 0;
    for (int i = 0; placed && i < 5; i++) placed = given[i] < 0 || dup2(safe[i], wanted[i]) >= 0;
    if (placed) {
        hide(3, MARTLET_ARTIFACTS_DESCRIPTOR - 1);
        if (request->artifacts < 0) hide(MARTLET_ARTIFACTS_DESCRIPTOR, MARTLET_ARTIFACTS_DESCRIPTOR);
        if (request->source < 0) hide(MARTLET_SOURCE_DESCRIPTOR, MARTLET_SOURCE_DESCRIPTOR);
        hide(MARTLET_SOURCE_DESCRIPTOR + 1, INT_MAX);
        reset_signals();
        if (given_descriptors.rlim_max != 0) setrlimit(RLIMIT_NOFILE, &given_descriptors);
        execve(request->path, request->argv, request->envp);
    }
    send_report(report, MARTLET_REPORT_FAILED, errno);
    _exit(127);
}

// Reads parent and state of a process out of /proc/<id>/stat, whose second field may hold any character.
static bool read_process(int number, int directory, struct process *process) {
    char path[32], text[512];
    char *end = path + sizeof path - 1;
    *end = 0;
    const char *suffix = "/stat";
    for (int i = 4; i >= 0; i--) *--end = suffix[i];
    for (int rest = number; rest > 0; rest /= 10) *--end = (char)('0' + rest % 10);
    int file = openat(directory, end, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0) return false;
    text[length] = 0;
    char *after = strrchr(text, ')');
    if (after == NULL || after[1] != ' ' || after[2] == 0 || after[3] != ' ') return false;
    pid_t parent = 0;
    for (const char *digit = after + 4; *digit >= '0' && *digit <= '9'; digit++) parent = parent * 10 + (*digit - '0');
    *process = (struct process){.id = number, .parent = parent, .state = after[2]};
    return true;
}

struct census {
    struct process *list;
    int count;
};

static bool count_process(int number, int directory, void *context) {
    struct census *census = context;
    if (census->count < PROCESS_LIMIT && read_process(number, directory, &census->list[census->count])) census->count++;
    return true;
}

static bool is_ours(const struct census *census, pid_t parent, pid_t self) {
    if (parent == self) return true;
    for (int i = 0; i < census->count; i++) {
        if (census->list[i].id == parent) return census->list[i].ours;
    }
    return false;
}

// Marks all descendants of this process: parents are usually listed before children, so few passes suffice.
static void mark_descendants(struct census *census) {
    pid_t self = getpid();
    for (bool changed = true; changed;) {
        changed = false;
        for (int i = 0; i < census->count; i++) {
            struct process *process = &census->list[i];
            if (!process->ours && is_ours(census, process->parent, self)) process->ours = changed = true;
        }
    }
}

// Sends a signal to every descendant that is not dead, nor stopped if the signal is SIGSTOP; answers how many there were.
static int signal_descendants(struct process *list, int number) {
    struct census census = {.list = list};
    each_number_in("/proc", count_process, &census);
    mark_descendants(&census);
    int sent = 0;
    for (int i = 0; i < census.count; i++) {
        const struct process *process = &list[i];
        if (!process->ours || process->state == 'Z' || process->state == 'X') continue;
        if (number == SIGSTOP && process->state == 'T') continue;
        if (kill(process->id, number) == 0) sent++;
    }
    return sent;
}

struct keeper_state {
    pid_t leader;
    bool leader_ended;
    bool killing;
    bool deaf;
};

static void kill_descendants(const struct keeper_state *state) {
    size_t size = PROCESS_LIMIT * sizeof(struct process);
    struct process *list = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (list == MAP_FAILED) {
        if (!state->leader_ended) kill(-state->leader, SIGKILL);
        return;
    }
    for (int round = 0; round < STOP_ROUNDS && signal_descendants(list, SIGSTOP) > 0; round++) {}
    signal_descendants(list, SIGKILL);
    munmap(list, size);
}

// The leader's group gets the signal while the leader lives. Later its number may belong to a stranger, so then each
// descendant is signalled by itself.
static void signal_tree(const struct keeper_state *state, int number) {
    if (!state->leader_ended) {
        kill(-state->leader, number);
        return;
    }
    size_t size = PROCESS_LIMIT * sizeof(struct process);
    struct process *list = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (list == MAP_FAILED) return;
    signal_descendants(list, number);
    munmap(list, size);
}

// Reaps what has ended; false when no descendant is left.
static bool reap(struct keeper_state *state, int report) {
    for (;;) {
        int status = 0;
        pid_t ended = waitpid(-1, &status, WNOHANG);
        if (ended == 0) return true;
        if (ended < 0) return errno == EINTR;
        if (ended != state->leader) continue;
        state->leader_ended = true;
        send_report(report, MARTLET_REPORT_EXITED, status);
    }
}

bool martlet_end_descendants(int milliseconds) {
    struct keeper_state state = {.leader_ended = true};
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t deadline = now.tv_sec * 1000 + now.tv_nsec / 1000000 + milliseconds;
    for (int pause = KILL_INTERVAL_MIN_MS; reap(&state, -1);) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec * 1000 + now.tv_nsec / 1000000 >= deadline) return false;
        kill_descendants(&state);
        struct timespec time = {.tv_nsec = pause * 1000000};
        sigtimedwait(&children, NULL, &time);
        if (pause < KILL_INTERVAL_MAX_MS) pause *= 2;
    }
    return true;
}

static void obey(struct keeper_state *state, int control) {
    char commands[64];
    ssize_t length = read(control, commands, sizeof commands);
    if (length < 0 && errno == EINTR) return;
    if (length <= 0) state->killing = state->deaf = true;
    for (ssize_t i = 0; i < length; i++) {
        if (commands[i] == MARTLET_KEEPER_KILL) state->killing = true;
        else if (commands[i] > 0 && commands[i] <= 64) {
            signal_tree(state, commands[i]);
            send_report(1, MARTLET_REPORT_SIGNALLED, commands[i]);
        }
    }
}

// Serves the tree until nobody is left in it. Descriptors: 0 control, 1 report, 2 a signalfd for SIGCHLD.
static _Noreturn void serve(pid_t leader) {
    struct keeper_state state = {.leader = leader};
    int pause = KILL_INTERVAL_MIN_MS;
    while (reap(&state, 1)) {
        if (state.killing) {
            kill_descendants(&state);
            pause = pause * 2 > KILL_INTERVAL_MAX_MS ? KILL_INTERVAL_MAX_MS : pause * 2;
        }
        struct pollfd sources[] = {{.fd = 2, .events = POLLIN}, {.fd = state.deaf ? -1 : 0, .events = POLLIN}};
        if (poll(sources, 2, state.killing ? pause : -1) <= 0) continue;
        struct signalfd_siginfo ignored;
        if (sources[0].revents != 0) (void)!read(2, &ignored, sizeof ignored);
        if (sources[1].revents != 0) obey(&state, 0);
    }
    _exit(0);
}

static _Noreturn void keeper(const struct martlet_spawn_request *request) {
    setsid();
    prctl(PR_SET_NAME, "martlet-keeper");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    int control = moved_up(request->control), report = moved_up(request->report);
    // The leader borrows this memory and thread until it runs the program: nothing is copied a second time.
    pid_t child = vfork();
    if (child == 0) leader(request, report);
    if (child < 0) {
        send_report(report, MARTLET_REPORT_FAILED, errno);
        _exit(1);
    }
    dup2(control, 0);
    dup2(report, 1);
    close_all_from(2);
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    if (signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK) != 2) {
        kill(-child, SIGKILL);
        _exit(1);
    }
    send_report(1, MARTLET_REPORT_STARTED, child);
    serve(child);
}

pid_t martlet_spawn(const struct martlet_spawn_request *request) {
    // No signal may run a handler of the daemon's in the keeper, so all are blocked across the fork.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t child = fork();
    if (child == 0) keeper(request);
    int failure = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return child < 0 ? -failure : child;
}

int martlet_terminal_open(uint16_t columns, uint16_t rows, int *master, int *slave) {
    int outer = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (outer < 0) return -errno;
    char name[64];
    int inner = -1;
    if (grantpt(outer) == 0 && unlockpt(outer) == 0 && ptsname_r(outer, name, sizeof name) == 0) {
        inner = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    }
    int result = inner < 0 ? -errno : martlet_terminal_resize(outer, columns, rows);
    if (result != 0) {
        if (inner >= 0) close(inner);
        close(outer);
        return result;
    }
    *master = outer;
    *slave = inner;
    return 0;
}

int martlet_terminal_resize(int master, uint16_t columns, uint16_t rows) {
    struct winsize size = {.ws_col = columns, .ws_row = rows};
    return ioctl(master, TIOCSWINSZ, &size) == 0 ? 0 : -errno;
}

static void copy_status(const struct stat *from, struct martlet_file_status *to) {
    *to = (struct martlet_file_status){
        .mode = from->st_mode,
        .user = from->st_uid,
        .group = from->st_gid,
        .size = from->st_size,
        .modified_seconds = from->st_mtim.tv_sec,
        .modified_nanoseconds = from->st_mtim.tv_nsec,
        .device = from->st_dev,
        .inode = from->st_ino,
    };
}

int martlet_status_at(int directory, const char *path, int follow, struct martlet_file_status *status) {
    struct stat found;
    if (fstatat(directory, path, &found, follow ? 0 : AT_SYMLINK_NOFOLLOW) != 0) return -errno;
    copy_status(&found, status);
    return 0;
}

int martlet_status_of(int descriptor, struct martlet_file_status *status) {
    struct stat found;
    if (fstat(descriptor, &found) != 0) return -errno;
    copy_status(&found, status);
    return 0;
}

const int martlet_o_path = O_PATH;
const int martlet_o_tmpfile = O_TMPFILE;

void *martlet_directory_open(int descriptor) {
    return fdopendir(descriptor);
}

const char *martlet_directory_next(void *directory) {
    for (;;) {
        struct dirent *entry = readdir(directory);
        if (entry == NULL) return NULL;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) return entry->d_name;
    }
}

void martlet_directory_close(void *directory) {
    closedir(directory);
}

int martlet_pipe(int *read_end, int *write_end) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return -errno;
    *read_end = ends[0];
    *write_end = ends[1];
    return 0;
}

ptrdiff_t martlet_find(const void *hay, size_t hay_length, const void *needle, size_t needle_length) {
    const char *found = memmem(hay, hay_length, needle, needle_length);
    return found == NULL ? -1 : found - (const char *)hay;
}

int martlet_space(const char *path, uint64_t *total, uint64_t *available, uint64_t *available_to_root) {
    struct statvfs space;
    if (statvfs(path, &space) != 0) return -errno;
    *total = (uint64_t)space.f_blocks * space.f_frsize;
    *available = (uint64_t)space.f_bavail * space.f_frsize;
    *available_to_root = (uint64_t)space.f_bfree * space.f_frsize;
    return 0;
}

int martlet_limit_files(pid_t process, uint64_t bytes) {
    struct rlimit limit;
    if (prlimit(process, RLIMIT_FSIZE, NULL, &limit) != 0) return -errno;
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    return prlimit(process, RLIMIT_FSIZE, &limit, NULL) == 0 ? 0 : -errno;
}

int martlet_memory_file(const char *name) {
    int descriptor = memfd_create(name, MFD_CLOEXEC);
    return descriptor < 0 ? -errno : descriptor;
}

int martlet_rename_exclusive(const char *source, const char *destination) {
    return renameat2(AT_FDCWD, source, AT_FDCWD, destination, RENAME_NOREPLACE) == 0 ? 0 : -errno;
}

void martlet_limit_memory(void) {
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
}
