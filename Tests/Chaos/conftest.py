"""Everything that can die does, while somebody is working; afterwards all must agree again."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any, Iterator

import pytest

from Rig.database import Database
from Rig.engine import Engine
from Rig.network import HostNetwork
from Rig.order import Order
from Rig.sandboxes import Sandboxes
from Rig.stack import PARTS, Stack


@pytest.fixture(scope="session")
def seed() -> int:
    """Printed, and taken from SEED: the same order of kills and operations again."""
    return int(os.environ.get("SEED", random.randrange(1 << 32)))


@pytest.fixture
def chance(seed: int) -> random.Random:
    print(f"SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def order(database: Database, engine: Engine, host: HostNetwork) -> Order:
    return Order(database, engine, host)


@pytest.fixture(autouse=True)
def everything_is_in_order(stack: Stack, order: Order) -> Iterator[None]:
    """Before and after each test: every part runs, and all agree. A failing test is cleaned up after."""
    order.settle(90)
    yield
    for part in reversed(PARTS):
        stack.start(part)  # does nothing where it runs
    stack.wait_until_ready()
    order.settle(120)


@dataclass
class Bystander:
    """A sandbox that runs all the while and must not notice."""

    box: Any
    started_at: str
    engine: Engine

    def check(self) -> None:
        state = self.engine.container(self.box.id)["State"]
        assert state["Running"], f"{self.box.id} does not run any more: {state}"
        assert state["StartedAt"] == self.started_at, f"{self.box.id} was restarted"
        assert self.box.process.exec("cat token").result == "kept"
        first = int(self.box.process.exec("cat count").result or 0)
        second = int(self.box.process.exec("sleep 0.3; cat count").result or 0)
        assert second > first, "its process has stopped"


@pytest.fixture
def bystanders(sandboxes: Sandboxes, busybox: str, engine: Engine) -> Iterator[list[Bystander]]:
    boxes = sandboxes.create_many(3, snapshot=busybox, auto_stop_interval=0)
    found = []
    for box in boxes:
        box.process.exec("printf kept > token; (n=0; while :; do n=$((n+1)); echo $n > count.new; mv count.new count; sleep 0.05; done) >/dev/null 2>&1 &")
        found.append(Bystander(box, engine.container(box.id)["State"]["StartedAt"], engine))
    yield found
    sandboxes.remove([each.box.id for each in found])
