"""The engine's disk: full, and after many snapshots as full as before.

With MARTLET_LONG=1 200 snapshots come and go, and a few otherwise.
"""

from __future__ import annotations

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from Rig.database import Database
from Rig.disk import EngineDisk
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.registry import UserRegistry, collect
from Rig.sandboxes import Sandboxes
from Rig.snapshots import BUSYBOX, Made, forget
from Rig.stack import Stack
from Rig.waiting import eventually

pytestmark = pytest.mark.alone

MIB = 1 << 20
SNAPSHOTS = 200 if os.environ.get("MARTLET_LONG") == "1" else 10
# A full disk is believed after some seconds.
FULL_SECONDS = 90
SETTLE_SECONDS = 60 + 2 * SNAPSHOTS
NUMBERS = re.compile(r"disk is full \((/\S+) is \d+ % full, \d+ of \d+ MiB are free\)")


@pytest.fixture(scope="module")
def disk(environment: Environment, engine: Engine) -> EngineDisk:
    return EngineDisk(environment, engine)


def state(api: httpx.Client, identifier: str) -> dict[str, Any]:
    answer = api.get(f"/sandbox/{identifier}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def settled(api: httpx.Client, identifier: str, within: float = FULL_SECONDS) -> dict[str, Any]:
    ends = ("started", "error", "build_failed")
    return eventually(lambda: (found := state(api, identifier))["state"] in ends and found, within, "a sandbox to settle")


@pytest.mark.deadline(400)
def test_a_full_disk_is_told_with_numbers_and_heals(
    api: httpx.Client, sandboxes: Sandboxes, registry: UserRegistry, login: str, made: Made, disk: EngineDisk, database: Database,
    busybox: str,
) -> None:
    """A pull, a build, a capture and a sandbox: each ends, says why, and works when there is room. What runs keeps running."""
    registry.push(BUSYBOX, "team/base:1.0")
    images = [registry.push_upon("team/base:1.0", f"team/full:{n}", os.urandom(8 * MIB)) for n in range(2)]
    kept = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    assert kept.process.exec("echo content > /kept").exit_code == 0
    build = {"buildInfo": {"dockerfileContent": f"FROM {BUSYBOX}\nRUN head -c 8000000 /dev/urandom > /{time.time_ns()}\n"}}
    labels = {"labels": sandboxes.labels()}

    def ask(body: dict[str, Any]) -> str:
        answer = api.post("/sandbox", json={**labels, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    with disk.filled(), ThreadPoolExecutor(4) as workers:
        pull = made.ask("full-0", images[0])["id"]
        builds = workers.submit(ask, build)
        plain = workers.submit(ask, {"snapshot": busybox})
        capture = made.capture("captured", kept.id)["id"]
        snapshots = [made.settled(each, FULL_SECONDS) for each in (pull, capture)]
        for told in (*snapshots, settled(api, builds.result()), settled(api, plain.result())):
            assert told["state"] in ("error", "build_failed") and NUMBERS.search(told["errorReason"] or ""), told
            assert "operator" in told["errorReason"], told
        assert kept.process.exec("cat /kept; echo alive").result == "content\nalive\n"
        healing = made.ask("full-1", images[1])["id"]
        eventually(
            lambda: database.value("SELECT count(*) FROM snapshot_job WHERE snapshot_id = :'id' AND failing = 'disk'", id=healing),
            FULL_SECONDS, "a try that found no room",
        )  # fmt: skip
    assert made.settled(healing)["state"] == "active", "it is tried again by itself"
    assert api.post(f"/snapshots/{pull}/activate").status_code == 200
    assert made.settled(pull)["state"] == "active"
    assert api.post(f"/sandbox/{plain.result()}/recover").status_code == 200
    assert eventually(lambda: state(api, plain.result())["state"] == "started", FULL_SECONDS, "what is recovered to start")
    assert settled(api, ask(build))["state"] == "started"
    assert made.settled(made.capture("captured-2", kept.id)["id"])["state"] == "active"
    sandboxes.remove()


@dataclass(frozen=True)
class Holdings:
    """All that snapshots take somewhere."""

    images: frozenset[str]
    subvolumes: int
    quota_groups: int
    disk_bytes: int
    blobs: frozenset[str]
    repositories: frozenset[str]
    registry_bytes: int
    rows: dict[str, int]


TABLES = ("snapshot", "snapshot_job", "build_log", "runner_pull", "runner_image", "discarded_repository")


def holdings(engine: Engine, disk: EngineDisk, registry: Path, database: Database) -> Holdings:
    root = registry / "data" / "docker" / "registry" / "v2"
    disk.settle()
    return Holdings(
        images=frozenset(each["Id"] for each in engine.get("/images/json", all="true")),
        subvolumes=disk.subvolumes(),
        quota_groups=disk.quota_groups(),
        disk_bytes=disk.used_bytes(),
        blobs=frozenset(each.parent.name for each in root.glob("blobs/sha256/*/*/data")),
        repositories=frozenset(each.name for each in root.glob("repositories/snapshots/*")),
        registry_bytes=sum(each.stat().st_size for each in root.rglob("*") if each.is_file()),
        rows=rows(database),
    )


@pytest.mark.deadline(400 if SNAPSHOTS < 100 else 1800)
def test_many_snapshots_leave_the_disk_where_it_was(
    api: httpx.Client, sandboxes: Sandboxes, registry: UserRegistry, login: str, made: Made, disk: EngineDisk, database: Database,
    engine: Engine, environment: Environment,
) -> None:
    """Pulled and built ones, some used, let go of by the watermark or deleted; then the registry's collector has its turn."""
    ours = environment.state / "registry"
    registry.push(BUSYBOX, "team/base:1.0")
    tidy(api, engine, disk, database, ours)
    before = holdings(engine, disk, ours, database)
    for n in range(SNAPSHOTS):
        if n % 10 == 9:
            made.build(f"many-{n}", f"FROM {BUSYBOX}\nRUN echo {time.time_ns()}; head -c 1000000 /dev/urandom > /content\n")
        else:
            made.ask(f"many-{n}", registry.push_upon("team/base:1.0", f"team/many:{n}", os.urandom(MIB)))
    for each in made.ids:
        assert made.settled(each, 120 if SNAPSHOTS < 100 else 1200)["state"] == "active"
    full = holdings(engine, disk, ours, database)
    assert len(full.images - before.images) >= SNAPSHOTS and len(full.blobs - before.blobs) > SNAPSHOTS
    assert full.disk_bytes - before.disk_bytes > SNAPSHOTS * MIB // 2

    used = [sandboxes.create(snapshot=made.get(each)["name"]) for each in made.ids[:1]]
    with disk.filled(percent=90):
        wake_the_cache(database)
        eventually(lambda: not unused(engine, ours), SETTLE_SECONDS, "the watermark to let go of what is not in use")
        assert all(each.process.exec("echo alive").result == "alive\n" for each in used)
    again = sandboxes.create(snapshot=made.get(made.ids[1])["name"])
    assert again.process.exec("wc -c < /content").result.strip() == str(MIB), "it is fetched again when it is needed"
    hidden = api.post("/sandbox", json={
        "buildInfo": {"dockerfileContent": "FROM " + registry.push_upon("team/base:1.0", "team/many:hidden", os.urandom(MIB))},
        "labels": sandboxes.labels(),
    })  # fmt: skip
    assert settled(api, hidden.json()["id"])["state"] == "started"
    sandboxes.remove([hidden.json()["id"], *(each.id for each in (*used, again))])
    database.execute(
        "UPDATE snapshot SET created_at = created_at - interval '2 days', last_used_at = NULL "
        "WHERE hidden AND id = (SELECT snapshot_id FROM sandbox WHERE id = :'id'); SELECT housekeep_builds();",
        id=hidden.json()["id"],
    )
    for each in made.ids:
        assert api.delete(f"/snapshots/{each}").status_code == 200
    tidy(api, engine, disk, database, ours)
    after = holdings(engine, disk, ours, database)
    print(f"before {summary(before)}\nfull   {summary(full)}\nafter  {summary(after)}")
    # Nothing more than before: what other tests left may go meanwhile.
    assert not after.images - before.images and not after.blobs - before.blobs and not after.repositories - before.repositories
    assert after.subvolumes <= before.subvolumes and after.quota_groups <= before.quota_groups
    assert after.registry_bytes <= before.registry_bytes
    assert after.disk_bytes - before.disk_bytes < SNAPSHOTS * MIB // 4
    eventually(lambda: all(n <= before.rows[table] for table, n in rows(database).items()), 20, f"no more rows than {before.rows}")


def rows(database: Database) -> dict[str, int]:
    return {table: database.value(f"SELECT count(*) FROM {table}") for table in TABLES}


def summary(seen: Holdings) -> str:
    return (
        f"{len(seen.images)} images, {seen.subvolumes} subvolumes, {seen.quota_groups} quota groups, disk {seen.disk_bytes:,} bytes; registry "
        f"{len(seen.blobs)} blobs, {len(seen.repositories)} repositories, {seen.registry_bytes:,} bytes; rows {seen.rows}"
    )


def wake_the_cache(database: Database) -> None:
    """Or it has its turn half a minute later."""
    database.execute("NOTIFY snapshots, 'discarded'")


def tidy(api: httpx.Client, engine: Engine, disk: EngineDisk, database: Database, ours: Path) -> None:
    """What time would do: unused images go, discarded repositories are looked through and forgotten, the collector runs."""
    database.execute("UPDATE discarded_repository SET discarded_at = now() - interval '2 hours', not_before = now()")
    with disk.filled(percent=90):
        wake_the_cache(database)
        eventually(lambda: not unused(engine, ours), SETTLE_SECONDS, "unused images to go")
    # One that is being looked through is another's for five minutes; one that is in use rests for a quarter of an hour.
    left = "SELECT count(*) FROM discarded_repository WHERE not_before < now() + interval '6 minutes'"
    eventually(lambda: database.value(left) == 0, SETTLE_SECONDS, "a tidy list")
    done = collect(ours)
    assert done.returncode == 0, done.stderr


def unused(engine: Engine, ours: Path) -> set[str]:
    host = f"127.0.0.1:{(ours / 'port').read_text().strip()}/"
    used = {each["ImageID"] for each in engine.get("/containers/json", all="true")}
    return {
        each["Id"] for each in engine.get("/images/json")
        if each["Id"] not in used and any(name.startswith(host) for name in (each["RepoTags"] or []) + (each["RepoDigests"] or []))
    }  # fmt: skip


@pytest.mark.deadline(400)
def test_images_removed_by_hand_are_had_again(
    sandboxes: Sandboxes, registry: UserRegistry, login: str, made: Made, engine: Engine, environment: Environment, stack: Stack,
    api: httpx.Client,
) -> None:
    """`docker rmi -f` under a sandbox; a file of the registry's lost; and in both cases sandboxes start, or say what to do."""
    registry.push(BUSYBOX, "team/base:1.0")
    asked = made.ask("by-hand", registry.push_upon("team/base:1.0", "team/by-hand:1", os.urandom(MIB)))
    ref = made.settled(asked["id"])["ref"]
    first = sandboxes.create(snapshot=asked["name"], auto_stop_interval=0)
    forget(engine, ref, force=True)
    second = sandboxes.create(snapshot=asked["name"])
    assert second.process.exec("wc -c < /content").result.strip() == str(MIB)
    forget(engine, ref, force=True)
    unnamed = engine.container(first.id)["Image"]
    first.stop()
    first.start()
    assert first.process.exec("wc -c < /content").result.strip() == str(MIB)
    sandboxes.remove([first.id, second.id])

    assert engine.request("DELETE", f"/images/{unnamed}").status_code == 200
    lose_a_layer(environment, stack, ref)
    asking = api.post("/sandbox", json={"snapshot": asked["name"], "labels": sandboxes.labels()})
    assert asking.status_code == 200, asking.text
    told = settled(api, asking.json()["id"])
    assert told["state"] == "error" and "gone from Martlet's registry" in told["errorReason"], told
    assert made.settled(asked["id"])["ref"] == ref, "made anew, and the same"
    assert api.post(f"/sandbox/{told['id']}/recover").status_code == 200
    eventually(lambda: state(api, told["id"])["state"] == "started", FULL_SECONDS, "the sandbox to start")
    sandboxes.remove([told["id"]])


def lose_a_layer(environment: Environment, stack: Stack, ref: str) -> None:
    """The file of an image's last layer is gone from Martlet's registry, which does not remember to have had it."""
    blobs = environment.state / "registry" / "data" / "docker" / "registry" / "v2" / "blobs" / "sha256"
    file = lambda digest: blobs / digest.removeprefix("sha256:")[:2] / digest.removeprefix("sha256:") / "data"  # noqa: E731
    manifest = json.loads(file(ref.partition("@")[2]).read_text())
    file(manifest["layers"][-1]["digest"]).unlink()
    stack.restart("registry")
