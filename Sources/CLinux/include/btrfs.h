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

/// Makes a read-only snapshot of the subvolume at `path`, called `name`, in the directory `folder` of the same file system. What
/// was written before the call is in it.
/// @return 0 or a negative errno; -EEXIST where the name is taken, -ENAMETOOLONG.
int martlet_btrfs_snapshot(const char *path, const char *folder, const char *name);

/// Removes the subvolume `name` of the directory `folder`, and its quota group.
/// @return 0 or a negative errno, as above; -ENOENT where it is not there.
int martlet_btrfs_remove_subvolume(const char *folder, const char *name);

#endif
