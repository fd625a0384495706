#ifndef MARTLET_SUPERVISOR_H
#define MARTLET_SUPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// What a daemon leaves to the one that follows it.
enum martlet_legacy_item {
    MARTLET_LEGACY_TOKEN,
    MARTLET_LEGACY_ENVIRONMENT,
    MARTLET_LEGACY_DISK_LIMIT,
    MARTLET_LEGACY_ENTRYPOINT_END,
    MARTLET_LEGACY_RECORDING,
    MARTLET_LEGACY_ITEMS,
};

/// How daemons that end by themselves are followed by others.
enum {
    MARTLET_RESTART_LIMIT = 5,          ///< so many within the window; one more, and the supervisor ends as well
    MARTLET_RESTART_WINDOW_SECONDS = 60,
    MARTLET_DAEMON_MISCONFIGURED = 2,   ///< exit status of a daemon that would fail again
};

/// Splits this process into a *supervisor*, in which this never returns, and the daemon, in which it does: again and again, in
/// a new process each time, when the one before ended by itself. To be called before anything makes a thread.
///
/// The supervisor is meant to be process 1 of a sandbox, which no program in it can kill. It reaps what is left to it, hands
/// on signals of the engine's that ask to stop, and before a new daemon begins it has ended all that the old one ran. It ends with the
/// daemon's status when it was asked to stop or the configuration is bad, and with 1 when daemons end too often.
///
/// It takes the token out of the variable MARTLET_DAEMON_TOKEN, where /proc would show it: it is in the legacy then.
void martlet_supervise(void);

/// How many daemons were before this one; 0 also where there is no supervisor.
uint32_t martlet_legacy_restarts(void);

/// Leaves bytes to the daemons that follow, in place of what was left as this item before: all or, when this process is killed
/// meanwhile, nothing. In memory that only these processes have. 0; -ENOTSUP without a supervisor; -E2BIG if it is too much.
/// Not for two threads at once with the same item.
int martlet_legacy_keep(enum martlet_legacy_item item, const void *bytes, size_t length);

/// What was left as this item last, valid until it is left anew twice; NULL if nothing was.
const void *martlet_legacy_find(enum martlet_legacy_item item, size_t *length);

#endif
