"""Snapshots from images, by the official SDK: made by a runner, used, deactivated, lost, healed and deleted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterator

import httpx
import pytest
from daytona import CreateSandboxFromSnapshotParams, CreateSnapshotParams, Resources

from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.registry import UserRegistry
from Rig.sandboxes import Client, Sandboxes
from Rig.stack import Stack
from Rig.waiting import eventually
from Rig.wire import Tenant, check_error

BUSYBOX = "martlet/busybox:test"
# What a test waits for at most; each is a matter of a second or two on an idle machine.
MADE_SECONDS = 100


@pytest.fixture(scope="module")
def workers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Made:
    """Snapshots of one test, deleted after it."""

    def __init__(self, api: httpx.Client, prefix: str) -> None:
        self._api = api
        self._prefix = prefix
        self.ids: list[str] = []

    def name(self, word: str) -> str:
        return f"{self._prefix}-{word}"

    def ask(self, word: str, image: str, **more: Any) -> dict[str, Any]:
        answer = self._api.post("/snapshots", json={"name": self.name(word), "imageName": image, **more})
        assert answer.status_code == 200, answer.text
        self.ids.append(answer.json()["id"])
        return answer.json()

    def get(self, identifier: str) -> dict[str, Any]:
        answer = self._api.get(f"/snapshots/{identifier}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def settled(self, identifier: str, within: float = MADE_SECONDS) -> dict[str, Any]:
        """The snapshot once it is active or has failed."""
        return eventually(
            lambda: (found := self.get(identifier))["state"] in ("active", "error") and found, within, "a snapshot to be settled"
        )


@pytest.fixture
def made(api: httpx.Client, sandboxes: Sandboxes) -> Iterator[Made]:
    of_this_test = Made(api, f"martlet-test-{sandboxes.run}")
    yield of_this_test
    for each in of_this_test.ids:
        assert api.delete(f"/snapshots/{each}").status_code in (200, 404)


@pytest.mark.deadline(400)
def test_the_sdk_makes_uses_and_deletes_one(
    client: Client, sandboxes: Sandboxes, registry: UserRegistry, login: str, made: Made, engine: Engine
) -> None:
    image = registry.push(BUSYBOX, f"team/app-{client.flavor}:1.0")
    name, lines = made.name(f"sdk/{client.flavor}:1 a"), []
    parameters = CreateSnapshotParams(name=name, image=image, resources=Resources(cpu=1, memory=1, disk=1))
    snapshot = client.wait(client.sdk.snapshot.create(parameters, on_logs=lines.append))
    made.ids.append(snapshot.id)
    assert (snapshot.state, snapshot.name, snapshot.image_name) == ("active", name, image)
    assert snapshot.size and snapshot.size > 0 and snapshot.error_reason is None
    assert lines[0].startswith(f"Creating snapshot {name}") and lines[-1].startswith(f"Created snapshot {name}"), lines
    assert client.wait(client.sdk.snapshot.get(name)).id == snapshot.id
    listed = client.wait(client.sdk.snapshot.list(limit=200))
    assert snapshot.id in {each.id for each in listed.items}
    assert not engine.has_image(image), "the name that it was pulled by was only borrowed"

    box = client.wait(
        client.sdk.create(CreateSandboxFromSnapshotParams(snapshot=name, labels=sandboxes.labels(), auto_stop_interval=0))
    )
    assert client.wait(box.process.exec("echo $((6 * 7))")).result == "42\n"
    assert client.wait(client.sdk.snapshot.get(snapshot.id)).last_used_at is not None
    client.wait(client.sdk.snapshot.delete(name))
    with pytest.raises(Exception, match="(?i)no snapshot"):
        client.wait(client.sdk.snapshot.get(name))
    assert client.wait(box.process.exec("echo still")).result == "still\n", "sandboxes outlive their snapshot"
    sandboxes.remove([box.id])


@pytest.mark.deadline(400)
def test_deactivated_it_rests_and_activated_it_works_again(
    api: httpx.Client, sandboxes: Sandboxes, sync_client: Client, registry: UserRegistry, login: str, made: Made
) -> None:
    image = registry.push(BUSYBOX, "team/rests:1.0")
    asked = made.ask("rests", image, entrypoint=["/bin/sh", "-c", "while :; do echo up >/tmp/up; sleep 1; done"])
    assert asked["state"] in ("pending", "pulling")
    found = made.settled(asked["id"])
    assert found["state"] == "active" and found["entrypoint"][0] == "/bin/sh", found
    assert api.post(f"/snapshots/{asked['id']}/deactivate").status_code == 204
    check_error(api.post("/sandbox", json={"snapshot": asked["name"]}), 400, asked["name"], "inactive")
    assert sync_client.sdk.snapshot.activate(asked["name"]).state in ("pending", "pulling", "active")
    assert made.settled(asked["id"])["state"] == "active"
    box = sandboxes.create(snapshot=asked["name"])
    eventually(lambda: "up" in box.process.exec("cat /tmp/up").result, 60, "its entrypoint to run")
    sandboxes.remove([box.id])


@pytest.mark.deadline(400)
def test_failures_say_what_and_where(registry: UserRegistry, login: str, made: Made) -> None:
    """An unknown tag, an unknown repository, and a host that is none: error, with the step and the registry's words."""
    asked = {
        word: made.ask(word, image)["id"]
        for word, image in {
            "tag": f"{registry.host}/team/app-sync:no-such",
            "repository": f"{registry.host}/no/such:1.0",
            "host": "no-such-host.invalid/a:1.0",
        }.items()
    }
    for word, identifier in asked.items():
        found = made.settled(identifier)
        assert found["state"] == "error", found
        assert "step pull" in found["errorReason"], found["errorReason"]
    assert "manifest unknown" in made.get(asked["tag"])["errorReason"]
    assert "no-such-host.invalid" in made.get(asked["host"])["errorReason"]


