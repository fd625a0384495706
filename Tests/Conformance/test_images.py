"""One static daemon in any image: Debian (the default), busybox, and nothing at all."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import REPOSITORY, Environment
from Rig.sandboxes import Sandboxes, add_snapshot
from Rig.waiting import eventually

SCRATCH = "martlet-test-scratch"


def test_busybox(small: Any) -> None:
    assert small.process.exec("echo $((6 * 7)); id -u").result == "42\n0\n"
    small.fs.upload_file(b"content", "/a/b")
    assert small.fs.download_file("/a/b") == b"content"
    missing = small.process.code_run("print(1)")
    assert missing.exit_code != 0 and "python" in missing.result.lower(), "no Python here: said, not crashed"


def test_nothing_at_all(sandboxes: Sandboxes, database: Database, engine: Engine, environment: Environment) -> None:
    if not engine.has_image("martlet/scratch:test"):
        ops = REPOSITORY / "ops" / "stack" / "image"
        subprocess.run([ops, "scratch", "--docker-host", environment.docker_host], check=True, timeout=120)
    add_snapshot(database, SCRATCH, "martlet/scratch:test")
    made = sandboxes.create(snapshot=SCRATCH)
    made.fs.upload_file(b"content", "/folder/file")
    assert made.fs.download_file("/folder/file") == b"content"
    assert "folder" in {each.name for each in made.fs.list_files("/")}
    assert made.get_work_dir() == "/"
    without_shell = made.process.exec("true")
    assert without_shell.exit_code == -1 and "sh" in without_shell.result
    sandboxes.remove([made.id])


@pytest.mark.parametrize("which", ["shared", "small"])
def test_the_daemon_is_one_static_file_that_nobody_in_the_sandbox_can_change(
    which: str, request: pytest.FixtureRequest
) -> None:
    box = request.getfixturevalue(which)
    assert box.process.exec("head -c 4 /.martlet/bin/martlet-daemon | od -c | head -1").result.split()[1:5] == [
        "177", "E", "L", "F",
    ]  # fmt: skip
    assert box.process.exec("echo x >> /.martlet/bin/martlet-daemon").exit_code != 0
    assert box.process.exec("rm -f /.martlet/bin/martlet-daemon; test -e /.martlet/bin/martlet-daemon").exit_code == 0
    assert "daemon" not in box.process.exec("ldd /.martlet/bin/martlet-daemon 2>&1 | grep '=>'; true").result


def test_the_images_entrypoint_runs(sandboxes: Sandboxes, database: Database, busybox: str) -> None:
    """An entrypoint that serves, and one that ends at once: the sandbox is up in both cases."""
    for name, entrypoint in (("serves", "{/bin/sh,-c,'while :; do echo up >/tmp/up; sleep 1; done'}"), ("ends", "{/bin/false}")):
        snapshot = f"martlet-test-entrypoint-{name}"
        add_snapshot(database, snapshot, "martlet/busybox:test")
        database.execute("UPDATE snapshot SET entrypoint = :'argv' WHERE name = :'name'", argv=entrypoint.replace("'", '"'), name=snapshot)
        made = sandboxes.create(snapshot=snapshot)
        if name == "serves":
            eventually(lambda: made.process.exec("cat /tmp/up 2>/dev/null").result.strip() == "up", 60, "its entrypoint to run")
        else:
            assert made.process.exec("sleep 0.5; cat /tmp/up 2>/dev/null || echo none").result.strip() == "none"
        sandboxes.remove([made.id])
        database.execute("DELETE FROM snapshot WHERE name = :'name'", name=snapshot)
