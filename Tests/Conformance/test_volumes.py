"""Volumes: files that outlive sandboxes and are shared by them, and what becomes of them when parts fail."""

from __future__ import annotations

import os
import secrets
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator

import httpx
import pytest
from daytona import (
    CreateSandboxFromSnapshotParams, DaytonaConflictError, DaytonaError, DaytonaNotFoundError, VolumeMount,
)

from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.sandboxes import Client, Sandboxes
from Rig.stack import Stack
from Rig.volumes import FILES, HEALING_SECONDS, LARGE_MIB, Mounts, a_name, checksum, checksum_here, fill, reads, run
from Rig.waiting import eventually
from Rig.wire import check_error


def hold_open(box: Any, beside: ThreadPoolExecutor, opens: str, then: str) -> Callable[[], str]:
    """Opens files in a sandbox; what it returns has them used, and gives what that printed.

    Folders are known for a few seconds only, but what is open stays so.
    """
    name = secrets.token_hex(4)
    run(box, f"mkfifo /tmp/{name}")
    using = beside.submit(run, box, f"exec {opens}; touch /tmp/{name}.open; read < /tmp/{name}; {then}")
    eventually(lambda: box.process.exec(f"test -e /tmp/{name}.open").exit_code == 0, HEALING_SECONDS, "files to be open")

    def use() -> str:
        run(box, f"echo > /tmp/{name}")
        return using.result(60)

    return use


@pytest.fixture(scope="module")
def mounts(environment: Environment) -> Mounts:
    return Mounts(environment)


@pytest.fixture
def s3(stack: Stack, environment: Environment) -> int:
    """The process of the embedded S3."""
    return int((environment.state / "s3" / "pid").read_text().split()[0])


def made_ready(client: Client, name: str) -> Any:
    """A new volume. Its creation is answered once it is ready, or after a while, which a busy machine may need."""
    made = client.wait(client.sdk.volume.get(name, create=True))
    eventually(lambda: client.wait(client.sdk.volume.get(name)).state == "ready", HEALING_SECONDS, "the volume to be ready")
    return made


@pytest.fixture(scope="module")
def volume(sync_client: Client, sandboxes: Sandboxes) -> Iterator[Any]:
    made = made_ready(sync_client, a_name())
    yield made
    sync_client.sdk.volume.delete(made)


@pytest.fixture(scope="module")
def pair(sandboxes: Sandboxes, busybox: str, volume: Any) -> Iterator[tuple[Any, Any]]:
    """A sandbox of the default image, whose user is not root, and a busybox; the second also shows a folder by itself."""
    whole = VolumeMount(volume_id=volume.id, mount_path="/home/daytona/volume")
    first = sandboxes.create(volumes=[whole], auto_stop_interval=0)
    second = sandboxes.create(
        snapshot=busybox,
        auto_stop_interval=0,
        volumes=[
            VolumeMount(volume_id=volume.name, mount_path="/data"),
            VolumeMount(volume_id=volume.id, mount_path="/part", subpath="users/ann"),
        ],
    )
    yield first, second
    sandboxes.remove([first.id, second.id])


def test_create_list_get_and_delete(client: Client) -> None:
    service, name = client.sdk.volume, a_name()
    with pytest.raises(DaytonaNotFoundError):
        client.wait(service.get(name))
    made = made_ready(client, name)
    assert made.name == name
    assert client.wait(service.get(name, create=True)).id == made.id
    assert made.id in [each.id for each in client.wait(service.list())]
    with pytest.raises(DaytonaConflictError):
        client.wait(service.create(name))
    client.wait(service.delete(made))
    with pytest.raises(DaytonaNotFoundError):
        client.wait(service.get(name))