@pytest.mark.deadline(400)
def test_a_registry_that_was_away_is_asked_again(api: httpx.Client, registry: UserRegistry, login: str, made: Made) -> None:
    image = registry.push(BUSYBOX, "team/away:1.0")
    registry.stop()
    try:
        asked = made.ask("away", image)
        found = made.settled(asked["id"])
        assert found["state"] == "error" and "refused" in found["errorReason"], found
    finally:
        registry.start()
    assert api.post(f"/snapshots/{asked['id']}/activate").json()["state"] in ("pending", "pulling")
    assert made.settled(asked["id"])["state"] == "active"


@pytest.mark.deadline(400)
def test_an_image_deleted_behind_our_back_comes_back(
    sandboxes: Sandboxes, registry: UserRegistry, login: str, made: Made, engine: Engine, database: Database
) -> None:
    """From the engine: fetched again from our registry. From there too: made anew from where it came.

    The engine keeps manifests that it once saw, so what it cannot have any more is a digest that it never saw.
    """
    asked = made.ask("lost", unlike(engine, registry))
    found = made.settled(asked["id"])
    assert found["state"] == "active", found
    forget(engine, found["ref"])
    first = sandboxes.create(snapshot=asked["name"])
    assert first.process.exec("echo here").result == "here\n"
    sandboxes.remove([first.id])

    lost = found["ref"].partition("@")[0] + "@sha256:" + "0a" * 32
    database.execute("UPDATE snapshot SET image = :'lost' WHERE id = :'id';", lost=lost, id=asked["id"])
    others = set(sandboxes.alive())
    with pytest.raises(Exception, match="(?i)gone from Martlet's registry"):
        sandboxes.create(snapshot=asked["name"])
    assert made.settled(asked["id"])["ref"] == found["ref"], "the same image again"
    second = sandboxes.create(snapshot=asked["name"])
    assert second.process.exec("echo again").result == "again\n"
    (failed,) = set(sandboxes.alive()) - others - {second.id}
    third = sandboxes.client.sdk.get(failed)
    third.recover()
    assert third.process.exec("echo healed").result == "healed\n", "what was promised to it"
    sandboxes.remove([second.id, third.id])


