#ifndef MARTLET_TOOLBOX_H
#define MARTLET_TOOLBOX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// Kinds of the reports that a keeper writes (see `martlet_spawn`).
enum {
    MARTLET_REPORT_STARTED = 1, ///< value: process id of the leader
    MARTLET_REPORT_FAILED = 2,  ///< value: errno of the step that kept the program from running
    MARTLET_REPORT_EXITED = 3,  ///< value: wait status of the leader
};

/// Commands that a keeper reads, one byte each; every other byte below 65 is a signal number for the leader's group.
enum {
    MARTLET_KEEPER_KILL = 'K', ///< SIGKILL to every descendant, wherever it moved
};

/// One report: eight bytes, written at once.
struct martlet_report {
    int32_t kind;
    int32_t value;
};

/// What a supervised tree of processes is started with. Everything is borrowed for the duration of the call.
struct martlet_spawn_request {
    const char *path;      ///< program, absolute or relative to `directory`
    char *const *argv;     ///< ends with NULL
    char *const *envp;     ///< ends with NULL
    int directory;         ///< descriptor of the working directory, or -1
    int input;             ///< becomes descriptor 0
    int output;            ///< becomes descriptor 1
    int error;             ///< becomes descriptor 2
    int source;            ///< becomes descriptor MARTLET_SOURCE_DESCRIPTOR, or -1
    int artifacts;         ///< becomes descriptor MARTLET_ARTIFACTS_DESCRIPTOR, or -1
    int control;           ///< read end of the keeper's commands
    int report;            ///< write end of the keeper's reports
};

enum {
    MARTLET_ARTIFACTS_DESCRIPTOR = 8,
    MARTLET_SOURCE_DESCRIPTOR = 9,
};

/// Starts a program under a *keeper*: a small process between the daemon and the program that is the reaper of all its
/// descendants (PR_SET_CHILD_SUBREAPER). So none of them can leave the tree, whatever sessions or groups they make and
/// however often they fork, and all of them can be killed. The program leads a session of its own.
///
/// The keeper reports start, failure and exit of the program, and ends (closing `report`) when no descendant is left.
/// It kills all of them when told so, and when `control` is closed because the daemon is gone.
/// Returns the keeper's process id, or -errno. Safe to call from any thread.
pid_t martlet_spawn(const struct martlet_spawn_request *request);

/// memfd_create, or -errno.
int martlet_memory_file(const char *name);

/// renameat2 with RENAME_NOREPLACE; 0 or -errno.
int martlet_rename_exclusive(const char *source, const char *destination);

/// Keeps the allocator from making one arena for each thread: idle memory counts more than parallel malloc here.
void martlet_limit_arenas(void);

#endif