def test_the_interface_beside_the_sdk(api: httpx.Client) -> None:
    made = api.post("/volumes", json={"name": a_name()})
    assert made.status_code == 200, made.text
    volume = made.json()
    for key in ("id", "name", "organizationId", "state", "createdAt", "updatedAt"):
        assert isinstance(volume[key], str), key
    assert api.get(f"/volumes/{volume['id']}").json()["name"] == volume["name"]
    for name in ("", " x", "x" * 129, "a\nb", None, 5):
        check_error(api.post("/volumes", json={"name": name}), 400, "name")
    for path in ("/volumes/nothing", f"/volumes/{secrets.token_hex(16)}", "/volumes/by-name/nothing"):
        check_error(api.get(path), 404, "volume")
    check_error(api.delete("/volumes/00000000-0000-4000-8000-000000000000"), 404, "volume")
    path = f"/volumes/{volume['id']}"
    eventually(lambda: api.get(path).json()["state"] == "ready", HEALING_SECONDS, "the volume to be ready")
    assert api.delete(path).status_code == 200
    eventually(lambda: api.get(path).status_code == 404, HEALING_SECONDS, "the volume to be gone")
    assert volume["id"] in [each["id"] for each in api.get("/volumes?includeDeleted=true").json()]


@pytest.mark.deadline(500)
def test_two_sandboxes_and_a_subpath(pair: tuple[Any, Any], volume: Any, api: httpx.Client, engine: Engine) -> None:
    first, second = pair
    run(first, "cd volume && mkdir -p users/ann users/bob && echo hers > users/ann/file && echo his > users/bob/file")
    reads(second, "cat /data/users/bob/file /part/file", "his\nhers")
    assert run(second, "ls /part") == "file"
    run(second, "echo back > /part/answer; echo '#!/bin/sh\necho runs' > /data/program")
    reads(first, "cat volume/users/ann/answer && volume/program", "back\nruns")
    assert run(first, "mv volume/users/bob/file volume/renamed && cat volume/renamed && rm volume/renamed volume/program") == "his"
    shown = api.get(f"/sandbox/{second.id}").json()["volumes"]
    assert shown == [
        {"volumeId": volume.id, "mountPath": "/data"},
        {"volumeId": volume.id, "mountPath": "/part", "subpath": "users/ann"},
    ]
    for mount in ("/data", "/part"):
        options = run(second, f"grep ' {mount} fuse' /proc/mounts").split()[3].split(",")
        assert {"rw", "nosuid", "nodev"} <= set(options), options
    environment = str(engine.container(second.id)["Config"]["Env"])
    assert "S3" not in environment and "SECRET" not in environment


def test_a_volume_in_use_stays(client: Client, pair: tuple[Any, Any], volume: Any) -> None:
    with pytest.raises(DaytonaConflictError, match="in use by 2 sandboxes"):
        client.wait(client.sdk.volume.delete(volume))


@pytest.mark.deadline(500)
def test_a_link_leads_nowhere(pair: tuple[Any, Any], sandboxes: Sandboxes, busybox: str, volume: Any) -> None:
    run(pair[1], "ln -s /etc /data/escape && ln -s ../.. /data/users/up")
    before = sandboxes.alive()
    for subpath in ("escape", "users/up"):
        with pytest.raises(DaytonaError, match="subpath .* link"):
            sandboxes.create(
                snapshot=busybox, volumes=[VolumeMount(volume_id=volume.id, mount_path="/v", subpath=subpath)]
            )
    sandboxes.remove([each for each in sandboxes.alive() if each not in before])  # what failed is there still
    run(pair[1], "rm /data/escape /data/users/up")


@pytest.mark.deadline(300 if LARGE_MIB < 1024 else 1800)
def test_many_files_and_a_large_one_survive_the_runner(
    pair: tuple[Any, Any], volume: Any, stack: Stack, mounts: Mounts, engine: Engine
) -> None:
    first, second = pair
    written = fill(first, "volume")
    started = [engine.container(each.id)["State"]["StartedAt"] for each in pair]
    server = mounts.server(volume.id)
    stack.kill("runner")
    stack.start("runner")
    assert mounts.server(volume.id) == server, "the mount did not outlive the runner"
    assert [engine.container(each.id)["State"]["StartedAt"] for each in pair] == started
    assert checksum(second, "/data") == written
    stored = mounts.stored(volume.id)
    eventually(lambda: len(list(stored.glob("many/*"))) == FILES, HEALING_SECONDS, "all files to be in S3", every=0.5)
    eventually(lambda: checksum_here(stored) == written, HEALING_SECONDS, "the same to be in S3", every=0.5)
    # A folder of S3 goes with its last file, which `rm` without -f takes for trouble.
    run(first, "rm -rf volume/many volume/large", 120)


