"""Time: auto-stop, auto-delete, time to live, ephemeral. The clock is Postgres's, so SQL can move it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from Rig.database import Database
from Rig.sandboxes import Sandboxes
from Rig.waiting import eventually

# The runner looks at its timers every few seconds; an operator's patience, not a measure.
PATIENCE_SECONDS = 90

# The clock of every sandbox of the runner is set, and all of its room asked for.
pytestmark = pytest.mark.alone


def age(database: Database, identifier: str, minutes: int) -> None:
    """Makes it look as if the last sign of use, the start and the last change of state were that long ago."""
    database.execute(
        """
        UPDATE sandbox_activity SET last_activity_at = last_activity_at - make_interval(mins => :m) WHERE sandbox_id = :'id';
        UPDATE sandbox_status SET started_at = started_at - make_interval(mins => :m) WHERE sandbox_id = :'id';
        UPDATE runner_lease SET held_since = held_since - make_interval(mins => :m);
        -- Without triggers, in this session alone: what the runner writes meanwhile needs them.
        SET session_replication_role = replica;
        UPDATE sandbox_status SET state_changed_at = state_changed_at - make_interval(mins => :m) WHERE sandbox_id = :'id';
        """,
        id=identifier, m=minutes,
    )


def state(api: httpx.Client, identifier: str) -> str:
    answer = api.get(f"/sandbox/{identifier}")
    return "destroyed" if answer.status_code == 404 else answer.json()["state"]


@pytest.mark.deadline(240)
def test_auto_stop_stops_the_idle_and_spares_the_busy(
    sandboxes: Sandboxes, busybox: str, database: Database, api: httpx.Client
) -> None:
    idle, busy, never = sandboxes.create_many(3, snapshot=busybox, auto_stop_interval=10)
    never.set_autostop_interval(0)
    busy.set_autostop_interval(0)  # or the timer could find it idle before it is refreshed
    for each in (busy, never, idle):
        age(database, each.id, 11)
    busy.refresh_activity()
    busy.set_autostop_interval(10)
    eventually(lambda: state(api, idle.id) == "stopped", PATIENCE_SECONDS, "the idle sandbox to be stopped")
    assert state(api, busy.id) == "started" and state(api, never.id) == "started"
    cause = database.row(
        """SELECT actor, cause FROM event WHERE subject_id = :'id' AND kind = 'sandbox.desired-state.updated'""", id=idle.id
    )
    assert cause == {"actor": "timer", "cause": "auto-stop"}
    assert idle.id in {each["id"] for each in api.get("/sandbox", params={"id": idle.id}).json()["items"]}
    sandboxes.remove([idle.id, busy.id, never.id])


@pytest.mark.deadline(240)
def test_auto_delete_counts_from_the_stop(
    sandboxes: Sandboxes, busybox: str, database: Database, api: httpx.Client
) -> None:
    gone, kept = sandboxes.create_many(2, snapshot=busybox, auto_delete_interval=20)
    kept.set_auto_delete_interval(-1)
    for each in (gone, kept):
        each.stop(force=True)
    assert state(api, gone.id) == "stopped"
    for each in (gone, kept):
        age(database, each.id, 21)
    eventually(lambda: state(api, gone.id) == "destroyed", PATIENCE_SECONDS, "the stopped sandbox to be deleted")
    assert state(api, kept.id) == "stopped"
    sandboxes.remove([kept.id])


@pytest.mark.deadline(240)
def test_time_to_live_ends_a_running_sandbox(
    sandboxes: Sandboxes, busybox: str, database: Database, api: httpx.Client
) -> None:
    made = sandboxes.create(snapshot=busybox, ttl_minutes=5)
    database.execute(
        "UPDATE sandbox SET auto_destroy_at = auto_destroy_at - interval '6 minutes' WHERE id = :'id'", id=made.id
    )
    eventually(lambda: state(api, made.id) == "destroyed", PATIENCE_SECONDS, "the sandbox to have outlived its time")


def test_an_ephemeral_sandbox_is_gone_when_stopped(sandboxes: Sandboxes, busybox: str, api: httpx.Client) -> None:
    made = sandboxes.create(snapshot=busybox, ephemeral=True)
    assert made.auto_delete_interval == 0
    made.stop()
    eventually(lambda: state(api, made.id) == "destroyed", PATIENCE_SECONDS, "the ephemeral sandbox to be gone")


@pytest.mark.deadline(240)
def test_a_sandbox_that_nobody_has_room_for_waits_and_times_out(
    api: httpx.Client, sandboxes: Sandboxes, database: Database, busybox: str
) -> None:
    """Queued: creating without a runner; then destroyed with the reason the SDK turns into DaytonaQueueTimeoutError. What no
    runner could ever hold is refused at once."""
    from daytona import DaytonaQueueTimeoutError

    name = f"martlet-test-huge-{sandboxes.run}"
    capacity = int(database.value("SELECT max(memory_capacity_gib) AS m FROM runner_status"))
    ceiling = int(database.value("SELECT max(memory_limit_gib_per_sandbox) AS m FROM organization"))
    database.execute(
        """
        INSERT INTO snapshot (general, name, image, memory_gib)
            SELECT true, :'name', image, :memory FROM snapshot WHERE name = :'busybox';
        UPDATE organization SET memory_limit_gib_per_sandbox = greatest(memory_limit_gib_per_sandbox, :memory);
        """,
        name=name, busybox=busybox, memory=capacity + 1,
    )
    try:
        body = {"snapshot": name, "queueTimeout": 1, "labels": {"martlet-test-run": sandboxes.run}}
        refused = api.post("/sandbox", json=body)
        assert refused.status_code == 400 and str(capacity) in refused.json()["message"], refused.text
        sandboxes.create(snapshot=busybox)  # takes some of the room
        database.execute("UPDATE snapshot SET memory_gib = :memory WHERE name = :'name'", name=name, memory=capacity)
        answer = api.post("/sandbox", json=body)
        assert answer.status_code == 200 and answer.json()["state"] == "creating", answer.text
        waiting: Any = sandboxes.client.sdk.get(answer.json()["id"])
        database.execute(
            "UPDATE sandbox SET created_at = created_at - interval '2 minutes' WHERE id = :'id'", id=waiting.id
        )
        with pytest.raises(DaytonaQueueTimeoutError):
            waiting.wait_for_sandbox_start(timeout=PATIENCE_SECONDS)
    finally:
        database.execute(
            """
            DELETE FROM snapshot WHERE name = :'name';
            UPDATE organization SET memory_limit_gib_per_sandbox = :ceiling
                WHERE memory_limit_gib_per_sandbox > :ceiling;
            """,
            name=name, ceiling=ceiling,
        )
