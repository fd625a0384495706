#ifndef CLINUX_TREE_H
#define CLINUX_TREE_H

// What Swift's Glibc leaves out and a tree of files needs: extended attributes, and the two numbers of a device.
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/xattr.h>

static inline unsigned martlet_device_major(dev_t device) { return major(device); }
static inline unsigned martlet_device_minor(dev_t device) { return minor(device); }

#endif
