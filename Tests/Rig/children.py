"""Processes that end with the tests, however those end: by an interrupt or a kill, no fixture puts anything away."""

from __future__ import annotations

import subprocess
from pathlib import Path


def dying_with_us(*command: str | Path) -> list[str | Path]:
    """Words that run a command which the kernel kills when whoever starts it is gone. To be started by the main thread: the end
    of a thread counts as its starter's."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *command]


class LastWill:
    """A command that is run when this process ends, or earlier by `execute`; for what runs by itself."""

    def __init__(self, *command: str | Path) -> None:
        # It reads until nobody can write any more. In a session of its own, out of reach of Ctrl-C; and nobody may be left to
        # read what it says.
        self._executor = subprocess.Popen(
            ["sh", "-c", 'read -r _; exec "$@"', "sh", *command],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def execute(self, seconds: float) -> int:
        """Runs it now; its exit code."""
        assert self._executor.stdin is not None
        self._executor.stdin.close()
        return self._executor.wait(seconds)
