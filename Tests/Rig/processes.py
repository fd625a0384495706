"""Processes of this machine as /proc shows them."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Callable, NamedTuple


def anonymous_bytes(pid: int) -> int:
    """Memory that is the process's own (RssAnon): not its binary, not the page cache."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory any more")


def private_dirty_bytes(pid: int) -> int:
    """Private_Dirty of smaps_rollup: what one more such process costs."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no smaps_rollup")


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_seconds(pid: int) -> float:
    """User and system time since the process began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def in_container(init: int) -> list[int]:
    """Host pids of all processes in the pid namespace of a container's init."""
    space = os.readlink(f"/proc/{init}/ns/pid")
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/pid") == space:
                found.append(int(entry))
        except OSError:
            continue  # it ended meanwhile
    return found


def daemon_of(init: int) -> int:
    """Host pid of the daemon in a container: not of its supervisor, which is the init, nor of a keeper."""
    for pid in in_container(init):
        try:
            if os.readlink(f"/proc/{pid}/exe").endswith("/martlet-daemon"):
                if Path(f"/proc/{pid}/comm").read_text() == "martlet-daemon\n":
                    return pid
        except OSError:
            continue
    raise AssertionError(f"no martlet-daemon runs in the container with init {init}")


class Inside(NamedTuple):
    """A process of a sandbox, numbered as in there."""

    pid: int
    parent: int
    state: str
    name: str


def inside(init: int) -> list[Inside]:
    """All processes of the container with that init, zombies too, seen without running anything in it."""
    found = []
    for entry in os.listdir(f"/proc/{init}/root/proc"):
        try:
            if entry.isdigit():
                head, _, tail = Path(f"/proc/{init}/root/proc/{entry}/stat").read_text().rpartition(")")
                found.append(Inside(int(entry), int(tail.split()[1]), tail.split()[0], head.partition("(")[2]))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return sorted(found)


def descriptors(pid: int) -> Counter[str]:
    """How many descriptors of each kind a process has: of files their names, of others their types."""
    kinds: Counter[str] = Counter()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            kinds[re.sub(r":?\[\d+\]$", "", os.readlink(f"/proc/{pid}/fd/{entry}"))] += 1
        except FileNotFoundError:
            continue  # it was closed meanwhile
    return kinds


class MemoryWatch:
    """Samples the memory of processes while a block runs: `with MemoryWatch({"proxy": pid}) as watch`."""

    def __init__(self, processes: dict[str, int], sample: Callable[[int], int] = anonymous_bytes) -> None:
        self._processes = processes
        self._sample = sample
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.before: dict[str, int] = {}
        self.highest: dict[str, int] = {}

    def __enter__(self) -> MemoryWatch:
        self.before = {name: self._sample(pid) for name, pid in self._processes.items()}
        self.highest = dict(self.before)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            for name, pid in self._processes.items():
                try:
                    self.highest[name] = max(self.highest[name], self._sample(pid))
                except (OSError, ProcessLookupError):
                    self.highest[name] = 1 << 60  # it died: no growth is worse

    def growth(self) -> dict[str, int]:
        return {name: self.highest[name] - self.before[name] for name in self.before}


def settle(seconds: float) -> None:
    """Lets background work of the system under test pass, where there is no signal to wait for (memory, counters)."""
    time.sleep(seconds)
