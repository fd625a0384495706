"""Hundreds of sandboxes come and go, eight at a time; afterwards nothing of them is left anywhere."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.network import HostNetwork
from Rig.order import Order
from Rig.processes import anonymous_bytes, open_descriptors, settle
from Rig.sandboxes import Sandboxes
from Rig.stack import Stack

# The whole proof is MARTLET_CYCLES=300; `ops/test` takes the short form.
CYCLES = int(os.environ.get("MARTLET_CYCLES", "40"))
AT_ONCE = 8
MEBIBYTE = 2**20
# Allocators keep pages, pools keep connections: growth beyond this would be a leak over 40 cycles and over 300 alike.
MEMORY_GROWTH_BYTES = 24 * MEBIBYTE
DESCRIPTOR_GROWTH = 12


@pytest.mark.deadline(120 + CYCLES * 4)
def test_cycles_leave_nothing(
    sandboxes: Sandboxes, busybox: str, stack: Stack, engine: Engine, host: HostNetwork, database: Database, order: Order
) -> None:
    def cycle(_: int) -> float:
        begun = time.monotonic()
        box = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
        assert box.process.exec("echo alive").result == "alive\n"
        ready = time.monotonic() - begun
        box.delete(wait=True)
        return ready

    def picture() -> dict[str, object]:
        pids = stack.pids()
        return {
            "containers": len(engine.get("/containers/json", all="true")),
            "rules": order.rules(),
            "interfaces": host.veths_on(engine.bridges()),
            "rows": database.value("SELECT count(*) FROM sandbox WHERE destroyed_at IS NULL"),
            "placements": database.value("SELECT count(*) FROM sandbox_placement"),
            "descriptors": {name: open_descriptors(pid) for name, pid in pids.items()},
            "memory": {name: anonymous_bytes(pid) for name, pid in pids.items()},
        }

    with ThreadPoolExecutor(AT_ONCE) as workers:
        list(workers.map(cycle, range(AT_ONCE * 2)))  # caches and pools fill
        order.settle(60)
        settle(3)
        before = picture()
        begun = time.monotonic()
        times = sorted(workers.map(cycle, range(CYCLES)))
        took = time.monotonic() - begun
    order.settle(60)
    settle(8)
    after = picture()
    print(
        f"{CYCLES} cycles, {AT_ONCE} at a time: all succeeded, {CYCLES / took:.1f}/s; create to first output "
        f"p50 {times[len(times) // 2]:.2f} s, slowest {times[-1]:.2f} s"
    )
    for name in ("containers", "rules", "interfaces", "rows", "placements"):
        assert after[name] == before[name], name
    for name in ("api", "runner", "proxy"):
        grown = after["memory"][name] - before["memory"][name]
        descriptors = after["descriptors"][name] - before["descriptors"][name]
        print(f"{name}: memory {grown / MEBIBYTE:+.1f} MiB, descriptors {descriptors:+d}")
        assert grown < MEMORY_GROWTH_BYTES, f"{name} grew by {grown / MEBIBYTE:.1f} MiB"
        assert descriptors < DESCRIPTOR_GROWTH, f"{name} holds {descriptors} more descriptors"


@pytest.mark.deadline(180)
def test_delete_everything_at_once(sandboxes: Sandboxes, busybox: str, order: Order) -> None:
    boxes = sandboxes.create_many(16, at_once=8, snapshot=busybox, auto_stop_interval=0)
    begun = time.monotonic()
    sandboxes.remove([each.id for each in boxes])
    print(f"16 deleted in {time.monotonic() - begun:.1f} s")
    order.settle(30)
