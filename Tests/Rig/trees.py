"""All that a container's own file system holds, read from the host: what is to be the same after a round trip."""

from __future__ import annotations

import hashlib
import os
import stat

# What the engine, or Martlet, makes anew in each container; folders in which they do so have a time of their own.
MADE_ANEW = {b"/.dockerenv", b"/etc/mtab", b"/.martlet", b"/.martlet/bin"}
TOUCHED = {b"/", b"/etc", b"/dev"}

Tree = dict[bytes, tuple[object, ...]]


def read_tree(pid: int) -> Tree:
    """Path → contents, mode, owner, time, links and extended attributes, of the process' root without what is mounted in it."""
    root = b"/proc/%d/root" % pid
    device = os.lstat(root + b"/").st_dev
    found: Tree = {}
    first_names: dict[int, bytes] = {}

    def visit(path: bytes) -> None:
        status = os.lstat(root + path)
        if status.st_dev != device or stat.S_ISSOCK(status.st_mode):
            return
        if path not in MADE_ANEW:
            found[path] = describe(path, status)
        if stat.S_ISDIR(status.st_mode):
            for name in sorted(os.listdir(root + path)):
                visit(os.path.join(path, name))

    def describe(path: bytes, status: os.stat_result) -> tuple[object, ...]:
        whole = root + path
        names = sorted(os.listxattr(whole, follow_symlinks=False))
        attributes = tuple((name, os.getxattr(whole, name, follow_symlinks=False)) for name in names)
        time = None if path in TOUCHED else status.st_mtime_ns
        said: tuple[object, ...] = (oct(status.st_mode), status.st_uid, status.st_gid, time, attributes)
        if stat.S_ISREG(status.st_mode):
            said += (status.st_size, hash_of(whole))
            # Not by the number of links: overlayfs does not count down what is gone of an image's.
            if (first := first_names.setdefault(status.st_ino, path)) != path:
                said += (first,)
        elif stat.S_ISLNK(status.st_mode):
            said += (os.readlink(whole),)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            said += (status.st_rdev,)
        return said

    visit(b"/")
    return found


def hash_of(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_same(before: Tree, after: Tree) -> None:
    differing = [path for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path)]
    shown = [f"{path!r}: {before.get(path)} became {after.get(path)}" for path in differing[:5]]
    assert not differing, f"{len(differing)} differ: " + "; ".join(shown)
