"""Two hosts of one Martlet: what one has, the other gets; and what becomes of it when one is lost."""

from __future__ import annotations

import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Iterator

import httpx
import pytest
from daytona import Sandbox, VolumeMount

from Rig.database import Database
from Rig.engine import LABEL, Engine
from Rig.environment import Environment
from Rig.network import HostNetwork
from Rig.registry import UserRegistry
from Rig.sandboxes import Client, Sandboxes, add_snapshot
from Rig.second_runner import SecondRunner, only
from Rig.stack import Stack
from Rig.volumes import FILES, LARGE_MIB, a_name, checksum, fill, reads, run
from Rig.waiting import eventually

pytestmark = pytest.mark.alone

IS_LONG = bool(os.environ.get("MARTLET_LONG"))
SNAPSHOT_MIB, ROUNDS = (5000, 3) if IS_LONG else (200, 1)
ROOMY = "martlet-test-roomy"
BUSYBOX_IMAGE = "martlet/busybox:test"
# What a test waits for at most, most of it on a slow machine.
DONE_SECONDS = 1800 if IS_LONG else 240
# A lease, the grace, and the pause between two looks.
TAKEN_SECONDS = 120
GRACE_SECONDS = 2


@pytest.fixture(scope="module")
def second(environment: Environment, database: Database, host: HostNetwork, stack: Stack) -> Iterator[SecondRunner]:
    with SecondRunner(environment, database, host) as running:
        yield running


@pytest.fixture(scope="module")
def first(database: Database, second: SecondRunner) -> str:
    """The id of the runner that is there always."""
    return str(database.value("SELECT id FROM runner WHERE id <> :'id'", id=second.id))