@pytest.mark.deadline(500)
def test_a_killed_mount_is_healed_under_running_sandboxes(
    pair: tuple[Any, Any], volume: Any, mounts: Mounts, engine: Engine
) -> None:
    first, second = pair
    run(first, "echo kept > volume/before-kill")
    # What rclone was told in the moment of its death it may not have noted yet.
    eventually((mounts.stored(volume.id) / "before-kill").exists, HEALING_SECONDS, "the file to be in S3")
    started = [engine.container(each.id)["State"]["StartedAt"] for each in pair]
    killed = mounts.server(volume.id)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: mounts.server(volume.id) not in (None, killed), HEALING_SECONDS, "another rclone to serve the volume")

    def is_healed() -> bool:
        answers = [
            first.process.exec("cat volume/before-kill"), second.process.exec("cat /data/before-kill"),
            second.process.exec("ls /part"),
        ]
        return all(each.exit_code == 0 for each in answers) and answers[0].result.strip() == "kept"

    eventually(is_healed, HEALING_SECONDS, "both sandboxes to see the volume again")
    run(second, "echo new > /data/after-kill")
    assert run(first, "cat volume/after-kill") == "new"
    assert [engine.container(each.id)["State"]["StartedAt"] for each in pair] == started
    run(first, "rm volume/before-kill volume/after-kill")


@pytest.mark.deadline(500)
def test_what_is_written_while_s3_is_away_arrives(
    pair: tuple[Any, Any], volume: Any, stack: Stack, mounts: Mounts, api: httpx.Client
) -> None:
    first, second = pair
    run(first, "echo known > volume/known")
    eventually((mounts.stored(volume.id) / "known").exists, HEALING_SECONDS, "the file to be in S3")
    with ThreadPoolExecutor(2) as beside:
        use = hold_open(first, beside, "3> volume/late 4< volume/known", "echo late >&3 && cat <&4")
        stack.stop("s3")
        try:
            posted = beside.submit(api.post, "/volumes", json={"name": a_name()})
            assert use() == "known"
            assert run(second, "echo works") == "works"
            eventually(lambda: "error" in first.process.exec("ls volume 2>&1", timeout=40).result.lower(), 60, "an error")
            waiting = posted.result().json()
            assert waiting["state"] != "ready"
        finally:
            stack.start("s3")
    late = mounts.stored(volume.id) / "late"
    eventually(lambda: late.exists() and late.read_text() == "late\n", HEALING_SECONDS, "what was written to be in S3")
    assert run(second, "cat /data/late") == "late"
    eventually(
        lambda: api.get(f"/volumes/{waiting['id']}").json()["state"] == "ready", 90, "the volume that waited to be ready"
    )
    assert api.delete(f"/volumes/{waiting['id']}").status_code == 200


@pytest.mark.deadline(500)
def test_who_reads_waits_for_a_slow_s3_and_nobody_else(
    pair: tuple[Any, Any], volume: Any, mounts: Mounts, s3: int
) -> None:
    first, second = pair
    mounts.write_elsewhere(volume.id, "elsewhere", "from another host\n")
    eventually(lambda: first.process.exec("test -e volume/elsewhere").exit_code == 0, HEALING_SECONDS, "it to be seen")
    with ThreadPoolExecutor(2) as beside:
        use = hold_open(first, beside, "3> volume/unhurried", "echo unhurried >&3")
        os.kill(s3, signal.SIGSTOP)
        try:
            reading = beside.submit(run, second, "cat /data/elsewhere")
            use()
            assert run(second, "echo works") == "works"
            assert not reading.done()
        finally:
            os.kill(s3, signal.SIGCONT)
        assert reading.result(HEALING_SECONDS) == "from another host"
    eventually((mounts.stored(volume.id) / "unhurried").exists, HEALING_SECONDS, "what was written to be in S3")


