"""A registry of the test's own: a user's, as opposed to Martlet's. It wants a login, and can be stopped and started."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import httpx

from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import REPOSITORY
from Rig.network import free_port

CONTROL = REPOSITORY / "ops" / "stack" / "registry"
CONTROL_SECONDS = 60


class UserRegistry:
    """`ops/stack/registry` in a folder of its own, on a loopback port that an operator has opened for everybody."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self._engine = engine
        self._database = database
        self._folder = Path(tempfile.mkdtemp(prefix="martlet-test-registry-"))
        self.host = f"127.0.0.1:{free_port()}"
        self.start()
        self.username = (self._folder / "username").read_text().strip()
        self.password = (self._folder / "password").read_text().strip()
        database.execute("INSERT INTO docker_registry (name, host) VALUES (:'host', :'host');", host=self.host)

    def close(self) -> None:
        self._database.execute("DELETE FROM docker_registry WHERE organization_id IS NULL AND host = :'host';", host=self.host)
        self._control("purge")
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        self._control("start", "--port", self.host.partition(":")[2])

    def stop(self) -> None:
        self._control("stop")

    def collect(self, before: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Gives back what no image has any more; `before` holds programs that are found before the system's."""
        path = os.environ["PATH"] if before is None else f"{before}:{os.environ['PATH']}"
        return subprocess.run(
            [CONTROL, "collect", self._folder], capture_output=True, text=True, timeout=CONTROL_SECONDS,
            env={**os.environ, "PATH": path}, start_new_session=True,
        )

    def push(self, image: str, name: str) -> str:
        """Puts an image of the engine here as `name` (path:tag) and forgets that name there; returns the whole name."""
        repository, _, tag = name.partition(":")
        whole = f"{self.host}/{repository}"
        answer = self._engine.request("POST", f"/images/{image}/tag", repo=whole, tag=tag)
        assert answer.status_code == 201, answer.text
        login = base64.urlsafe_b64encode(json.dumps({"username": self.username, "password": self.password}).encode()).decode()
        pushed = self._engine.push(whole, tag, login)
        assert '"errorDetail"' not in pushed, pushed
        answer = self._engine.request("DELETE", f"/images/{whole}:{tag}")
        assert answer.status_code == 200, answer.text
        return f"{whole}:{tag}"

    def client(self) -> httpx.Client:
        """The registry's own interface."""
        return httpx.Client(base_url=f"http://{self.host}/v2", auth=(self.username, self.password), timeout=30)

    def _control(self, action: str, *arguments: str) -> None:
        done = subprocess.run(
            [CONTROL, action, self._folder, *arguments], capture_output=True, text=True, timeout=CONTROL_SECONDS
        )
        assert done.returncode == 0, f"registry {action}: {done.stdout}{done.stderr}"
