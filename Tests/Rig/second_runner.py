"""A second host beside the Martlet under test: a runner with an engine, a disk and a network of its own.

It is a state folder as ops/quickstart makes one, but with nothing in it except a runner: ops/stack/service and ops/down do with it
what they do with any. Both hosts meet where hosts meet: in Postgres, the registry, S3, and at the proxy, which reaches this one
through its ingress.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Iterator

from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import REPOSITORY, Environment
from Rig.network import HostNetwork, free_port
from Rig.stack import Stack

NAME = "second"
OPS = REPOSITORY / "ops"
DISK_GIB = 40  # sparse
COMMAND_SECONDS = 150


class SecondRunner:
    """`with SecondRunner(…) as second`: it runs. Afterwards nothing is left of it, whatever happened."""

    def __init__(self, environment: Environment, database: Database, host: HostNetwork) -> None:
        self._database = database
        self._host = host
        self._first = environment.state
        self._binary = environment.binary
        self.name = NAME
        self.folder = environment.state / NAME  # where ops/test looks for what is left, too
        self._bridge = f"mrt-{hashlib.sha256(bytes(self.folder)).hexdigest()[:8]}"
        control = ("env", f"MARTLET_STATE={self.folder}", *environment.stack_ctl)
        self.environment = replace(environment, state=self.folder, stack_ctl=control)
        self.stack = Stack(self.environment)
        self.id = ""
        self.engine: Engine

    def __enter__(self) -> SecondRunner:
        self.close()  # what a run left that was killed
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        left = self.leftovers()
        assert not left, f"left of the second runner: {left}"

    def is_reachable(self) -> bool:
        """Whether its lease holds."""
        return bool(self._database.value("SELECT expires_at > now() FROM runner_lease WHERE runner_id = :'id'", id=self.id))

    def leftovers(self) -> list[str]:
        """Processes, mounts, loop devices, interfaces and rules of it."""
        folder = os.fsencode(self.folder)
        found = [f"process {each.parent.name}" for each in Path("/proc").glob("[0-9]*/cmdline") if folder in read(each)]
        found += [each for each in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.folder) in each]
        found += [each for each in run("losetup", "--list", "--noheadings").splitlines() if str(self.folder) in each]
        # Chains of builds have another eighth letter.
        names = [self._bridge, *([f"MRT-{self.id[:7]}"] if self.id else [])]
        said = self._host.run("ip", "-oneline", "link").splitlines() + self._host.rules()
        return found + [each for each in said if any(name in each for name in names)]

    def close(self) -> None:
        if self.folder.exists():
            run(OPS / "down", "--purge", "--state", self.folder)
        for row in self._database.rows("SELECT id, db_role FROM runner WHERE name = :'name'", name=self.name):
            self._database.execute(FORGET, id=row["id"], role=row["db_role"])

    def _make(self) -> None:
        for each in ("run", "log", "services"):
            (self.folder / each).mkdir(parents=True, mode=0o700)
        for each in ("bin", "daemon"):
            (self.folder / each).symlink_to(self._first / each)
        docker = OPS / "stack" / "docker", self.folder / "docker"
        engine = run(docker[0], "host", docker[1]).strip()
        self._write("settings", OWN_POSTGRES="", OWN_DOCKER="1", OWN_S3="", OWN_REGISTRY="", DOCKER_URL=engine,
            DATABASE_URL=self._database.url, RUNNER_NAME=self.name)
        run(docker[0], "start", docker[1], "--size", str(DISK_GIB))
        run(OPS / "stack" / "image", "busybox", "--docker-host", engine)
        login = run(self._binary, "runner", "create", "--name", self.name, "--region", self.environment.target,
            MARTLET_DATABASE_URL=self._database.url).strip()
        self.id = str(self._database.value("SELECT id FROM runner WHERE name = :'name'", name=self.name))
        self._write("services/runner.url", text=f"{login}\n")
        # All else is as on the first host.
        self._write("services/runner.env", text=f". {shlex.quote(str(self._first / 'services' / 'runner.env'))}\n",
            MARTLET_DATABASE_URL=login, MARTLET_DOCKER_HOST=engine, MARTLET_STATE_DIR=str(self.folder / "runner"),
            MARTLET_RUNNER_INGRESS_LISTEN=f"127.0.0.1:{free_port()}", MARTLET_RUNNER_BRIDGE=self._bridge,
            MARTLET_RUNNER_SUBNET=self._free_subnet(), MARTLET_HANDOVER_DIR="")
        self.engine = Engine(engine)
        self.stack.start("runner")

    def _write(self, name: str, text: str = "", **values: str) -> None:
        file = self.folder / name
        file.touch(mode=0o600)
        file.write_text(text + "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items()))

    def _free_subnet(self) -> str:
        used = self._host.run("ip", "-4", "route", "show", "table", "all")
        return next(f"10.{each}.0.0/16" for each in range(200, 250) if f"10.{each}." not in used)


# As an operator does after a host is gone for good; what a failed test left on it too.
FORGET = """
    UPDATE sandbox SET desired_state = 'destroyed' WHERE desired_state <> 'destroyed'
        AND id IN (SELECT sandbox_id FROM sandbox_placement WHERE runner_id = :'id');
    WITH gone AS (DELETE FROM sandbox_placement WHERE runner_id = :'id' RETURNING sandbox_id)
        UPDATE sandbox SET destroyed_at = now() FROM gone WHERE id = gone.sandbox_id;
    DELETE FROM runner WHERE id = :'id';
    DROP ROLE :"role";
"""


@contextmanager
def only(database: Database, runner: str) -> Iterator[None]:
    """While the block runs, all runners but this one are closed to sandboxes and work that nobody has yet."""
    database.execute("UPDATE runner SET schedulable = (id = :'id');", id=runner)
    try:
        yield
    finally:
        database.execute("UPDATE runner SET schedulable = true;")


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, timeout=COMMAND_SECONDS, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command[0]} {command[1]} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""  # it ended meanwhile
