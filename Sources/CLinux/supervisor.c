#define _GNU_SOURCE
#include "supervisor.h"
#include "toolbox.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// ---- the legacy ----------------------------------------------------------------------------------------------------

// What is left is written beside what was left before, and counts once it is complete.
struct item {
    _Atomic uint32_t turn; // 0: nothing yet
    size_t length[2];
};

struct legacy {
    _Atomic uint32_t restarts;
    struct item items[MARTLET_LEGACY_ITEMS];
};

static const size_t capacity[MARTLET_LEGACY_ITEMS] = {
    [MARTLET_LEGACY_TOKEN] = 4 << 10,
    [MARTLET_LEGACY_ENVIRONMENT] = 4 << 20, // twice what the kernel starts a program with; only what is used costs memory
    [MARTLET_LEGACY_DISK_LIMIT] = 32,
    [MARTLET_LEGACY_ENTRYPOINT_END] = 32,
    [MARTLET_LEGACY_RECORDING] = 32,
};

// Shared by the supervisor and its daemons, and by no program: execve ends a mapping. It is in no file.
static struct legacy *legacy;

static unsigned char *place_of(enum martlet_legacy_item item, uint32_t turn) {
    unsigned char *place = (unsigned char *)(legacy + 1);
    for (int before = 0; before < (int)item; before++) place += 2 * capacity[before];
    return place + (turn % 2) * capacity[item];
}

static struct legacy *make_legacy(void) {
    size_t size = sizeof(struct legacy);
    for (int item = 0; item < MARTLET_LEGACY_ITEMS; item++) size += 2 * capacity[item];
    void *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED) return NULL;
    madvise(made, size, MADV_DONTDUMP);
    return made;
}

uint32_t martlet_legacy_restarts(void) {
    return legacy == NULL ? 0 : atomic_load(&legacy->restarts);
}

int martlet_legacy_keep(enum martlet_legacy_item item, const void *bytes, size_t length) {
    if (legacy == NULL) return -ENOTSUP;
    if (length > capacity[item]) return -E2BIG;
    struct item *its = &legacy->items[item];
    uint32_t turn = atomic_load(&its->turn) + 1;
    memcpy(place_of(item, turn), bytes, length);
    its->length[turn % 2] = length;
    atomic_store(&its->turn, turn);
    return 0;
}

const void *martlet_legacy_find(enum martlet_legacy_item item, size_t *length) {
    if (legacy == NULL) return NULL;
    struct item *its = &legacy->items[item];
    uint32_t turn = atomic_load(&its->turn);
    if (turn == 0) return NULL;
    *length = its->length[turn % 2];
    return *length <= capacity[item] ? place_of(item, turn) : NULL;
}

static void take_token(void) {
    char *token = getenv("MARTLET_DAEMON_TOKEN");
    if (token == NULL || *token == 0) return;
    if (martlet_legacy_keep(MARTLET_LEGACY_TOKEN, token, strlen(token)) != 0) return;
    memset(token, 0, strlen(token));
    unsetenv("MARTLET_DAEMON_TOKEN");
}

// ---- the supervisor ------------------------------------------------------------------------------------------------

enum {
    PAUSE_FIRST_MS = 100,     // the first new daemon begins at once; then this, and twice as long each time
    END_MS = 1000,            // longest wait for what the old daemon ran: a set-uid program may refuse to die
};

struct supervision {
    pid_t daemon;
    bool stopping;
    int64_t ends[MARTLET_RESTART_LIMIT]; // when daemons ended, in milliseconds; 0 for none
    int count;                           // of them within the window
};

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// Whether it asks to stop: sent by the engine, whose process id is nothing in here. The kernel keeps a blocked signal also for
// process 1, so whatever the sandbox's own programs send arrives; si_code says that nobody forged the sender.
static bool asks_to_stop(const siginfo_t *signal) {
    if (getpid() == 1 && (signal->si_code != SI_USER || signal->si_pid != 0)) return false;
    int number = signal->si_signo;
    return number == SIGTERM || number == SIGINT || number == SIGQUIT || number == SIGHUP;
}

