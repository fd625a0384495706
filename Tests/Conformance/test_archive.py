"""Snapshots, forks, backups and archives of sandboxes, by the official SDK. Every file comes back as it was."""

from __future__ import annotations

import os
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterator

import httpx
import pytest
from daytona import CreateSandboxFromImageParams, DaytonaBadRequestError, Image, Sandbox, SandboxState, VolumeMount

from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.sandboxes import Client, Sandboxes, add_snapshot
from Rig.stack import Stack
from Rig.trees import Tree, check_same, read_tree
from Rig.waiting import eventually
from Rig.wire import check_error

# What a test waits for at most; each is a matter of a second or two on an idle machine.
DONE_SECONDS = 100

# Links, modes, holes, odd names; what was in the image is changed, linked, replaced and removed.
MESS = r"""
cd /root; mkdir -p t/deep/er t/empty; echo hi > t/a; ln t/a t/b; ln -s ../nowhere t/c; mkfifo t/p; chmod 4755 t/a; chmod 1777 t/empty
head -c 300000 /dev/urandom > t/random; dd if=/dev/zero of=t/sparse bs=1 count=1 seek=20000000 2>/dev/null; echo end >> t/sparse
touch "t/$(printf '%0200d' 7)" "t/$(printf '\377bad')"; chown 4000:12345 t/deep; touch -d '2001-02-03 04:05:06' t/old
ln /etc/passwd /etc/passwd2; echo more >> /etc/group; rm -rf /var/spool; mkdir /var/spool; rm -f /bin/yes; chmod 700 /srv 2>/dev/null; true
"""


@pytest.fixture
def names(api: httpx.Client, sandboxes: Sandboxes) -> Iterator[list[str]]:
    """Names of snapshots that a test makes; deleted after it."""
    made: list[str] = []
    yield made
    for name in made:
        found = api.get(f"/snapshots/{name}")
        if found.status_code == 200:
            assert api.delete(f"/snapshots/{found.json()['id']}").status_code == 200


def pid_of(box: Sandbox, engine: Engine) -> int:
    return engine.container(box.id)["State"]["Pid"]


def tree_of(box: Sandbox, engine: Engine) -> Tree:
    return read_tree(pid_of(box, engine))


def make_mess(box: Sandbox, engine: Engine) -> Tree:
    assert box.process.exec(MESS).exit_code == 0
    root = f"/proc/{pid_of(box, engine)}/root"
    os.setxattr(f"{root}/root/t/random", "user.large", os.urandom(2000))
    os.setxattr(f"{root}/root/t/deep", "user.binary", b"a\0b\n=")
    os.setxattr(f"{root}/etc/passwd", "user.note", b"x")
    return tree_of(box, engine)


def state(api: httpx.Client, box: Sandbox) -> dict[str, Any]:
    answer = api.get(f"/sandbox/{box.id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def reaches(api: httpx.Client, box: Sandbox, wanted: str, within: float = DONE_SECONDS) -> dict[str, Any]:
    return eventually(
        lambda: (found := state(api, box))["state"] == wanted and found, within, f"the sandbox to be {wanted}"
    )


def snapshot_settled(api: httpx.Client, name: str, within: float = DONE_SECONDS) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        answer = api.get(f"/snapshots/{name}")
        return answer.json() if answer.status_code == 200 and answer.json()["state"] in ("active", "error") else None

    return eventually(look, within, "the snapshot to be settled")  # type: ignore[return-value]


@pytest.mark.deadline(300)
def test_a_snapshot_of_a_sandbox_has_all_of_its_files(
    client: Client, sandboxes: Sandboxes, busybox: str, engine: Engine, api: httpx.Client, names: list[str]
) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0, env_vars={"MINE": "1"})
    before = make_mess(made, engine)
    running = made.process.exec("setsid sleep 4321 >/dev/null 2>&1 & echo $!").result.strip()
    names.append(f"of-{made.id}")
    box = client.wait(client.sdk.get(made.id))
    client.wait(box.create_snapshot(names[0]))
    assert box.state == SandboxState.STARTED
    assert made.process.exec(f"kill -0 {running}").exit_code == 0
    check_same(before, tree_of(made, engine))
    found = snapshot_settled(api, names[0])
    assert found["state"] == "active" and found["sourceSandboxId"] == made.id
    listed = api.get("/snapshots", params={"sourceSandboxId": made.id}).json()
    assert [each["name"] for each in listed["items"]] == names

    other = sandboxes.create(snapshot=names[0], auto_stop_interval=0)
    check_same(before, tree_of(other, engine))
    # Its own settings are not its snapshot's; its image's are.
    seen = other.process.exec("echo ${MINE:-none}; hostname; cat /etc/hosts").result.split()
    assert seen[0] == "none" and seen[1] == other.id[:8] and made.id[:8] not in seen
    check_error(api.post(f"/sandbox/{made.id}/snapshot", json={"name": names[0]}), 409, names[0])
    sandboxes.remove([made.id, other.id])


