"""Starting, stopping and killing the parts of the Martlet under test."""

from __future__ import annotations

import subprocess

import httpx

from Rig.environment import Environment
from Rig.processes import is_alive
from Rig.waiting import eventually

PARTS = ("api", "runner", "proxy", "ssh-gateway", "postgres", "docker", "registry")
CONTROL_SECONDS = 120


class Stack:
    """What `MARTLET_STACK_CTL` can do, and the pids of our own processes."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def control(self, action: str, part: str) -> None:
        """Runs `$MARTLET_STACK_CTL action part` to its end; raises with its output when it fails."""
        done = subprocess.run(
            [*self._environment.stack_ctl, action, part], capture_output=True, text=True, timeout=CONTROL_SECONDS
        )
        assert done.returncode == 0, f"stack: {action} {part} failed:\n{done.stdout}{done.stderr}"

    def start(self, part: str) -> None:
        self.control("start", part)

    def stop(self, part: str) -> None:
        self.control("stop", part)

    def kill(self, part: str) -> None:
        """kill -9."""
        self.control("kill9", part)

    def restart(self, part: str) -> None:
        self.control("restart", part)

    def pid(self, part: str) -> int:
        file = self._environment.state / "run" / f"{part}.pid"
        pid = int(file.read_text().split()[0])
        assert is_alive(pid), f"{file} names {pid}, which does not run"
        return pid

    def pids(self) -> dict[str, int]:
        return {part: self.pid(part) for part in ("api", "runner", "proxy")}

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self._environment.api_url}/health/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until_ready(self, within: float = 60) -> None:
        eventually(self.is_ready, within, "GET /health/ready to answer 200")