@pytest.mark.deadline(400)
def test_our_registry_may_be_away_for_a_while(
    sandboxes: Sandboxes, registry: UserRegistry, login: str, made: Made, engine: Engine, stack: Stack, api: httpx.Client,
    workers: ThreadPoolExecutor,
) -> None:
    """What is being made and what is being started wait for it, and go on by themselves."""
    ready = made.ask("ready", unlike(engine, registry))
    ref = made.settled(ready["id"])["ref"]
    stack.stop("registry")
    try:
        # Only now: it would be fetched early again.
        forget(engine, ref)
        others = set(sandboxes.alive())
        waiting = made.ask("waiting", registry.push(BUSYBOX, "team/waiting:1.0"))
        # POST is answered once it has started, or after a while.
        asking = workers.submit(api.post, "/sandbox", json={"snapshot": ready["name"], "labels": sandboxes.labels()})
        (identifier,) = eventually(lambda: set(sandboxes.alive()) - others, 60, "a row of the sandbox")
        eventually(lambda: api.get(f"/sandbox/{identifier}").json()["state"] == "pulling_snapshot", 60, "a sandbox that waits")
        eventually(lambda: made.get(waiting["id"])["state"] == "pulling", 60, "a snapshot that waits")
    finally:
        stack.start("registry")
    assert made.settled(waiting["id"])["state"] == "active"
    assert asking.result(120).status_code == 200
    eventually(lambda: api.get(f"/sandbox/{identifier}").json()["state"] == "started", 60, "the sandbox to start")
    sandboxes.remove([identifier])


@pytest.mark.deadline(400)
def test_a_runner_killed_while_making_one_loses_nothing(
    registry: UserRegistry, login: str, made: Made, stack: Stack, database: Database
) -> None:
    """Its job is taken up again, at once as it comes back itself; what it had borrowed is given back."""
    registry.stop()
    try:
        asked = made.ask("killed", f"{registry.host}/team/killed:1.0")
        eventually(lambda: made.get(asked["id"])["state"] == "pulling", MADE_SECONDS, "a runner to begin")
        stack.kill("runner")
    finally:
        registry.start()
    registry.push(BUSYBOX, "team/killed:1.0")
    database.execute("UPDATE snapshot_job SET failures = 0")
    stack.start("runner")
    found = made.settled(asked["id"], 60)
    assert found["state"] == "active", found
    eventually(lambda: database.value("SELECT count(*) FROM runner_pull") == 0, 60, "what was borrowed to be given back")


def test_deleted_it_leaves_our_registry(
    registry: UserRegistry, login: str, made: Made, database: Database, environment: Environment, engine: Engine, api: httpx.Client
) -> None:
    asked = made.ask("leaves", unlike(engine, registry))
    ref = made.settled(asked["id"])["ref"]
    assert manifest_status(environment, ref) == 200
    assert api.delete(f"/snapshots/{asked['id']}").status_code == 200
    eventually(lambda: manifest_status(environment, ref) == 404, 90, "its manifest to be removed")
    eventually(lambda: database.value("SELECT count(*) FROM discarded_repository WHERE not_before <= now()") == 0, 90, "a tidy list")


def test_bad_requests_are_told(api: httpx.Client, registry: UserRegistry, made: Made) -> None:
    for body, words in [
        ({"name": "x"}, ["imageName"]),
        ({"name": "x", "imageName": "busybox"}, ["imageName", "tag"]),
        ({"name": "x", "imageName": "busybox:latest"}, ["latest"]),
        ({"name": "x", "imageName": "Bad Name:1"}, ["imageName"]),
        ({"name": "x", "imageName": "127.0.0.1:1/a:1"}, ["127.0.0.1:1", "operator"]),
        ({"name": "x", "imageName": "169.254.169.254/a:1"}, ["private"]),
        ({"name": "x", "imageName": "a:1", "cpu": 0}, ["cpu"]),
    ]:
        check_error(api.post("/snapshots", json=body), 400, *words)
    made.ask("twice", f"{registry.host}/none:1.0")
    again = api.post("/snapshots", json={"name": made.name("twice"), "imageName": "a:1"})
    check_error(again, 409, made.name("twice"))