@pytest.mark.deadline(300)
def test_an_archived_sandbox_comes_back_as_it_was(
    sandboxes: Sandboxes, busybox: str, engine: Engine, api: httpx.Client, database: Database
) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0, labels={"kept": "yes"})
    before = make_mess(made, engine)
    for turn in range(2):
        made.stop()
        made.archive()
        found = reaches(api, made, "archived")
        assert found["backupState"] == "Completed" and found["backupCreatedAt"] and found["desiredState"] == "archived"
        assert "runnerId" not in found
        assert not [each for each in engine.sandboxes() if each["Labels"]["martlet.sandbox"] == made.id]
        held = database.rows("SELECT * FROM sandbox_placement WHERE sandbox_id = :'id'", id=made.id)
        assert held == [], "nothing is booked for it"
        made.start()
        assert made.state == SandboxState.STARTED and made.labels["kept"] == "yes"
        check_same(before, tree_of(made, engine))
        image = engine.container(made.id)["Image"]
        assert len(engine.get(f"/images/{image}/json")["RootFS"]["Layers"]) == 2, "one layer upon the image's own, however often"
        made.process.exec(f"echo {turn} > /root/turn; rm -f /root/t/a")
        before = tree_of(made, engine)
    assert made.process.exec("cat /root/turn").result == "1\n"
    sandboxes.remove([made.id])


@pytest.mark.deadline(300)
def test_forks_go_on_from_where_their_parent_is(
    client: Client, sandboxes: Sandboxes, busybox: str, engine: Engine, api: httpx.Client
) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0, env_vars={"MINE": "1"}, auto_delete_interval=77)
    make_mess(made, engine)
    # Whoever sees the second number sees the first: a copy of one moment has no more of the one than of the other.
    counter = made.process.exec(
        "setsid sh -c 'cd /root; i=0; while :; do i=$((i+1)); for f in first second; do echo $i > n; mv n $f; done; done' >/dev/null 2>&1 & echo $!"
    ).result.strip()
    eventually(lambda: made.process.exec("cat /root/second 2>/dev/null").result.strip(), 60, "the counting to begin")
    box = client.wait(client.sdk.get(made.id))
    child = client.wait(box.fork(name=f"child-of-{made.id}"))
    assert child.state == SandboxState.STARTED and child.name == f"child-of-{made.id}"
    assert (child.cpu, child.disk, child.env, child.auto_delete_interval) == (box.cpu, box.disk, box.env, 77)
    first, second = client.wait(child.process.exec("cat /root/first /root/second")).result.split()
    assert 0 <= int(first) - int(second) <= 1
    assert client.wait(child.process.exec("cat /root/first")).result.strip() == first, "files, not processes"
    made.process.exec(f"kill -9 -{counter}")

    grandchild = client.wait(child.fork())
    assert state(api, made)["state"] == "started"
    read = lambda what, of: [each["id"] for each in api.get(f"/sandbox/{of}/{what}").json()]
    assert read("ancestors", grandchild.id) == [child.id, made.id]
    assert read("forks", made.id) == [child.id]
    assert api.get(f"/sandbox/{child.id}/parent").json()["id"] == made.id
    check_error(api.get(f"/sandbox/{made.id}/parent"), 404, "not forked")
    with pytest.raises(DaytonaBadRequestError, match="forked"):
        client.wait(box.delete())
    sandboxes.remove([grandchild.id, child.id])
    assert read("forks", made.id) == []
    assert set(read("forks", f"{made.id}") + [child.id]) == {child.id}
    assert [each["id"] for each in api.get(f"/sandbox/{made.id}/forks", params={"includeDestroyed": "true"}).json()] == [child.id]
    sandboxes.remove([made.id])


