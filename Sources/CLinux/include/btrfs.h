#ifndef CLINUX_BTRFS_H
#define CLINUX_BTRFS_H

#include <stdint.h>

/// Reads what the quota group of a btrfs subvolume counts and allows.
///
/// @param path   the subvolume's root
/// @param used   bytes it refers to, as of the last commit (up to 30 s ago)
/// @param limit  bytes it may refer to; 0 if not limited
/// @return 0 or a negative errno: -ENOTTY on another file system, -ENOENT where quotas are off, -EINVAL below a root
int martlet_btrfs_quota(const char *path, uint64_t *used, uint64_t *limit);

/// Limits what a btrfs subvolume may refer to. Needs CAP_SYS_ADMIN. @return 0 or a negative errno, as above.
int martlet_btrfs_set_quota(const char *path, uint64_t limit);

#endif
