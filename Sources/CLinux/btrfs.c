#define _GNU_SOURCE
#include "btrfs.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int open_directory(const char *path) {
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return directory < 0 ? -errno : directory;
}

/// The number of the subvolume that `directory` is the root of.
static int subvolume_number(int directory, uint64_t *number) {
    struct btrfs_ioctl_ino_lookup_args lookup = {.treeid = 0, .objectid = BTRFS_FIRST_FREE_OBJECTID};
    if (ioctl(directory, BTRFS_IOC_INO_LOOKUP, &lookup) != 0) return -errno;
    *number = lookup.treeid;
    return 0;
}

/// Copies the item (0, type, offset) of the quota tree.
static int quota_item(int directory, uint32_t type, uint64_t offset, void *item, size_t size) {
    struct btrfs_ioctl_search_args search = {
        .key = {
            .tree_id = BTRFS_QUOTA_TREE_OBJECTID,
            .min_type = type, .max_type = type,
            .min_offset = offset, .max_offset = offset,
            .max_transid = UINT64_MAX,
            .nr_items = 1,
        },
    };
    if (ioctl(directory, BTRFS_IOC_TREE_SEARCH, &search) != 0) return -errno;
    if (search.key.nr_items == 0) return -ENOENT;
    struct btrfs_ioctl_search_header header;
    memcpy(&header, search.buf, sizeof header);
    if (header.len < size || sizeof header + size > sizeof search.buf) return -EINVAL;
    memcpy(item, search.buf + sizeof header, size);
    return 0;
}

static int read_quota(int directory, uint64_t *used, uint64_t *limit) {
    uint64_t number = 0;
    struct btrfs_qgroup_info_item counted;
    struct btrfs_qgroup_limit_item allowed;
    int failure = subvolume_number(directory, &number);
    if (failure == 0) failure = quota_item(directory, BTRFS_QGROUP_INFO_KEY, number, &counted, sizeof counted);
    if (failure == 0) failure = quota_item(directory, BTRFS_QGROUP_LIMIT_KEY, number, &allowed, sizeof allowed);
    if (failure != 0) return failure;
    *used = le64toh(counted.rfer);
    *limit = le64toh(allowed.flags) & BTRFS_QGROUP_LIMIT_MAX_RFER ? le64toh(allowed.max_rfer) : 0;
    return 0;
}

int martlet_btrfs_quota(const char *path, uint64_t *used, uint64_t *limit) {
    int directory = open_directory(path);
    if (directory < 0) return directory;
    int result = read_quota(directory, used, limit);
    close(directory);
    return result;
}

int martlet_btrfs_set_quota(const char *path, uint64_t limit) {
    int directory = open_directory(path);
    if (directory < 0) return directory;
    // Group 0 means that of the subvolume itself.
    struct btrfs_ioctl_qgroup_limit_args arguments = {
        .lim = {.flags = BTRFS_QGROUP_LIMIT_MAX_RFER, .max_rfer = limit},
    };
    int result = ioctl(directory, BTRFS_IOC_QGROUP_LIMIT, &arguments) == 0 ? 0 : -errno;
    close(directory);
    return result;
}

int martlet_btrfs_snapshot(const char *path, const char *folder, const char *name) {
    struct btrfs_ioctl_vol_args_v2 arguments = {.flags = BTRFS_SUBVOL_RDONLY};
    if (strlen(name) >= sizeof arguments.name) return -ENAMETOOLONG;
    strcpy(arguments.name, name);
    int source = open_directory(path);
    if (source < 0) return source;
    int target = open_directory(folder);
    if (target < 0) {
        close(source);
        return target;
    }
    arguments.fd = source;
    int result = ioctl(target, BTRFS_IOC_SNAP_CREATE_V2, &arguments) == 0 ? 0 : -errno;
    close(target);
    close(source);
    return result;
}

/// The number of the subvolume `name` of this folder; 0 where it is none.
static uint64_t number_of(int folder, const char *name) {
    uint64_t number = 0;
    int subvolume = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (subvolume < 0 || subvolume_number(subvolume, &number) != 0) number = 0;
    if (subvolume >= 0) close(subvolume);
    return number;
}

int martlet_btrfs_remove_subvolume(const char *folder, const char *name) {
    struct btrfs_ioctl_vol_args arguments = {0};
    if (strlen(name) >= sizeof arguments.name) return -ENAMETOOLONG;
    strcpy(arguments.name, name);
    int target = open_directory(folder);
    if (target < 0) return target;
    struct btrfs_ioctl_qgroup_create_args group = {.qgroupid = number_of(target, name)};
    int result = ioctl(target, BTRFS_IOC_SNAP_DESTROY, &arguments) == 0 ? 0 : -errno;
    // Older kernels keep its quota group for ever. Newer ones remove it themselves, and refuse this, as do those without quotas.
    if (result == 0 && group.qgroupid > 0) ioctl(target, BTRFS_IOC_QGROUP_CREATE, &group);
    close(target);
    return result;
}