def get(api: httpx.Client, identifier: str) -> dict[str, Any]:
    answer = api.get(f"/sandbox/{identifier}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def reaches(api: httpx.Client, identifier: str, *wanted: str, within: float = DONE_SECONDS) -> dict[str, Any]:
    return eventually(
        lambda: (found := get(api, identifier))["state"] in wanted and found, within, f"{identifier} to be {wanted}", every=0.2
    )


def events(database: Database, subject: str) -> list[dict[str, Any]]:
    return database.rows("SELECT kind, old_state, new_state, cause FROM event WHERE subject_id = :'id' ORDER BY id", id=subject)


def states(database: Database, subject: str) -> set[str]:
    return {each["new_state"] for each in events(database, subject) if each["kind"] == "sandbox.state.updated"}


# ---- volumes ---------------------------------------------------------------------------------------------------------


@pytest.mark.deadline(1800 if IS_LONG else 500)
def test_what_is_written_on_one_is_read_on_the_other_after_both_were_restarted(
    first: str, second: SecondRunner, sandboxes: Sandboxes, sync_client: Client, database: Database, busybox: str, stack: Stack
) -> None:
    volume = sync_client.sdk.volume.create(a_name())
    eventually(lambda: sync_client.sdk.volume.get(volume.name).state == "ready", DONE_SECONDS, "the volume to be ready")
    parameters = {
        "snapshot": busybox, "auto_stop_interval": 0, "volumes": [VolumeMount(volume_id=volume.id, mount_path="/data")],
    }
    with only(database, first):
        here = sandboxes.create(**parameters)
    with only(database, second.id):
        there = sandboxes.create(**parameters)
    run(there, "ls /data")  # it knows the folder as it was
    began = time.monotonic()
    written = fill(here, "/data")
    print(f"{FILES} files and {LARGE_MIB} MiB: written in {time.monotonic() - began:.1f} s")
    for each in (stack, second.stack):
        each.kill("runner")
    with ThreadPoolExecutor(2) as beside:
        list(beside.map(lambda each: each.start("runner"), (stack, second.stack)))
    began = time.monotonic()
    reads(there, "cd /data && find many large -type f | wc -l", str(FILES + 1), within=DONE_SECONDS)
    print(f"seen elsewhere after another {time.monotonic() - began:.1f} s")
    assert checksum(there, "/data") == written
    print(f"read there after {time.monotonic() - began:.1f} s in all")
    sandboxes.remove([here.id, there.id])
    sync_client.sdk.volume.delete(volume)


# ---- a host is lost --------------------------------------------------------------------------------------------------


@dataclass
class Lost:
    """What was on the second runner when it was killed."""

    saved: Sandbox
    bare: Sandbox
    resting: Sandbox
    unsaved: Sandbox
    build: str
    # Until others have what they take of it.
    wait: Callable[[], None]


@contextmanager
def short_grace(database: Database, region: str) -> Iterator[None]:
    before = database.value("SELECT grace_seconds FROM region WHERE id = :'id'", id=region)
    change = "UPDATE region SET grace_seconds = :'grace' WHERE id = :'id';"
    database.execute(change, id=region, grace=GRACE_SECONDS)
    try:
        yield
    finally:
        database.execute(change, id=region, grace=before)


def back_up(api: httpx.Client, *boxes: Sandbox) -> None:
    for each in boxes:
        assert api.post(f"/sandbox/{each.id}/backup").status_code == 200
    for each in boxes:
        eventually(lambda: get(api, each.id)["backupState"] == "Completed", DONE_SECONDS, "the backup to be complete")


@pytest.fixture(scope="module")
def lost(
    first: str, second: SecondRunner, sandboxes: Sandboxes, api: httpx.Client, database: Database, environment: Environment,
    busybox: str
) -> Iterator[Lost]:
    with only(database, second.id):
        boxes = sandboxes.create_many(4, snapshot=busybox, auto_stop_interval=0)
        for each in boxes:
            run(each, "echo kept > /root/kept")
        saved, bare, resting, unsaved = boxes
        back_up(api, unsaved)
        run(unsaved, "echo newer > /root/kept")
        resting.stop(force=True)
        unsaved.stop(force=True)
        back_up(api, saved, resting)
        run(saved, "echo newer > /root/kept")
        dockerfile = f"FROM {BUSYBOX_IMAGE}\nRUN echo {time.time_ns()}; echo step-began; sleep 5; echo built > /made; echo step-ended\n"
        asked = api.post("/sandbox", json={"buildInfo": {"dockerfileContent": dockerfile}, "labels": sandboxes.labels()})
        assert asked.status_code == 200, asked.text
        build = asked.json()["id"]
        eventually(lambda: "step-began" in logs(api, build), DONE_SECONDS, "the build to be under way")
        second.stack.kill("runner")
    left = "SELECT sandbox_id FROM sandbox_placement WHERE runner_id = :'id'"

    def wait() -> None:
        with short_grace(database, environment.target):
            eventually(
                lambda: [each["sandbox_id"] for each in database.rows(left, id=second.id)] == [unsaved.id], TAKEN_SECONDS,
                "others to take what they can", every=0.5,
            )

    yield Lost(saved, bare, resting, unsaved, build, wait)
    if not second.is_reachable():
        second.stack.start("runner")
    sandboxes.remove([build, *(each.id for each in boxes)])


def logs(api: httpx.Client, identifier: str) -> str:
    return api.get(f"/sandbox/{identifier}/build-logs").text


@pytest.mark.deadline(500)
def test_a_sandbox_of_a_lost_runner_starts_from_its_backup(
    lost: Lost, first: str, api: httpx.Client, database: Database
) -> None:
    lost.wait()
    for box, source in ((lost.saved, "backup"), (lost.bare, "snapshot")):
        assert reaches(api, box.id, "started")["runnerId"] == first
        taken = [each["cause"] for each in events(database, box.id) if each["kind"] == "sandbox.reclaimed"]
        assert len(taken) == 1 and "lease expired" in taken[0] and source in taken[0], taken
    assert run(lost.saved, "cat /root/kept") == "kept"
    assert lost.bare.process.exec("cat /root/kept").exit_code != 0


@pytest.mark.deadline(500)
def test_a_stopped_one_is_archived_if_its_backup_is_all_it_was(
    lost: Lost, first: str, api: httpx.Client, database: Database
) -> None:
    lost.wait()
    assert get(api, lost.resting.id)["state"] == "archived"
    said = events(database, lost.resting.id)
    assert any("its backup of" in (each["cause"] or "") and each["new_state"] == "archived" for each in said), said
    assert get(api, lost.unsaved.id)["state"] == "unknown", "its runner has more than its backup"
    lost.resting.start(timeout=DONE_SECONDS)
    assert run(lost.resting, "cat /root/kept") == "kept"
    assert get(api, lost.resting.id)["runnerId"] == first


@pytest.mark.deadline(500)
def test_a_build_of_a_lost_runner_ends_on_the_other(
    lost: Lost, first: str, api: httpx.Client, sync_client: Client
) -> None:
    found = reaches(api, lost.build, "started", "error", "build_failed")
    assert found["state"] == "started" and found["runnerId"] == first, found
    printed = logs(api, lost.build)
    again = printed.index("begins anew")
    assert "step-began" in printed[:again] and "step-ended" in printed[again:], printed
    assert run(sync_client.sdk.get(lost.build), "cat /made") == "built"


@pytest.mark.deadline(500)
def test_a_runner_that_comes_back_has_what_nobody_took(lost: Lost, second: SecondRunner, api: httpx.Client) -> None:
    lost.wait()
    second.stack.start("runner")
    reaches(api, lost.unsaved.id, "stopped")
    lost.unsaved.start(timeout=DONE_SECONDS)
    assert run(lost.unsaved, "cat /root/kept") == "newer"
    assert get(api, lost.unsaved.id)["runnerId"] == second.id


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def names(api: httpx.Client, database: Database) -> Iterator[list[str]]:
    """Names of snapshots that a test makes; deleted after it."""
    made: list[str] = []
    yield made
    for each in made:
        answer = api.get(f"/snapshots/{each}")
        assert answer.status_code == 404 or api.delete(f"/snapshots/{answer.json()['id']}").status_code == 200
    database.execute("DELETE FROM snapshot WHERE general AND name = :'name';", name=ROOMY)


def make_large(name: str, runner: str, sandboxes: Sandboxes, api: httpx.Client, database: Database) -> None:
    """A snapshot that only this runner has: of a sandbox there with a large file that nothing compresses."""
    add_snapshot(database, ROOMY, BUSYBOX_IMAGE, disk_gib=3 * SNAPSHOT_MIB // 1024 + 1)
    with only(database, runner):
        box = sandboxes.create(snapshot=ROOMY, auto_stop_interval=0)
        run(box, f"head -c {SNAPSHOT_MIB << 20} /dev/urandom > /root/large", DONE_SECONDS)
        assert api.post(f"/sandbox/{box.id}/snapshot", json={"name": name}).status_code == 200
        found = eventually(
            lambda: (seen := api.get(f"/snapshots/{name}").json()).get("state") in ("active", "error") and seen, DONE_SECONDS,
            "the snapshot to be made",
        )
    assert found["state"] == "active", found
    sandboxes.remove([box.id])


@dataclass
class Creation:
    """How a sandbox came to be."""

    id: str
    seconds: float
    shown: set[str]
    progress: list[dict[str, Any]]


def create(api: httpx.Client, database: Database, sandboxes: Sandboxes, snapshot: str, runner: str) -> Creation:
    """A sandbox, and what was to be seen of it on the way."""
    made = Creation("", 0, set(), [])
    body = {"name": f"made-{secrets.token_hex(4)}", "snapshot": snapshot, "labels": sandboxes.labels(), "autoStopInterval": 0}
    began = time.monotonic()
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(api.post, "/sandbox", json=body)

        def is_started() -> bool:
            answer = api.get(f"/sandbox/{body['name']}")
            if answer.status_code == 404 and not asked.done():
                return False
            found = answer.json()
            assert found["state"] != "error", found
            made.shown.add(found["state"])
            if found["state"] == "pulling_snapshot":
                made.progress += database.rows("SELECT runner, done_bytes, total_bytes FROM image_pulls")
            return found["state"] == "started"

        eventually(is_started, DONE_SECONDS, "the sandbox to be started", every=0.02)
        made.seconds = time.monotonic() - began
        made.id = asked.result().json()["id"]
    assert get(api, made.id)["runnerId"] == runner
    return made


@pytest.mark.deadline(3600 if IS_LONG else 600)
def test_a_large_snapshot_is_fetched_once_and_costs_nothing_after(
    first: str, second: SecondRunner, names: list[str], sandboxes: Sandboxes, api: httpx.Client, database: Database, busybox: str
) -> None:
    names.append(large := f"large-{secrets.token_hex(4)}")
    began = time.monotonic()
    make_large(large, first, sandboxes, api, database)
    print(f"made in {time.monotonic() - began:.1f} s")
    with only(database, first):
        small = [create(api, database, sandboxes, busybox, first) for _ in range(ROUNDS)]
    # The first is chosen although more is on it: it has the image.
    cached = [create(api, database, sandboxes, large, first) for _ in range(ROUNDS)]
    with only(database, second.id):
        fetched = create(api, database, sandboxes, large, second.id)
        again = [create(api, database, sandboxes, large, second.id) for _ in range(ROUNDS)]
    for each in (*small, *cached, *again):
        assert "pulling_snapshot" not in each.shown | states(database, each.id)
    assert "pulling_snapshot" in fetched.shown
    told = [each for each in fetched.progress if each["runner"] == second.name]
    assert any(each["total_bytes"] >= SNAPSHOT_MIB << 20 for each in told), fetched.progress
    assert any(0 < each["done_bytes"] for each in told), fetched.progress
    print(f"created: small {times(small)}, {SNAPSHOT_MIB} MiB where it is {times(cached)}, "
        f"where it is not {times([fetched])}, there again {times(again)}")
    if IS_LONG:
        # A copy of it would take much longer.
        assert min(each.seconds for each in cached + again) < min(each.seconds for each in small) + 3
    digests = {
        run(sandboxes.client.sdk.get(each.id), "sha256sum < /root/large", DONE_SECONDS) for each in (cached[0], fetched, again[0])
    }
    assert len(digests) == 1
    sandboxes.remove([each.id for each in (*small, *cached, fetched, *again)])


def times(creations: list[Creation]) -> str:
    return "/".join(f"{each.seconds:.2f}" for each in creations) + " s"


@pytest.mark.deadline(500)
def test_a_snapshot_of_a_region_is_fetched_by_all_of_its_runners(
    first: str, second: SecondRunner, sandboxes: Sandboxes, api: httpx.Client, database: Database, environment: Environment,
    registry: UserRegistry, login: str, names: list[str]
) -> None:
    names.append(f"early-{secrets.token_hex(4)}")
    body = {"name": names[0], "imageName": registry.push(BUSYBOX_IMAGE, "team/early:1.0"), "regionId": environment.target}
    asked = api.post("/snapshots", json=body)
    assert asked.status_code == 200, asked.text
    snapshot = asked.json()
    holders = "SELECT i.runner_id FROM runner_image i JOIN snapshot s ON s.image = i.image WHERE s.id = :'id'"
    eventually(
        lambda: {each["runner_id"] for each in database.rows(holders, id=snapshot["id"])} == {first, second.id}, DONE_SECONDS,
        "both runners to have it",
    )
    with only(database, second.id):
        made = create(api, database, sandboxes, snapshot["name"], second.id)
    assert "pulling_snapshot" not in made.shown | states(database, made.id)
    sandboxes.remove([made.id])


@pytest.mark.deadline(500)
def test_of_what_others_took_it_keeps_nothing(
    lost: Lost, first: str, second: SecondRunner, api: httpx.Client, engine: Engine
) -> None:
    """After a while, which the tests before have passed if there were any."""
    lost.wait()
    if not second.is_reachable():
        second.stack.start("runner")
    taken = {lost.saved.id, lost.bare.id, lost.resting.id}

    def held() -> set[str]:
        return taken & {each["Labels"][LABEL] for each in second.engine.sandboxes()}

    eventually(lambda: not held(), DONE_SECONDS, "copies of what is elsewhere to be removed")
    for box in (lost.saved, lost.bare):
        assert reaches(api, box.id, "started")["runnerId"] == first
        assert engine.container(box.id)["State"]["Running"]
    assert run(lost.saved, "cat /root/kept") == "kept"