@pytest.mark.deadline(300)
def test_children_that_are_asked_for_at_once_share_the_work(
    sandboxes: Sandboxes, busybox: str, database: Database, engine: Engine
) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    made.process.exec("echo kept > /root/kept")
    with ThreadPoolExecutor(4) as workers:
        children = list(workers.map(lambda _: made.fork(), range(4)))
    assert {child.process.exec("cat /root/kept").result for child in children} == {"kept\n"}
    rows = database.rows("SELECT count(*) AS captures FROM snapshot WHERE source_sandbox_id = :'id'", id=made.id)
    assert 1 <= int(rows[0]["captures"]) <= 3
    sandboxes.remove([child.id for child in children])
    sandboxes.remove([made.id])


@pytest.mark.deadline(300)
def test_volumes_are_no_part_of_it(
    sandboxes: Sandboxes, busybox: str, api: httpx.Client, names: list[str]
) -> None:
    sdk = sandboxes.client.sdk
    volume = sdk.volume.create(f"test {secrets.token_hex(4)}")
    eventually(lambda: sdk.volume.get(volume.name).state == "ready", DONE_SECONDS, "the volume to be ready")
    mount = VolumeMount(volume_id=volume.id, mount_path="/data/shared")
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0, volumes=[mount])
    assert made.process.exec("echo shared > /data/shared/file; echo own > /root/own").exit_code == 0
    child = made.fork()
    eventually(
        lambda: child.process.exec("cat /data/shared/file /root/own").result.split() == ["shared", "own"], DONE_SECONDS,
        "the fork to have the same volume",
    )
    names.append(f"of-{made.id}")
    made.create_snapshot(names[0])
    other = sandboxes.create(snapshot=names[0], auto_stop_interval=0)
    assert other.process.exec("cat /root/own; ls -d /data 2>/dev/null").result == "own\n"
    made.stop(force=True)
    made.archive()
    reaches(api, made, "archived")
    made.start()
    eventually(
        lambda: made.process.exec("cat /data/shared/file /root/own").result.split() == ["shared", "own"], DONE_SECONDS,
        "the volume to be back",
    )
    sandboxes.remove([child.id, other.id])
    sandboxes.remove([made.id])
    sdk.volume.delete(volume)


def test_what_a_state_forbids_is_told(sandboxes: Sandboxes, busybox: str, api: httpx.Client) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    path = f"/sandbox/{made.id}"
    check_error(api.post(f"{path}/archive"), 400, "started", "stop")
    check_error(api.post(f"{path}/recover"), 400, "started")
    check_error(api.post(f"{path}/snapshot", json={}), 400, "name")
    check_error(api.post(f"{path}/snapshot", json={"name": "x", "includeMemory": True}), 400, "includeMemory")
    made.stop(force=True)
    assert api.post(f"{path}/backup").json()["backupState"] in ("Pending", "InProgress", "Completed")
    eventually(lambda: state(api, made)["backupState"] == "Completed", DONE_SECONDS, "the backup to be there")
    assert api.post(f"{path}/archive").json()["state"] in ("archiving", "archived")
    reaches(api, made, "archived")
    for action, body in (("fork", {}), ("snapshot", {"name": "x"})):
        check_error(api.post(f"{path}/{action}", json=body), 400, "archived", "start")
    assert api.post(f"{path}/archive").json()["state"] == "archived"
    assert api.post(f"{path}/stop").json()["state"] == "archived"
    check_error(api.get("/sandbox/nothing/ancestors"), 404)
    sandboxes.remove([made.id])

    brief = sandboxes.create(snapshot=busybox, auto_stop_interval=0, auto_delete_interval=5)
    brief.stop(force=True)
    api.post(f"/sandbox/{brief.id}/autodelete/0")
    answer = api.post(f"/sandbox/{brief.id}/archive")
    assert answer.status_code in (400, 404, 409), answer.text
    sandboxes.remove([brief.id])


def test_what_somebody_has_paused_goes_on(sandboxes: Sandboxes, busybox: str, engine: Engine) -> None:
    """As after a runner that died at the one moment at which it holds a sandbox up."""
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    container = engine.container(made.id)
    assert engine.request("POST", f"/containers/{container['Id']}/pause").status_code == 204
    eventually(lambda: not engine.container(made.id)["State"]["Paused"], 60, "the sandbox to go on")
    assert engine.container(made.id)["State"]["StartedAt"] == container["State"]["StartedAt"]
    assert made.process.exec("echo on").result == "on\n"
    sandboxes.remove([made.id])