@pytest.mark.deadline(500)
def test_a_short_disk_brakes_writers_and_nobody_else(
    pair: tuple[Any, Any], volume: Any, stack: Stack, mounts: Mounts, environment: Environment, database: Database
) -> None:
    """As if S3 had been too slow for a while: the runner is told to leave more of its disk free than there is."""

    def follow(settings_text: str) -> None:
        settings.write_text(settings_text)
        stack.kill("runner")  # quicker than to stop it, which waits for open tunnels
        stack.start("runner")

    first, second = pair
    grow = "head -c 1M /dev/zero > volume/grown"
    run(first, "head -c 256K /dev/zero > volume/before")
    settings = environment.state / "services" / "runner.env"
    usual = settings.read_text()
    disk = os.statvfs(environment.state)
    try:
        follow(f"{usual}\nMARTLET_VOLUME_FREE_GIB={2 * (disk.f_blocks * disk.f_frsize >> 30) + 2}\n")
        eventually(lambda: first.process.exec(grow).exit_code != 0, HEALING_SECONDS, "writing to be braked")
        assert "error" in first.process.exec(f"{grow}; true").result.lower()
        assert run(second, "echo small > /data/small && wc -c < /data/before") == str(256 << 10)
        eventually((mounts.stored(volume.id) / "small").exists, HEALING_SECONDS, "uploads to go on")
        noted = "SELECT mounts FROM volumes WHERE id = :'id'"
        eventually(lambda: "do not grow" in database.value(noted, id=volume.id), HEALING_SECONDS, "the operator to be told")
    finally:
        follow(usual)
    eventually(lambda: first.process.exec(grow).exit_code == 0, HEALING_SECONDS, "writing to go on")
    eventually(lambda: "do not grow" not in database.value(noted, id=volume.id), HEALING_SECONDS, "the note to be gone")


@pytest.mark.deadline(500)
def test_it_is_there_again_after_stop_and_start(pair: tuple[Any, Any]) -> None:
    first, second = pair
    run(second, "echo kept > /part/kept")
    second.stop()
    second.start()
    assert run(second, "cat /part/kept /data/users/ann/kept") == "kept\nkept"
    run(second, "echo new > /data/new")
    assert run(first, "cat volume/new") == "new"


@pytest.mark.deadline(500)
def test_nothing_is_left_of_a_deleted_volume(
    client: Client, sandboxes: Sandboxes, busybox: str, mounts: Mounts, database: Database
) -> None:
    volume = made_ready(client, a_name())
    mount = VolumeMount(volume_id=volume.id, mount_path="/v")
    parameters = CreateSandboxFromSnapshotParams(snapshot=busybox, volumes=[mount], labels=sandboxes.labels())
    box = client.wait(client.sdk.create(parameters))
    assert client.wait(box.process.exec("echo x > /v/file")).exit_code == 0
    eventually((mounts.stored(volume.id) / "file").exists, HEALING_SECONDS, "the file to be in S3")
    client.wait(box.delete())
    client.wait(client.sdk.volume.delete(volume))
    eventually(lambda: mounts.server(volume.id) is None, HEALING_SECONDS, "the volume to be unmounted")
    eventually(lambda: not mounts.stored(volume.id).exists(), HEALING_SECONDS, "its files to be gone from S3")

    def is_deleted() -> bool:
        state = database.value("SELECT state FROM volume WHERE id = :'id'", id=volume.id)
        mounts = database.value("SELECT count(*) FROM volume_mount WHERE volume_id = :'id'", id=volume.id)
        return (state, int(mounts)) == ("deleted", 0)

    eventually(is_deleted, HEALING_SECONDS, "the rows to say so")

    def mounted() -> list[str]:
        return [each for each in Path("/proc/self/mountinfo").read_text().splitlines() if volume.id in each or box.id in each]

    eventually(lambda: not mounted(), HEALING_SECONDS, "its mounts to be gone")
