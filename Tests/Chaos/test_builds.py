"""A runner that dies while it builds."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from Rig.engine import Engine
from Rig.sandboxes import Sandboxes
from Rig.stack import Stack
from Rig.waiting import eventually


@pytest.mark.deadline(180)
def test_a_build_outlives_its_runner(
    api: httpx.Client, sandboxes: Sandboxes, stack: Stack, busybox: str, engine: Engine
) -> None:
    """And what it had made by then goes, although the step that the engine is at is in the way of that."""
    mark = f"of-{time.time_ns()}"
    dockerfile = f"FROM martlet/busybox:test\nRUN echo {mark}\nRUN echo begun; sleep 15; echo done-it\n"
    asked = api.post("/sandbox", json={"buildInfo": {"dockerfileContent": dockerfile}, "labels": sandboxes.labels()}).json()["id"]
    logs = lambda: api.get(f"/sandbox/{asked}/build-logs").text  # noqa: E731
    eventually(lambda: "begun" in logs().splitlines(), 30, "the build to begin")
    former = set(engine.unnamed_steps(mark))
    assert former
    stack.kill("runner")
    stack.start("runner")

    def ended() -> dict[str, Any] | None:
        found = api.get(f"/sandbox/{asked}").json()
        return found if found["state"] in ("started", "error", "build_failed") else None

    assert eventually(ended, 120, "the build to end")["state"] == "started"
    assert "begins anew" in logs() and "done-it" in logs()
    eventually(lambda: not former & set(engine.unnamed_steps(mark)), 60, "what the first runner has made to be gone")
    sandboxes.remove()
