#ifndef CLINUX_HANDOVER_H
#define CLINUX_HANDOVER_H

#include <stddef.h>

/// Who listens is neither root nor of the caller's own user.
#define MARTLET_HANDOVER_STRANGER 10003

/// Sends `text` over the connected Unix socket `connection`, and `descriptor` with it, which stays open here as well.
/// Does not block. @return 0 or a negative errno; -EAGAIN where not all of it was taken.
int martlet_hand_over(int connection, int descriptor, const char *text);

/// Connects to the Unix socket `path`, sends `request`, and reads the answer until a descriptor comes with it, or it ends,
/// or `limit - 1` bytes are there. Blocks, in each of these steps for at most `milliseconds`.
///
/// Nothing is said to a listener that is neither root nor of the caller's own user.
///
/// @param answer gets the text, ended by NUL.
/// @param descriptor gets what was handed over, close-on-exec, or -1.
/// @return the connection, which the caller closes; or a negative errno, or -MARTLET_HANDOVER_STRANGER.
int martlet_take_over(const char *path, const char *request, int milliseconds, void *answer, size_t limit, int *descriptor);

#endif