def test_files_that_are_too_large_are_named(
    sandboxes: Sandboxes, busybox: str, api: httpx.Client, names: list[str]
) -> None:
    """A hole would be filled by whoever starts from the image."""
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    made.process.exec("dd if=/dev/zero of=/root/hole bs=1 count=1 seek=3G 2>/dev/null")
    names.append(f"of-{made.id}")
    answer = api.post(f"/sandbox/{made.id}/snapshot", json={"name": names[0]})
    # Whoever waits for it is told; where that took too long, it is seen as below.
    if answer.json().get("state") != "snapshotting":
        check_error(answer, 400, names[0], "root/hole", "activate")
    found = snapshot_settled(api, names[0])
    assert found["state"] == "error" and "root/hole" in found["errorReason"] and re.search("larger than the 10[0-9]{2} MiB", found["errorReason"])
    assert reaches(api, made, "started")
    child = api.post(f"/sandbox/{made.id}/fork", json={}).json()
    failed = eventually(
        lambda: (seen := api.get(f"/sandbox/{child['id']}").json())["state"] == "error" and seen, DONE_SECONDS, "the fork to fail"
    )
    assert "root/hole" in failed["errorReason"]
    made.process.exec("rm /root/hole")
    assert api.post(f"/snapshots/{found['id']}/activate").status_code == 200
    assert snapshot_settled(api, names[0])["state"] == "active"
    sandboxes.remove([child["id"]])
    sandboxes.remove([made.id])


@pytest.mark.deadline(400)
def test_a_runner_killed_while_capturing_loses_nothing(
    sandboxes: Sandboxes, busybox: str, api: httpx.Client, database: Database, engine: Engine, environment: Environment,
    stack: Stack, names: list[str],
) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    assert made.process.exec("head -c 30000000 /dev/urandom > /root/large").exit_code == 0
    before = tree_of(made, engine)
    names.append(f"of-{made.id}")
    # As the API asks, which would wait a moment for the answer.
    database.rows(
        "SELECT request_capture(id, organization_id, generation, 'snapshot', :'name') FROM sandbox WHERE id = :'id'",
        id=made.id, name=names[0],
    )
    assert state(api, made)["state"] == "snapshotting"
    eventually(
        lambda: database.rows(
            "SELECT 1 AS held FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id "
            "WHERE s.name = :'name' AND j.runner_id IS NOT NULL", name=names[0],
        ),
        DONE_SECONDS, "the capture to be under way", every=0.02,
    )
    stack.kill("runner")
    # As a runner leaves it that dies in the moment in which the sandbox stands still.
    paused = engine.request("POST", f"/containers/{engine.container(made.id)['Id']}/pause")
    assert paused.status_code in (204, 409), paused.text
    stack.start("runner")
    assert snapshot_settled(api, names[0], within=90)["state"] == "active"
    assert reaches(api, made, "started")
    eventually(lambda: not engine.container(made.id)["State"]["Paused"], 60, "the sandbox to go on")
    check_same(before, tree_of(made, engine))
    other = sandboxes.create(snapshot=names[0], auto_stop_interval=0)
    check_same(before, tree_of(other, engine))
    assert os.listdir(environment.state / "runner" / "captures") == []
    frozen = environment.state / "docker" / "data" / "docker" / "btrfs" / "martlet"
    assert not frozen.exists() or os.listdir(frozen) == []
    sandboxes.remove([made.id, other.id])


@pytest.mark.deadline(400)
def test_our_registry_may_be_away_for_a_while(
    sandboxes: Sandboxes, busybox: str, api: httpx.Client, engine: Engine, database: Database, stack: Stack
) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    made.process.exec("echo kept > /root/kept")
    made.stop(force=True)
    stack.stop("registry")
    try:
        assert api.post(f"/sandbox/{made.id}/archive").json()["state"] == "archiving"
        eventually(
            lambda: database.rows(
                "SELECT j.failures FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id "
                "WHERE s.source_sandbox_id = :'id' AND j.failures > 0", id=made.id,
            ),
            DONE_SECONDS, "the backup to fail",
        )
        assert state(api, made)["state"] == "archiving" and engine.container(made.id), "its only copy is kept"
    finally:
        stack.start("registry")
    reaches(api, made, "archived", within=90)
    made.start()
    assert made.process.exec("cat /root/kept").result == "kept\n"
    sandboxes.remove([made.id])


