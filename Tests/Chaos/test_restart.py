"""Postgres and Docker go away and come back; none of ours is restarted for it."""

from __future__ import annotations

import time

import pytest
from workload import Workload, remove_chaos

from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.order import Order
from Rig.sandboxes import Sandboxes
from Rig.stack import Stack
from Rig.waiting import eventually


@pytest.mark.deadline(180)
@pytest.mark.parametrize("how", ["restart", "kill9"])
def test_postgres(
    how: str, stack: Stack, order: Order, environment: Environment, sandboxes: Sandboxes, busybox: str, bystanders: list,
    database: Database, seed: int,
) -> None:  # fmt: skip
    pids = stack.pids()
    with Workload(environment, sandboxes.run, busybox, seed, workers=4) as workload:
        for away in (0, 4):
            time.sleep(3)
            stack.control("stop" if how == "restart" else "kill9", "postgres")
            time.sleep(away)
            if away:
                # Traffic that is known goes on while the database is away.
                assert bystanders[0].box.process.exec("echo on").result == "on\n"
            stack.start("postgres")
    begun = time.monotonic()
    stack.wait_until_ready(30)
    order.settle(60)
    print(f"in order {time.monotonic() - begun:.1f} s after Postgres came back")
    workload.check()
    assert stack.pids() == pids, "one of ours was restarted"
    for each in bystanders:
        each.check()
    remove_chaos(sandboxes, database)


@pytest.mark.deadline(60)
def test_without_postgres_the_answers_are_clear(stack: Stack, api, bystanders: list) -> None:
    stack.stop("postgres")
    try:
        begun = time.monotonic()
        answer = api.get("/sandbox", timeout=30)
        assert answer.status_code == 503 and answer.json()["message"], answer.text
        assert time.monotonic() - begun < 20
        assert api.get("/health").status_code == 200
        assert api.get("/health/ready").status_code == 503
    finally:
        stack.start("postgres")
    stack.wait_until_ready()


@pytest.mark.deadline(480)
@pytest.mark.parametrize("how", ["restart", "kill9"])
def test_docker(
    how: str, stack: Stack, order: Order, environment: Environment, sandboxes: Sandboxes, busybox: str, bystanders: list,
    database: Database, engine: Engine, seed: int,
) -> None:  # fmt: skip
    """Live-restore: containers go on while the engine is away, and so does traffic to them."""
    pids = stack.pids()
    with Workload(environment, sandboxes.run, busybox, seed, workers=3) as workload:
        time.sleep(3)
        stack.control("stop" if how == "restart" else "kill9", "docker")
        assert bystanders[0].box.process.exec("echo on").result == "on\n", "traffic must not need the engine"
        time.sleep(2)
        stack.start("docker")
        time.sleep(3)
    begun = time.monotonic()
    # Interfaces that a killed engine forgot might be of starts under way: they are left alone for a while.
    order.settle(90 if how == "restart" else 240)
    print(f"in order {time.monotonic() - begun:.1f} s after Docker came back")
    workload.check()
    assert stack.pids() == pids, "one of ours was restarted"
    for each in bystanders:
        each.check()
    remove_chaos(sandboxes, database)


@pytest.mark.deadline(90)
def test_what_is_done_behind_our_back_is_put_right(
    stack: Stack, engine: Engine, sandboxes: Sandboxes, busybox: str, host, order: Order, api, database: Database
) -> None:
    """Somebody stops, removes and adds containers and flushes rules by hand: the rows are what counts."""
    stopped, removed = sandboxes.create_many(2, snapshot=busybox, auto_stop_interval=0)
    engine.request("POST", f"/containers/{engine.container(stopped.id)['Id']}/kill")
    engine.request("DELETE", f"/containers/{engine.container(removed.id)['Id']}", force="true")
    image = engine.container(stopped.id)["Image"]
    stray = {"Image": image, "Cmd": ["sleep", "999"], "HostConfig": {"NetworkMode": "none"},
             "Labels": {"martlet.sandbox": "99999999-9999-4999-8999-999999999999", "martlet.epoch": "1", "martlet.slot": "900",
                        "martlet.runner": database.value("SELECT id::text AS id FROM runner LIMIT 1")}}  # fmt: skip
    made = engine.request("POST", "/containers/create", stray, name=f"martlet-test-stray-{sandboxes.run}")
    assert made.status_code == 201, made.text
    bystander = engine.request("POST", "/containers/create", {"Image": image, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}})
    eventually(lambda: api.get(f"/sandbox/{stopped.id}").json()["state"] in ("started", "error"), 30, "the killed one to be seen to")
    order.settle(80)
    left = engine.request("GET", f"/containers/{bystander.json()['Id']}/json")
    assert left.status_code == 200, "a container without our label is none of our business"
    engine.request("DELETE", f"/containers/{bystander.json()['Id']}")
    sandboxes.remove([stopped.id, removed.id])


@pytest.mark.deadline(90)
def test_flushed_rules_come_back(sandboxes: Sandboxes, host, order: Order, bystanders: list) -> None:
    """All of our chains are flushed by hand. They are back within the resync, and nothing else was touched."""
    before = order.rules()
    ours = [line.split()[0].removeprefix(":") for line in before if line.startswith(":MRT-")]
    assert ours, "control: there are chains of ours"
    for chain in ours:
        host.run("iptables", "-w", "-t", "mangle", "-F", chain)
    eventually(lambda: order.rules() == before, 60, "the rules to be back", every=0.5)
