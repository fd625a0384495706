"""The engine's disk: how much of it is used, and filled to the brim for a while."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from Rig.engine import Engine
from Rig.environment import Environment

SYNC_SECONDS = 120
SMALLEST_STEP = 64 << 10


class EngineDisk:
    """The file system that the engine of the test keeps all it has on, which is one of its own (`ops/stack/docker`)."""

    def __init__(self, environment: Environment, engine: Engine) -> None:
        self.root = Path(engine.get("/info")["DockerRootDir"]).parent
        own = environment.state / "docker" / "data"
        # Or the machine's own disk would be filled.
        assert self.root == own and os.path.ismount(own), f"the engine's data is in {self.root}, and not on a disk of its own at {own}"

    def settle(self) -> None:
        """Until what was removed is given back: btrfs does that later, by itself."""
        for command in ("filesystem", "subvolume"):
            self._btrfs(command, "sync", self.root)

    def used_bytes(self) -> int:
        (line,) = [each for each in self._btrfs("filesystem", "usage", "--raw", self.root) if each.strip().startswith("Used:")]
        return int(line.split()[1])

    def percent(self) -> int:
        seen = os.statvfs(self.root)
        used = seen.f_blocks - seen.f_bfree
        return 100 * used // (used + seen.f_bavail)

    def subvolumes(self) -> int:
        return len(self._btrfs("subvolume", "list", self.root))

    def quota_groups(self) -> int:
        return len(self._btrfs("qgroup", "show", self.root))

    @staticmethod
    def _btrfs(*arguments: str | Path) -> list[str]:
        done = subprocess.run(["btrfs", *arguments], check=True, capture_output=True, text=True, timeout=SYNC_SECONDS)
        return done.stdout.splitlines()

    @contextmanager
    def filled(self, percent: int = 100) -> Iterator[None]:
        """Full to this much while the block runs. Nothing is written: the room is only claimed, which takes a moment."""
        filler = self.root / "martlet-test-filler"
        try:
            with filler.open("wb") as file:
                self._claim(file.fileno(), percent)
            # Only then it is counted.
            self._btrfs("filesystem", "sync", self.root)
            yield
        finally:
            filler.unlink(missing_ok=True)
            if percent == 100:  # else there is room now, and what was claimed is given back later
                self._btrfs("filesystem", "sync", self.root)

    def _claim(self, file: int, percent: int) -> None:
        seen = os.statvfs(self.root)
        used = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
        wanted = (used + seen.f_bavail * seen.f_frsize) * percent // 100 - used
        assert wanted > 0, f"{self.root} is {self.percent()} % full already"
        size, step = 0, wanted
        while step >= SMALLEST_STEP and (size < wanted or percent == 100):
            try:
                os.posix_fallocate(file, size, step)
                size += step
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                step //= 2