@pytest.mark.deadline(300)
def test_a_backup_that_is_gone_is_told(sandboxes: Sandboxes, busybox: str, api: httpx.Client, database: Database) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    made.stop(force=True)
    made.archive()
    reaches(api, made, "archived")
    kept = database.rows("SELECT image FROM sandbox WHERE id = :'id'", id=made.id)[0]["image"]
    lost = kept.partition("@")[0] + "@sha256:" + "0a" * 32
    database.execute("UPDATE sandbox SET image = :'image' WHERE id = :'id';", image=lost, id=made.id)
    api.post(f"/sandbox/{made.id}/start")
    found = reaches(api, made, "error")
    assert "gone from Martlet's registry" in found["errorReason"] and "backup" in found["errorReason"] and found["recoverable"]
    database.execute("UPDATE sandbox SET image = :'image' WHERE id = :'id';", image=kept, id=made.id)
    made.recover()
    assert made.state == SandboxState.STARTED
    sandboxes.remove([made.id])


@pytest.mark.deadline(300)
def test_a_container_that_is_lost_comes_back_from_its_backup(
    sandboxes: Sandboxes, busybox: str, engine: Engine, api: httpx.Client
) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    assert made.process.exec("echo kept > /root/kept").exit_code == 0
    assert api.post(f"/sandbox/{made.id}/backup").status_code == 200
    eventually(lambda: state(api, made)["backupState"] == "Completed", DONE_SECONDS, "the backup to be complete")
    lost = engine.container(made.id)["Id"]
    assert engine.request("DELETE", f"/containers/{lost}", force="true").status_code == 204

    def is_another() -> bool:
        found = [each for each in engine.sandboxes() if each["Labels"]["martlet.sandbox"] == made.id]
        # While it is made its row may say still what it said of the lost one; before it runs that is over.
        is_running = [each["State"] for each in found] == ["running"] and found[0]["Id"] != lost
        return is_running and state(api, made)["state"] == "started"

    eventually(is_another, DONE_SECONDS, "another container")
    assert made.process.exec("cat /root/kept").result == "kept\n"
    sandboxes.remove([made.id])


@pytest.mark.deadline(300)
def test_what_has_no_container_is_not_archived_for_an_hour(
    sandboxes: Sandboxes, busybox: str, engine: Engine, api: httpx.Client, database: Database
) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    made.stop(force=True)
    assert engine.request("DELETE", f"/containers/{engine.container(made.id)['Id']}", force="true").status_code == 204
    assert api.post(f"/sandbox/{made.id}/archive").json()["state"] == "archiving"
    reaches(api, made, "stopped")
    why = database.rows("SELECT cause FROM event WHERE subject_id = :'id' ORDER BY id DESC LIMIT 3", id=made.id)
    assert any("no container" in (each["cause"] or "") for each in why), why
    made.start()
    assert made.process.exec("echo on").result == "on\n"
    sandboxes.remove([made.id])


def statuses(box: Sandbox, *paths: str) -> list[str]:
    return box.process.exec(f"stat -c '%a %u:%g' {' '.join(paths)}").result.splitlines()


