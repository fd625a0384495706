#ifndef CLINUX_NETNS_H
#define CLINUX_NETNS_H

#include <sys/types.h>

/// The process is not in the control group that was named: its number has been given to another.
#define MARTLET_NETNS_STRANGER 10001
/// The process lives in the caller's own network namespace, which is never a sandbox's.
#define MARTLET_NETNS_HOME 10002

/// Makes a non-blocking, close-on-exec TCP/IPv4 socket in the network namespace of process `pid`.
///
/// A socket belongs for life to the namespace it was made in, so the caller connects it from anywhere.
/// The process is held through one descriptor of /proc/<pid> while a line of its cgroup file is checked to contain
/// `cgroup_fragment` (a container's id) and its namespace is opened: a number that was given to another process in
/// between is never followed.
///
/// setns(2) is called on a thread made for this one call, which then ends; no thread of the caller's ever changes its
/// namespace, so none can fail to come back.
///
/// @return the descriptor, or a negative errno, or -MARTLET_NETNS_STRANGER, or -MARTLET_NETNS_HOME.
///         -ESRCH and -ENOENT: there is no such process.
int martlet_netns_socket(pid_t pid, const char *cgroup_fragment);

/// Makes descriptor `target` refer to what `source` refers to (dup3 with close-on-exec). @return 0 or a negative errno.
int martlet_reseat(int source, int target);

#endif
