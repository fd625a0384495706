"""Every NOTIFY is lost: slower, but right.

Suppressed without touching the product: each function that calls pg_notify gets a search_path in which a schema with a
pg_notify of its own, which does nothing, comes before pg_catalog. Writers, triggers and listeners run as always.
"""

from __future__ import annotations

import time
from typing import Iterator

import pytest

from Rig.database import Database
from Rig.order import Order
from Rig.sandboxes import Sandboxes
from Rig.waiting import eventually

FUNCTIONS = """
    SELECT p.oid::regprocedure::text AS name, p.proconfig AS config
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'public' AND p.prosrc LIKE '%pg_notify%' ORDER BY 1
"""


def hears(database: Database) -> bool:
    """Whether a listener is told of a change of a sandbox."""
    script = "LISTEN status; UPDATE sandbox SET force_stop = NOT force_stop WHERE id = (SELECT id FROM sandbox WHERE destroyed_at IS NULL LIMIT 1); SELECT 1;"
    return "Asynchronous notification" in database.execute(script)


@pytest.fixture
def deaf(database: Database) -> Iterator[None]:
    functions = database.rows(FUNCTIONS)
    assert len(functions) >= 5, functions
    database.execute(
        """
        CREATE SCHEMA quiet;
        CREATE FUNCTION quiet.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT';
        GRANT USAGE ON SCHEMA quiet TO PUBLIC; GRANT EXECUTE ON FUNCTION quiet.pg_notify(text, text) TO PUBLIC;
        """
    )
    for each in functions:
        database.execute(f"ALTER FUNCTION {each['name']} SET search_path = quiet, pg_catalog, public, pg_temp")
    yield
    for each in functions:
        path = next((part for part in each["config"] or [] if part.startswith("search_path=")), None)
        undo = f"SET search_path = {path.partition('=')[2]}" if path else "RESET search_path"
        database.execute(f"ALTER FUNCTION {each['name']} {undo}")
    database.execute("DROP SCHEMA quiet CASCADE")
    assert database.rows(FUNCTIONS) == functions, "the functions are not as they were"


@pytest.mark.deadline(60)
def test_the_control_hears(database: Database, bystanders: list) -> None:
    assert hears(database), "control: without suppression a change is told"


@pytest.mark.deadline(300)
def test_life_without_notifications(
    deaf: None, database: Database, sandboxes: Sandboxes, busybox: str, bystanders: list, order: Order, environment
) -> None:
    assert not hears(database), "control: the suppression works"
    took: dict[str, float] = {}

    def timed(what: str, action) -> object:
        begun = time.monotonic()
        result = action()
        took[what] = round(time.monotonic() - begun, 1)
        return result

    box = timed("create", lambda: sandboxes.create(snapshot=busybox, auto_stop_interval=0, timeout=60))
    assert box.process.exec("echo alive").result == "alive\n"
    timed("stop", lambda: box.stop(timeout=60))
    with pytest.raises(Exception):
        eventually(lambda: box.process.exec("true") is None, 35, "never: a stopped sandbox does not run commands")
    timed("start", lambda: box.start(timeout=60))
    assert eventually(lambda: runs(box), 60, "the route to be known again")
    database.execute("UPDATE sandbox SET network_block_all = true WHERE id = :'id'", id=box.id)
    timed("policy", lambda: eventually(
        lambda: database.value("SELECT observed_generation = generation AS o FROM sandbox_view WHERE id = :'id'", id=box.id), 60, "the policy",
    ))  # fmt: skip
    timed("delete", lambda: box.delete(timeout=60, wait=True))
    print("seconds without notifications:", took)
    order.settle(60)
    for each in bystanders:
        each.check()


def runs(box) -> bool:
    try:
        return box.process.exec("echo alive").result == "alive\n"
    except Exception:
        return False


@pytest.mark.deadline(120)
def test_a_revoked_key_dies_even_without_notification(
    deaf: None, database: Database, environment, bystanders: list
) -> None:
    """The proxy's cache of keys has a lifetime, should the message get lost."""
    from Rig import wire

    with wire.Tenant(database, "martlet-test-deaf") as tenant:
        box = bystanders[0].box
        database.execute(
            "UPDATE api_key SET organization_id = :'org' WHERE organization_id = :'own'", org=box.organization_id, own=tenant.organization
        )
        with wire.client(f"{box.toolbox_proxy_url}/{box.id}", tenant.key) as holder:
            assert eventually(lambda: holder.get("/version").status_code == 200, 5, "control: the key works")
            database.execute("DELETE FROM api_key WHERE user_id = :'member'", member=tenant.user)
            begun = time.monotonic()
            eventually(lambda: holder.get("/version").status_code == 401, 90, "the proxy to ask again", every=1)
            print(f"revoked after {time.monotonic() - begun:.0f} s")


@pytest.mark.deadline(120)
def test_listeners_that_lose_their_connection(
    database: Database, sandboxes: Sandboxes, busybox: str, order: Order, bystanders: list
) -> None:
    """Every backend is terminated, again and again: the listeners come back and read everything anew."""
    box = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    for _ in range(4):
        database.execute("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
        database.execute(
            "UPDATE sandbox SET desired_state = CASE desired_state WHEN 'started' THEN 'stopped' ELSE 'started' END WHERE id = :'id'", id=box.id
        )
        wanted = database.value("SELECT desired_state FROM sandbox WHERE id = :'id'", id=box.id)
        begun = time.monotonic()
        eventually(lambda: database.value("SELECT state FROM sandbox_view WHERE id = :'id'", id=box.id) == wanted, 30, f"{box.id} to be {wanted}")
        print(f"{wanted} {time.monotonic() - begun:.1f} s after all connections were cut")
    sandboxes.remove([box.id])