@pytest.mark.deadline(300)
def test_volumes_that_an_image_declares_are_folders_of_the_sandbox(
    sandboxes: Sandboxes, busybox: str, engine: Engine, api: httpx.Client
) -> None:
    """What is there is counted by the sandbox's own disk, and captured with it."""
    image = Image.base("martlet/busybox:test").dockerfile_commands(
        ["RUN mkdir /data && echo given > /data/given && chown -R 5:6 /data && chmod 1771 /data", "VOLUME /data /missing/deep"]
    )
    made = sandboxes.client.sdk.create(
        CreateSandboxFromImageParams(image=image, labels=sandboxes.labels(), auto_stop_interval=0), timeout=120
    )
    container = engine.container(made.id)
    assert [each for each in container["Mounts"] if each["Type"] == "volume"] == [] and not container["Config"]["Volumes"]
    assert statuses(made, "/data", "/data/given", "/missing", "/missing/deep") == ["1771 5:6", "644 5:6", "755 0:0", "755 0:0"]
    assert made.process.exec("cat /data/given; echo own > /data/own; echo own > /missing/deep/own").exit_code == 0
    disks = made.process.exec("stat -c %d / /data /missing/deep").result.split()
    assert len(disks) == 3 and len(set(disks)) == 1, "one file system, and so one quota"

    made.stop()
    made.start()
    assert made.process.exec("cat /data/given /data/own /missing/deep/own").result.split() == ["given", "own", "own"]
    before = tree_of(made, engine)
    made.stop()
    made.archive()
    reaches(api, made, "archived")
    made.start()
    check_same(before, tree_of(made, engine))
    child = made.fork()
    check_same(before, tree_of(child, engine))
    for box in (made, child):
        assert [each for each in engine.container(box.id)["Mounts"] if each["Type"] == "volume"] == []
    sandboxes.remove([child.id])

    # What is mounted above such a path has it, or not.
    volume = sandboxes.client.sdk.volume.create(f"test {secrets.token_hex(4)}")
    eventually(lambda: sandboxes.client.sdk.volume.get(volume.name).state == "ready", DONE_SECONDS, "the volume to be ready")
    mount = VolumeMount(volume_id=volume.id, mount_path="/missing")
    below = sandboxes.client.sdk.create(
        CreateSandboxFromImageParams(image=image, labels=sandboxes.labels(), auto_stop_interval=0, volumes=[mount]), timeout=120
    )
    assert below.process.exec("cat /data/given; echo own > /missing/own; ls -A /missing").result.split() == ["given", "own"]
    sandboxes.remove([below.id])
    sandboxes.remove([made.id])
    sandboxes.client.sdk.volume.delete(volume)


@pytest.mark.deadline(300)
def test_so_are_those_of_an_image_that_only_the_engine_has(
    sandboxes: Sandboxes, busybox: str, engine: Engine, api: httpx.Client, database: Database
) -> None:
    name = f"with-volume-{secrets.token_hex(4)}"
    plain = engine.request("POST", "/containers/create", {"Image": "martlet/busybox:test", "Cmd": ["true"]}).json()["Id"]
    changed = engine.request("POST", "/commit", container=plain, repo=f"martlet/{name}", tag="1", changes="VOLUME /data")
    assert changed.status_code == 201, changed.text
    assert engine.request("DELETE", f"/containers/{plain}").status_code == 204
    add_snapshot(database, name, f"martlet/{name}:1")
    try:
        made = sandboxes.create(snapshot=name, auto_stop_interval=0)
        assert made.process.exec("echo kept > /data/kept").exit_code == 0
        made.stop()
        made.archive()
        reaches(api, made, "archived")
        made.start()
        assert made.process.exec("cat /data/kept").result == "kept\n"
        sandboxes.remove([made.id])
    finally:
        database.execute("DELETE FROM snapshot WHERE general AND name = :'name';", name=name)
        twins = [tag for each in engine.get("/images/json") for tag in each["RepoTags"] or [] if tag.endswith(changed.json()["Id"].removeprefix("sha256:"))]
        for image in [*twins, f"martlet/{name}:1"]:
            engine.request("DELETE", f"/images/{image}", force="true")


@pytest.mark.deadline(300)
def test_a_container_of_former_times_keeps_its_volume(
    sandboxes: Sandboxes, busybox: str, engine: Engine, api: httpx.Client, database: Database
) -> None:
    """It was made when the engine kept what is there beside the sandbox: that would be in no backup."""
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    made.stop()
    old = engine.container(made.id)
    assert engine.request("DELETE", f"/containers/{old['Id']}").status_code == 204
    body = {**old["Config"], "Volumes": {"/data": {}}, "HostConfig": old["HostConfig"]}
    body["NetworkingConfig"] = {"EndpointsConfig": old["NetworkSettings"]["Networks"]}
    again = engine.request("POST", "/containers/create", body, name=old["Name"].lstrip("/"))
    assert again.status_code == 201, again.text
    made.start()
    assert engine.container(made.id)["Id"] == again.json()["Id"], "it is the sandbox's"
    assert made.process.exec("echo kept > /data/kept").exit_code == 0
    made.stop()
    made.archive()
    reaches(api, made, "stopped")
    why = database.rows("SELECT cause FROM event WHERE subject_id = :'id' ORDER BY id DESC LIMIT 3", id=made.id)
    assert any("VOLUME /data" in (each["cause"] or "") and "new sandbox" in each["cause"] for each in why), why
    made.start()
    assert made.process.exec("cat /data/kept").result == "kept\n"
    sandboxes.remove([made.id])
