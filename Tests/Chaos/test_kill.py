"""kill -9 of the runner, the API and the proxy, at any moment, repeatedly, under load."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from workload import Workload, remove_chaos

from Rig.database import Database
from Rig.environment import Environment
from Rig.order import Order
from Rig.sandboxes import Sandboxes
from Rig.stack import Stack
from Rig.waiting import eventually

SECONDS = float(os.environ.get("MARTLET_CHAOS_SECONDS", "30"))


@pytest.mark.deadline(SECONDS * 3 + 180)
@pytest.mark.parametrize("parts", [("runner",), ("api", "proxy"), ("runner", "api", "proxy")], ids="+".join)
def test_kills_under_load(
    parts: tuple[str, ...], stack: Stack, order: Order, environment: Environment, sandboxes: Sandboxes, busybox: str,
    bystanders: list, database: Database, chance: random.Random, seed: int,
) -> None:  # fmt: skip
    kills = 0
    with Workload(environment, sandboxes.run, busybox, seed) as workload:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(chance.random() * 3)
            part = chance.choice(parts)
            stack.kill(part)
            time.sleep(chance.random() * 1.5)
            stack.start(part)
            kills += 1
    stack.wait_until_ready()
    begun = time.monotonic()
    order.settle(60)
    print(f"{kills} kills; all in order {time.monotonic() - begun:.1f} s after the last restart")
    workload.check()
    for each in bystanders:
        each.check()
    remove_chaos(sandboxes, database)
    order.settle(60)


@pytest.mark.deadline(120)
def test_kill_at_every_step_of_one_create(
    stack: Stack, order: Order, api, sandboxes: Sandboxes, busybox: str, chance: random.Random
) -> None:
    """The runner dies a little later into each of a row of creates; every one of them ends up started."""
    body = {"snapshot": busybox, "labels": sandboxes.labels(), "autoStopInterval": 0}
    identifiers = []
    with ThreadPoolExecutor(1) as asker:
        for step in range(7):
            answer = asker.submit(api.post, "/sandbox", json=body, timeout=90)
            time.sleep(0.06 * step)
            stack.kill("runner")
            stack.start("runner")
            assert answer.result().status_code == 200, answer.result().text
            identifiers.append(answer.result().json()["id"])
    for each in identifiers:
        eventually(lambda: api.get(f"/sandbox/{each}").json()["state"] == "started", 30, f"{each} to be started")
        assert sandboxes.client.sdk.get(each).process.exec("echo alive").result == "alive\n"
    sandboxes.remove(identifiers)


@pytest.mark.deadline(150)
def test_without_a_runner(
    stack: Stack, order: Order, api, sandboxes: Sandboxes, busybox: str, bystanders: list, database: Database
) -> None:
    """While the runner is away: clear answers, nothing lost; when it is back everything heals by itself."""
    doomed, stopping = sandboxes.create_many(2, snapshot=busybox, auto_stop_interval=0)
    stack.stop("runner")
    try:
        begun = time.monotonic()
        eventually(lambda: api.get(f"/sandbox/{doomed.id}").json()["state"] == "unknown", 60, "the state to read unknown")
        print(f"unknown after {time.monotonic() - begun:.1f} s")
        assert "unreachable" in database.rows("SELECT condition FROM runners", "martlet_operator")[0]["condition"]
        for each in bystanders:
            assert each.started_at == each.engine.container(each.box.id)["State"]["StartedAt"]
        answer = api.delete(f"/sandbox/{doomed.id}")
        assert (answer.status_code, answer.json()["state"]) == (200, "destroying"), answer.text
        assert api.post(f"/sandbox/{stopping.id}/stop").status_code in (200, 409)
        waiting = api.post("/sandbox", json={"snapshot": busybox, "labels": sandboxes.labels(), "autoStopInterval": 0})
        assert (waiting.status_code, waiting.json()["state"]) == (200, "creating"), waiting.text
        with pytest.raises(Exception) as unreachable:
            bystanders[0].box.process.exec("true")
        assert getattr(unreachable.value, "status_code", None) in (409, 502, 503, 504), unreachable.value
        assert "runner" in str(unreachable.value).lower(), unreachable.value
    finally:
        stack.start("runner")
    begun = time.monotonic()
    eventually(lambda: api.get(f"/sandbox/{doomed.id}").status_code == 404, 30, "the deleted one to be gone")
    eventually(lambda: api.get(f"/sandbox/{waiting.json()['id']}").json()["state"] == "started", 30, "the new one to start")
    print(f"healed {time.monotonic() - begun:.1f} s after the runner came back")
    for each in bystanders:
        each.check()
    sandboxes.remove([stopping.id, waiting.json()["id"]])


@pytest.mark.deadline(60)
def test_graceful_restarts_lose_no_request(stack: Stack, sandboxes: Sandboxes, busybox: str, bystanders: list) -> None:
    """A proxy that is asked to stop finishes what it has begun."""
    results: list[str] = []
    box = bystanders[0].box
    worker = threading.Thread(target=lambda: results.append(box.process.exec("sleep 3; echo finished").result))
    worker.start()
    time.sleep(1)
    stack.stop("proxy")
    worker.join(20)
    stack.start("proxy")
    assert results == ["finished\n"]
