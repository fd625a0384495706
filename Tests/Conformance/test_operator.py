"""The operator with psql alone: sees everything in words, and changes it with UPDATE."""

from __future__ import annotations

import time
from typing import Any

import pytest

from Rig.database import Database, DatabaseError
from Rig.sandboxes import Sandboxes
from Rig.waiting import eventually

OPERATOR = "martlet_operator"
# The promise is a second on an idle machine; the suite runs on a busy one, so it prints what it measured.
WITHIN_SECONDS = 60


def order(database: Database, identifier: str, wish: str) -> float:
    """UPDATEs the desired state as the operator and returns the seconds until the row says so."""
    begun = time.monotonic()
    database.execute(
        f"SET ROLE {OPERATOR}; UPDATE sandbox SET desired_state = :'wish' WHERE id = :'id';", wish=wish, id=identifier
    )
    eventually(
        lambda: database.value("SELECT state FROM sandboxes WHERE id = :'id'", OPERATOR, id=identifier) == wish,
        WITHIN_SECONDS, f"{identifier} to be {wish}", every=0.02,
    )  # fmt: skip
    return time.monotonic() - begun


def test_update_stops_and_starts(database: Database, sandboxes: Sandboxes, busybox: str) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    times = [(order(database, made.id, "stopped"), order(database, made.id, "started")) for _ in range(3)]
    print("stop and start by UPDATE took", [f"{stop:.2f}/{start:.2f} s" for stop, start in times])
    assert made.process.exec("echo back").result == "back\n"
    sandboxes.remove([made.id])


def test_update_destroys_for_good(database: Database, sandboxes: Sandboxes, busybox: str) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    destroy = f"SET ROLE {OPERATOR}; UPDATE sandbox SET desired_state = 'destroyed' WHERE id = :'id';"
    database.execute(destroy, id=made.id)
    eventually(
        lambda: not database.rows("SELECT id FROM sandboxes WHERE id = :'id'", OPERATOR, id=made.id), WITHIN_SECONDS, "its end"
    )
    with pytest.raises(DatabaseError, match="destroyed"):
        database.execute(f"SET ROLE {OPERATOR}; UPDATE sandbox SET desired_state = 'started' WHERE id = :'id';", id=made.id)


def test_views_in_words(database: Database, small: Any) -> None:
    runners = database.rows("SELECT * FROM runners", OPERATOR)
    assert runners and runners[0]["condition"] == "ready", runners
    for column in ("name", "region", "sandboxes", "cpu_booked", "memory_gib_booked", "disk_gib_booked", "last_heartbeat"):
        assert runners[0][column] not in (None, ""), column
    mine = database.row("SELECT * FROM sandboxes WHERE id = :'id'", OPERATOR, id=small.id)
    assert (mine["state"], mine["wanted"]) == ("started", "started") and mine["runner"] == runners[0]["name"]
    assert database.rows("SELECT * FROM stuck_sandboxes WHERE id = :'id'", OPERATOR, id=small.id) == []


def test_a_stuck_sandbox_is_explained(database: Database, sandboxes: Sandboxes) -> None:
    """A sandbox whose image does not exist: `error` with a reason, and listed as stuck in words."""
    name = f"martlet-test-no-image-{sandboxes.run}"
    database.execute("INSERT INTO snapshot (general, name, image) VALUES (true, :'name', 'martlet/no-such:image')", name=name)
    try:
        with pytest.raises(Exception, match="(?i)martlet/no-such"):
            sandboxes.create(snapshot=name, timeout=120)
        (identifier,) = [
            each["id"] for each in database.rows("SELECT id FROM sandboxes WHERE snapshot = :'name'", OPERATOR, name=name)
        ]
        seen = database.row("SELECT state, error_reason FROM sandboxes WHERE id = :'id'", OPERATOR, id=identifier)
        assert seen["state"] == "error" and "martlet/no-such" in seen["error_reason"], seen
        database.execute(
            """
            -- Without triggers, in this session alone: what others write meanwhile needs theirs.
            SET session_replication_role = replica;
            UPDATE sandbox_status SET state_changed_at = now() - interval '5 minutes' WHERE sandbox_id = :'id';
            UPDATE sandbox SET desired_changed_at = now() - interval '5 minutes' WHERE id = :'id';
            """,
            id=identifier,
        )
        stuck = database.row("SELECT * FROM stuck_sandboxes WHERE id = :'id'", OPERATOR, id=identifier)
        assert "martlet/no-such" in stuck["why"] and stuck["runner"]
        sandboxes.remove([identifier])
    finally:
        database.execute("DELETE FROM snapshot WHERE name = :'name'", name=name)


def test_every_change_has_its_event(database: Database, sandboxes: Sandboxes, busybox: str) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    order(database, made.id, "stopped")
    sandboxes.remove([made.id])
    events = database.rows(
        "SELECT kind, old_state, new_state, actor FROM event WHERE subject_id = :'id' ORDER BY id", OPERATOR, id=made.id
    )
    assert events[0]["kind"] == "sandbox.created"
    by_operator = [each for each in events if each["kind"] == "sandbox.desired-state.updated" and each["new_state"] == "stopped"]
    assert len(by_operator) == 1
    assert events[-1]["new_state"] == "destroyed"
    states = [each["new_state"] for each in events if each["kind"] == "sandbox.state.updated"]
    assert "started" in states and "stopped" in states


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (OPERATOR, "SELECT hash FROM api_key"),
        (OPERATOR, "SELECT ingress_secret FROM runner_status"),
        (OPERATOR, "UPDATE sandbox_status SET state = 'started'"),
        (OPERATOR, "UPDATE sandbox_placement SET epoch = 9"),
        ("martlet_runner", "SELECT * FROM api_key"),
        ("martlet_runner", "UPDATE sandbox SET desired_state = 'stopped'"),
        ("martlet_runner", "INSERT INTO sandbox_placement (sandbox_id) VALUES (gen_random_uuid())"),
        ("martlet_proxy", "SELECT * FROM api_key"),
        ("martlet_proxy", "SELECT env FROM sandbox"),
        ("martlet_proxy", "UPDATE sandbox_status SET state = 'started'"),
        ("martlet_api", "UPDATE sandbox_status SET state = 'started'"),
        ("martlet_api", "DELETE FROM sandbox"),
    ],
)
def test_a_role_may_not_do_what_is_not_its_own(database: Database, role: str, statement: str) -> None:
    with pytest.raises(DatabaseError, match="permission denied"):
        database.execute(f"SET ROLE {role}; {statement};")


def test_a_role_sees_what_is_its_own(database: Database, small: Any) -> None:
    """The control for the denials above, and the rows of another runner stay hidden."""
    assert database.rows("SELECT id FROM sandbox LIMIT 1", OPERATOR)
    assert database.rows("SELECT sandbox_id FROM route LIMIT 1", "martlet_proxy")
    assert database.rows("SELECT id FROM sandbox LIMIT 1", "martlet_api")
    assert database.rows("SELECT sandbox_id FROM sandbox_status", "martlet_runner") == []
