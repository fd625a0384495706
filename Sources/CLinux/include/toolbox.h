#ifndef MARTLET_TOOLBOX_H
#define MARTLET_TOOLBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// Kinds of the reports that a keeper writes (see `martlet_spawn`).
enum {
    MARTLET_REPORT_STARTED = 1, ///< value: process id of the leader
    MARTLET_REPORT_FAILED = 2,  ///< value: errno of the step that kept the program from running
    MARTLET_REPORT_EXITED = 3,  ///< value: wait status of the leader
    MARTLET_REPORT_SIGNALLED = 4, ///< value: the signal that was sent as commanded; one report for each, in order
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
    int terminal;          ///< becomes the controlling terminal of the program's session, or -1
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

/// Kills every descendant of this process and reaps what thereby becomes its child, for at most so long; false when some are
/// left then. For the only thread of a process that reaps its descendants and blocks SIGCHLD.
bool martlet_end_descendants(int milliseconds);

/// Lets this process open so many descriptors, as far as its hard limit allows; the programs that it starts get the limit
/// that was there before. To be called once, before any program is started.
void martlet_raise_descriptor_limit(uint64_t wanted);

/// Opens a new pseudo-terminal of the given size, both ends close-on-exec; 0 or -errno.
int martlet_terminal_open(uint16_t columns, uint16_t rows, int *master, int *slave);

/// Sets the size of a pseudo-terminal; its foreground programs get SIGWINCH. 0 or -errno.
int martlet_terminal_resize(int master, uint16_t columns, uint16_t rows);

/// What a file is: the parts of struct stat that the toolbox shows.
struct martlet_file_status {
    uint32_t mode;
    uint32_t user;
    uint32_t group;
    int64_t size;
    int64_t modified_seconds;
    int64_t modified_nanoseconds;
    uint64_t device;
    uint64_t inode;
};

/// fstatat of `path` below an opened directory (AT_FDCWD if it is absolute), following a final link or not; 0 or -errno.
int martlet_status_at(int directory, const char *path, int follow, struct martlet_file_status *status);

/// fstat; 0 or -errno.
int martlet_status_of(int descriptor, struct martlet_file_status *status);

/// Flags that the C library shows only to _GNU_SOURCE.
extern const int martlet_o_path;
extern const int martlet_o_tmpfile;

/// A stream of a directory's entries for an opened descriptor, which it takes over on success; NULL with errno else.
void *martlet_directory_open(int descriptor);

/// The next name, without "." and "..", valid until the next call; NULL at the end.
const char *martlet_directory_next(void *directory);

/// Closes the stream and its descriptor.
void martlet_directory_close(void *directory);

/// pipe2 with O_CLOEXEC; 0 or -errno.
int martlet_pipe(int *read_end, int *write_end);

/// memmem: where `needle` begins in `hay`, or -1.
ptrdiff_t martlet_find(const void *hay, size_t hay_length, const void *needle, size_t needle_length);

/// Sizes in bytes of the file system that holds `path`; 0 or -errno.
int martlet_space(const char *path, uint64_t *total, uint64_t *available, uint64_t *available_to_root);

/// How large a file may be that a process writes, in bytes; UINT64_MAX for as large as its hard limit lets it. 0 or -errno.
int martlet_limit_files(pid_t process, uint64_t bytes);

/// memfd_create, or -errno.
int martlet_memory_file(const char *name);

/// renameat2 with RENAME_NOREPLACE; 0 or -errno.
int martlet_rename_exclusive(const char *source, const char *destination);

/// Keeps the allocator from making one arena for each thread, and from keeping what large transfers needed: idle memory
/// counts more than parallel malloc here.
void martlet_limit_memory(void);

#endif
