"""The engine's disk: how much of it is used, and filled to the brim for a while."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from Rig.engine import Engine
from Rig.environment import Environment

SYNC_SECONDS = 120
SMALLEST_STEP = 64 << 10
REFILL_SECONDS = 0.3


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
        """Full to this much while the block runs. Nothing is written: the room is only claimed, which takes a moment. What others
        give back of a disk that is to be full is claimed as well."""
        filler = self.root / "martlet-test-filler"
        done = threading.Event()
        try:
            with filler.open("wb") as file:
                self._claim(file.fileno(), percent)
                # Only then it is counted.
                self._btrfs("filesystem", "sync", self.root)
                keeper = threading.Thread(target=self._keep_full, args=(file.fileno(), done))
                if percent == 100:
                    keeper.start()
                try:
                    yield
                finally:
                    done.set()
                    if percent == 100:
                        keeper.join()
        finally:
            filler.unlink(missing_ok=True)
            if percent == 100:  # else there is room now, and what was claimed is given back later
                self._btrfs("filesystem", "sync", self.root)

    def _keep_full(self, file: int, done: threading.Event) -> None:
        while not done.wait(REFILL_SECONDS):
            seen = os.statvfs(self.root)
            self._grow(file, os.fstat(file).st_size, max(seen.f_bavail * seen.f_frsize, SMALLEST_STEP), None)

    def _claim(self, file: int, percent: int) -> None:
        seen = os.statvfs(self.root)
        used = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
        wanted = (used + seen.f_bavail * seen.f_frsize) * percent // 100 - used
        assert wanted > 0, f"{self.root} is {self.percent()} % full already"
        self._grow(file, 0, wanted, None if percent == 100 else wanted)

    def _grow(self, file: int, size: int, step: int, limit: int | None) -> None:
        """From `size` on, to `limit` or for as long as there is room."""
        while step >= SMALLEST_STEP and (limit is None or size < limit):
            try:
                os.posix_fallocate(file, size, step)
                size += step
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                step //= 2
