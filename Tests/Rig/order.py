"""Is everything in order? Compares rows, containers, firewall chains and interfaces with one another."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from Rig.database import Database
from Rig.engine import LABEL, Engine
from Rig.network import HostNetwork
from Rig.waiting import eventually

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

# Every sandbox that is not destroyed, as wanted and as seen.
SANDBOXES = """
    SELECT v.id, v.state, v.desired_state AS wanted, v.generation, v.observed_generation AS observed, v.error_reason AS reason
    FROM sandbox_view v WHERE v.destroyed_at IS NULL
"""


@dataclass
class Disorder:
    """What does not fit together; empty when all is well."""

    findings: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.findings

    def __repr__(self) -> str:
        return "in order" if self else "\n  " + "\n  ".join(self.findings[:30])


class Order:
    """The invariants that must hold whenever nobody asks for anything."""

    def __init__(self, database: Database, engine: Engine, host: HostNetwork) -> None:
        self._database = database
        self._engine = engine
        self._host = host

    def check(self) -> Disorder:
        """One look. Truthy when everything agrees."""
        disorder = Disorder()
        rows = {each["id"]: each for each in self._database.rows(SANDBOXES)}
        self._check_rows(rows, disorder)
        containers = self._engine.sandboxes()
        self._check_containers(rows, containers, disorder)
        self._check_network(containers, disorder)
        self._check_load(disorder)
        return disorder

    def rules(self) -> list[str]:
        """The firewall rules and chains of this Martlet's runners; another one on the same machine is not our business."""
        tags = self._database.rows("SELECT left(id::text, 8) AS tag FROM runner")
        marks = [f"MRT-{each['tag']}-" for each in tags] + self._engine.bridges()
        return [line for line in self._host.rules() if any(mark in line for mark in marks)]

    def settle(self, within: float = 60) -> None:
        """Waits until everything agrees."""
        eventually(self.check, within, "rows, containers, rules and interfaces to agree", every=0.5)

    def _check_rows(self, rows: dict[str, Any], disorder: Disorder) -> None:
        for each in rows.values():
            if each["wanted"] == "destroyed":
                disorder.findings.append(f"row {each['id']} is wanted destroyed and still there")
            elif each["state"] != "error" and each["state"] != each["wanted"]:
                disorder.findings.append(f"row {each['id']} is {each['state']}, wanted {each['wanted']}")
            elif each["state"] == "error":
                disorder.findings.append(f"row {each['id']} is in error: {each['reason']}")
            elif each["observed"] != each["generation"]:
                disorder.findings.append(f"row {each['id']} is at generation {each['observed']} of {each['generation']}")
        orphans = self._database.value(
            """SELECT count(*) FROM sandbox_status t FULL JOIN sandbox_placement p USING (sandbox_id)
               WHERE t.sandbox_id IS NULL OR p.sandbox_id IS NULL OR t.epoch <> p.epoch OR t.runner_id <> p.runner_id"""
        )
        if orphans:
            disorder.findings.append(f"{orphans} statuses and placements do not match")

    def _check_containers(self, rows: dict[str, Any], containers: list[Any], disorder: Disorder) -> None:
        seen: dict[str, str] = {}
        for each in containers:
            identifier = each["Labels"][LABEL]
            if identifier in seen:
                disorder.findings.append(f"sandbox {identifier} has two containers")
            seen[identifier] = each["State"]
            if identifier not in rows:
                disorder.findings.append(f"container {each['Names']} ({each['State']}) has no row")
        for identifier, row in rows.items():
            if row["wanted"] == "started" and row["state"] == "started" and seen.get(identifier) != "running":
                disorder.findings.append(f"row {identifier} is started, its container is {seen.get(identifier, 'absent')}")
            if row["wanted"] == "stopped" and row["state"] == "stopped" and seen.get(identifier) == "running":
                disorder.findings.append(f"row {identifier} is stopped, its container runs")

    def _check_network(self, containers: list[Any], disorder: Disorder) -> None:
        known = {each["Labels"][LABEL] for each in containers}
        named = set(UUID.findall("\n".join(self.rules())))
        for identifier in named - known:
            disorder.findings.append(f"firewall rules name {identifier}, which has no container")
        for identifier in known - named:
            disorder.findings.append(f"container of {identifier} has no firewall rules")
        running = [each for each in self._engine.get("/containers/json") if each["HostConfig"]["NetworkMode"] not in ("host", "none")]
        veths = self._host.veths_on(self._engine.bridges())
        if veths != len(running):
            disorder.findings.append(f"{veths} interfaces of containers for {len(running)} running containers")

    def _check_load(self, disorder: Disorder) -> None:
        wrong = self._database.value(
            """SELECT count(*) FROM runner_load l LEFT JOIN (SELECT runner_id, count(*) AS n, sum(cpu) AS cpu, sum(memory_gib) AS memory,
                   sum(disk_gib) AS disk FROM sandbox_placement GROUP BY runner_id) p USING (runner_id)
               WHERE (l.sandboxes, l.cpu, l.memory_gib, l.disk_gib)
                   IS DISTINCT FROM (coalesce(p.n, 0), coalesce(p.cpu, 0), coalesce(p.memory, 0), coalesce(p.disk, 0))"""
        )
        if wrong:
            disorder.findings.append(f"the booked load of {wrong} runners is not the sum of their placements")