def test_a_stranger_sees_and_pulls_nothing(
    api: httpx.Client, database: Database, environment: Environment, registry: UserRegistry, login: str, made: Made, sandboxes: Sandboxes
) -> None:
    """Somebody else has no login for that registry, also where this host has the image already, and he knows its digest."""
    image = registry.push(BUSYBOX, "team/private:1.0")
    with registry.client() as wire:
        accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
        digest = wire.head("/team/private/manifests/1.0", headers=accept).headers["Docker-Content-Digest"]
    mine = made.ask("private", image)
    assert made.settled(mine["id"])["state"] == "active"
    with Tenant(database, f"stranger-{sandboxes.run}") as stranger, httpx.Client(
        base_url=environment.api_url, headers={"Authorization": f"Bearer {stranger.key}"}, timeout=30
    ) as other:
        assert other.get(f"/snapshots/{mine['id']}").status_code == 404
        for name in (image, f"{registry.host}/team/private@{digest}"):
            asked = other.post("/snapshots", json={"name": "theirs", "imageName": name}).json()
            found = Made(other, "stranger").settled(asked["id"], 60)
            assert found["state"] == "error" and "registry refuses" in found["errorReason"], found
            assert other.delete(f"/snapshots/{asked['id']}").status_code == 200


# ---- what the tests do behind Martlet's back --------------------------------------------------------------------------------


COUNT = iter(range(1000))


def unlike(engine: Engine, registry: UserRegistry) -> str:
    """A fresh image, pushed and unlike all others, so that nothing else on the engine keeps it."""
    name = f"team/unlike-{registry.host.rpartition(':')[2]}-{next(COUNT)}"
    made = engine.request("POST", "/containers/create", {"Image": BUSYBOX, "Cmd": ["/bin/true", name]})
    assert made.status_code == 201, made.text
    identifier = made.json()["Id"]
    answer = engine.request("POST", "/commit", None, container=identifier, repo=f"martlet-test/{name}", tag="1.0", comment=name)
    assert answer.status_code == 201, answer.text
    assert engine.request("DELETE", f"/containers/{identifier}").status_code == 204
    pushed = registry.push(f"martlet-test/{name}:1.0", f"{name}:1.0")
    assert engine.request("DELETE", f"/images/martlet-test/{name}:1.0").status_code == 200
    return pushed


def ours(environment: Environment) -> tuple[str, tuple[str, str]]:
    """Martlet's own registry: its host and login, as the runner was given them."""
    lines = (environment.state / "services" / "runner.env").read_text().splitlines()
    values = dict(each.split("=", 1) for each in lines if "=" in each)
    login = (values["MARTLET_REGISTRY_USERNAME"], values["MARTLET_REGISTRY_PASSWORD"])
    return values["MARTLET_REGISTRY_URL"].removeprefix("http://"), login


def repository_and_digest(ref: str) -> tuple[str, str]:
    path, _, digest = ref.partition("@")
    return path.partition("/")[2], digest


def manifest_status(environment: Environment, ref: str) -> int:
    host, login = ours(environment)
    repository, digest = repository_and_digest(ref)
    accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    return httpx.head(f"http://{host}/v2/{repository}/manifests/{digest}", auth=login, headers=accept, timeout=30).status_code


def forget(engine: Engine, ref: str) -> None:
    """Removes every name of an image of our registry from the engine, as `docker rmi` would."""
    _, digest = repository_and_digest(ref)
    for image in engine.get("/images/json"):
        if any(each.endswith(digest) for each in image["RepoDigests"] or []):
            for name in [*(image["RepoTags"] or []), *image["RepoDigests"]]:
                if "/snapshots/" in name:
                    assert engine.request("DELETE", f"/images/{name}").status_code in (200, 404)