// Reaps what has ended; true, with its status, when the daemon has. One that was stopped goes on: a sandbox would seem dead.
static bool reap(const struct supervision *its, int *status) {
    for (;;) {
        pid_t ended = waitpid(-1, status, WNOHANG | WUNTRACED);
        if (ended < 0 && errno == EINTR) continue;
        if (ended <= 0) return false;
        if (ended != its->daemon) continue;
        if (!WIFSTOPPED(*status)) return true;
        kill(ended, SIGCONT);
    }
}

// All signals are blocked here, so none is missed between looking and waiting.
static int await_daemon(struct supervision *its) {
    sigset_t all;
    sigfillset(&all);
    siginfo_t received;
    int status = 0;
    while (!reap(its, &status)) {
        if (sigwaitinfo(&all, &received) < 0 || !asks_to_stop(&received)) continue;
        its->stopping = true;
        kill(its->daemon, SIGTERM);
    }
    return status;
}

static int exit_status(int status) {
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void say(int status, const char *what) {
    const char *how = WIFEXITED(status) ? "exit status" : "signal";
    int number = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
    dprintf(2, "martlet-init: the daemon ended with %s %d; %s\n", how, number, what);
}

// Notes an end; false when there were too many within the window.
static bool may_follow(struct supervision *its) {
    int64_t now = now_ms();
    int kept = 0;
    for (int i = 0; i < its->count; i++) {
        if (now - its->ends[i] <= MARTLET_RESTART_WINDOW_SECONDS * 1000) its->ends[kept++] = its->ends[i];
    }
    its->count = kept;
    if (its->count == MARTLET_RESTART_LIMIT) return false;
    its->ends[its->count++] = now;
    return true;
}

// False when a signal asks to stop meanwhile.
static bool rest(int milliseconds) {
    sigset_t all;
    sigfillset(&all);
    siginfo_t received;
    for (int64_t end = now_ms() + milliseconds;;) {
        int64_t left = end - now_ms();
        if (left <= 0) return true;
        struct timespec time = {.tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000};
        if (sigtimedwait(&all, &received, &time) >= 0 && asks_to_stop(&received)) return false;
    }
}

// Returns when another daemon is to begin.
static void follow(struct supervision *its, int status) {
    if (its->stopping) _exit(exit_status(status));
    if (WIFEXITED(status) && WEXITSTATUS(status) == MARTLET_DAEMON_MISCONFIGURED) _exit(exit_status(status));
    if (!may_follow(its)) {
        say(status, "that was too often within a minute, so the sandbox ends");
        martlet_end_descendants(END_MS);
        _exit(1);
    }
    say(status, "what it ran is ended, and it begins anew");
    // Also what slipped away from its keeper, so that nothing of it holds a port or speaks for the next daemon.
    martlet_end_descendants(END_MS);
    if (its->count > 1 && !rest(PAUSE_FIRST_MS << (its->count - 2))) _exit(0);
    atomic_fetch_add(&legacy->restarts, 1);
}

void martlet_supervise(void) {
    legacy = make_legacy();
    if (legacy == NULL) return; // the daemon works without, too
    take_token();
    prctl(PR_SET_NAME, "martlet-init");
    prctl(PR_SET_CHILD_SUBREAPER, 1); // where it is not process 1
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    struct supervision its = {0};
    for (;;) {
        its.daemon = fork();
        if (its.daemon < 0) {
            dprintf(2, "martlet-init: cannot start the daemon: %s\n", strerror(errno));
            _exit(1);
        }
        if (its.daemon == 0) break;
        follow(&its, await_daemon(&its));
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_NAME, "martlet-daemon");
    sigprocmask(SIG_SETMASK, &before, NULL);
}
