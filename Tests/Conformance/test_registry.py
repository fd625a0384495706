"""Organization registries: kept without ever showing a password, and used for pulls."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Iterator

import httpx
import pytest

from Rig.database import Database, DatabaseError
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.network import HostNetwork
from Rig.registry import UserRegistry
from Rig.sandboxes import Sandboxes
from Rig.snapshots import Made
from Rig.tls_front import TLSFront
from Rig.waiting import eventually
from Rig.wire import check_error

BUSYBOX = "martlet/busybox:test"
SECRET = "n0b0dy-sees-this"


def test_a_password_goes_in_and_never_comes_out(api: httpx.Client, database: Database, environment: Environment) -> None:
    body = {"name": "kept", "url": "https://registry.example.com/", "username": "user", "password": SECRET, "project": "team"}
    made = api.post("/docker-registry", json=body)
    assert made.status_code == 201, made.text
    path = f"/docker-registry/{made.json()['id']}"
    try:
        assert {"id", "name", "url", "username", "project", "registryType", "createdAt", "updatedAt"} <= made.json().keys()
        again = api.patch(path, json={"name": "kept", "url": "registry.example.com", "username": "user2"})
        assert again.status_code == 200 and again.json()["username"] == "user2"
        for answer in (made, again, api.get(path), api.get("/docker-registry")):
            assert SECRET not in answer.text and "password" not in answer.text
        moved = api.patch(path, json={"name": "kept", "url": "elsewhere.example.com", "username": "user"})
        check_error(moved, 400, "password", "elsewhere.example.com")
        rows = database.execute("SELECT encode(sealed_password, 'escape') FROM docker_registry")
        assert SECRET not in rows
        for role in ("martlet_api", "martlet_operator", "martlet_runner", "martlet_proxy"):
            with pytest.raises(DatabaseError, match="permission denied"):
                database.execute(f"SET ROLE {role}; SELECT sealed_password FROM docker_registry;")
        for log in ("api.log", "runner.log", "postgres.log"):
            assert SECRET not in (environment.state / "log" / log).read_text(errors="replace"), log
    finally:
        assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404


def test_bad_registries_are_told(api: httpx.Client) -> None:
    good = {"name": "x", "url": "registry.example.com", "username": "u", "password": "p"}
    for change, words in [
        ({"url": "registry.example.com/team"}, ["url", "project"]),
        ({"url": "not a host"}, ["url"]),
        ({"url": "127.0.0.1:1"}, ["127.0.0.1:1", "operator"]),
        ({"username": ""}, ["username"]),
        ({"password": ""}, ["password"]),
        ({"name": ""}, ["name"]),
        ({"isDefault": True}, ["isDefault"]),
        ({"insecure": "yes"}, ["insecure"]),
        ({"caCertificate": "-----BEGIN NONSENSE-----"}, ["caCertificate", "PEM"]),
    ]:
        check_error(api.post("/docker-registry", json={**good, **change}), 400, *words)
    check_error(api.get("/docker-registry/registry-push-access"), 501, "docker-registry")


@pytest.mark.parametrize("ends", ["exit 1", "kill -TERM 0; exec sleep 60"])
def test_a_collection_that_fails_leaves_it_running(registry: UserRegistry, tmp_path: Path, ends: str) -> None:
    """By itself, or because somebody ended all of it."""
    registry.push(BUSYBOX, "team/collected:1.0")
    shim = tmp_path / "docker-registry"
    shim.write_text(f'#!/bin/bash\n[ "$1" != garbage-collect ] || {{ {ends}; }}\nexec {shutil.which("docker-registry")} "$@"\n')
    shim.chmod(0o755)
    assert registry.collect(before=tmp_path).returncode != 0
    with registry.client() as wire:
        assert wire.get("/").status_code == 200
    assert registry.collect().returncode == 0


@pytest.mark.deadline(300)
def test_a_wrong_password_is_told_and_a_right_one_heals(api: httpx.Client, registry: UserRegistry, environment: Environment) -> None:
    image = registry.push(BUSYBOX, "team/guarded:1.0")
    body = {"name": "guarded", "url": registry.host, "username": registry.username, "password": SECRET}
    login = api.post("/docker-registry", json=body).json()["id"]
    asked = api.post("/snapshots", json={"name": "martlet-test-guarded", "imageName": image})
    assert asked.status_code == 200, asked.text
    path = f"/snapshots/{asked.json()['id']}"
    try:
        failed = eventually(lambda: (now := api.get(path).json())["state"] == "error" and now, 100, "it to fail")
        assert "registry refuses" in failed["errorReason"] and "docker-registry" in failed["errorReason"], failed
        assert SECRET not in json.dumps(failed)
        right = api.patch(f"/docker-registry/{login}", json={**body, "password": registry.password})
        assert right.status_code == 200, right.text
        assert api.post(f"{path}/activate").status_code == 200
        eventually(lambda: api.get(path).json()["state"] == "active", 100, "it to be made")
        for log in ("api.log", "runner.log"):
            text = (environment.state / "log" / log).read_text(errors="replace")
            assert SECRET not in text and registry.password not in text, log
    finally:
        assert api.delete(path).status_code == 200
        assert api.delete(f"/docker-registry/{login}").status_code == 204


@pytest.fixture
def front(registry: UserRegistry, host: HostNetwork, database: Database) -> Iterator[TLSFront]:
    made = TLSFront(registry.host, host.addresses()[0], database)
    yield made
    made.close()


class Logins:
    """Adds registries and removes them in the end."""

    def __init__(self, api: httpx.Client, registry: UserRegistry) -> None:
        self._api = api
        self._login = {"username": registry.username, "password": registry.password}
        self._paths: dict[str, str] = {}

    def put(self, host: str, **trust: Any) -> None:
        """There is one for the host, asked with the login and this trust."""
        body = {"name": host, "url": host, **self._login, **trust}
        if host in self._paths:
            answer = self._api.patch(self._paths[host], json=body)
        else:
            answer = self._api.post("/docker-registry", json=body)
        assert answer.status_code in (200, 201), answer.text
        self._paths[host] = f"/docker-registry/{answer.json()['id']}"

    def patch_without_password(self, host: str, **trust: Any) -> httpx.Response:
        return self._api.patch(self._paths[host], json={"name": host, "url": host, "username": self._login["username"], **trust})

    def close(self) -> None:
        for path in self._paths.values():
            assert self._api.delete(path).status_code == 204


@pytest.fixture
def logins(api: httpx.Client, registry: UserRegistry) -> Iterator[Logins]:
    made = Logins(api, registry)
    yield made
    made.close()


@pytest.mark.deadline(400)
def test_an_authority_of_the_organizations(
    api: httpx.Client, registry: UserRegistry, front: TLSFront, logins: Logins, made: Made, sandboxes: Sandboxes, engine: Engine
) -> None:
    """A certificate that the host does not trust is taken by the authority that the registry's row names, for that row alone."""
    image = registry.push(BUSYBOX, f"team/trusted:{sandboxes.run}").replace(registry.host, front.secure)
    logins.put(front.secure)
    snapshot = made.ask("trusted", image)["id"]
    assert "certificate" in made.settled(snapshot)["errorReason"]
    logins.put(front.secure, caCertificate=front.stranger)
    assert api.post(f"/snapshots/{snapshot}/activate").status_code == 200
    assert "unknown authority" in made.settled(snapshot)["errorReason"]
    # Whoever may change a registry does not know its password: nobody whom he trusts is to be sent it.
    check_error(logins.patch_without_password(front.secure, caCertificate=front.authority), 400, "password", "caCertificate")
    logins.put(front.secure, caCertificate=front.authority)
    assert logins.patch_without_password(front.secure).json()["caCertificate"] == front.authority, "what is not named stays"
    assert api.post(f"/snapshots/{snapshot}/activate").status_code == 200
    assert made.settled(snapshot)["state"] == "active", made.get(snapshot)
    box = sandboxes.create(snapshot=made.name("trusted"))
    assert box.process.exec("echo here").result == "here\n"
    sandboxes.remove([box.id])
    # For a build's base image too; in neither case is a name left on the host.
    built = made.build("trusted-base", f"FROM {image}\nRUN echo {sandboxes.run} >/made\n")["id"]
    assert made.settled(built)["state"] == "active", made.get(built)
    names = [name for each in engine.get("/images/json") for name in each["RepoTags"] or []]
    assert not [each for each in names if f"/borrowed/{snapshot}" in each or f"/borrowed/{built}" in each]


@pytest.mark.deadline(300)
def test_an_insecure_registry(registry: UserRegistry, front: TLSFront, logins: Logins, made: Made, sandboxes: Sandboxes) -> None:
    """Any certificate, and plain HTTP; of which the engine was told nothing. A list of images has one for this host."""
    image = registry.push(BUSYBOX, f"team/insecure:{sandboxes.run}")
    several = registry.list_of(image, f"several-{sandboxes.run}")
    for kind, host, image in (("secure", front.secure, image), ("plain", front.plain, several)):
        logins.put(host, insecure=True)
        snapshot = made.ask(kind, image.replace(registry.host, host))["id"]
        assert made.settled(snapshot)["state"] == "active", made.get(snapshot)


@pytest.mark.deadline(300)
def test_an_operators_trust_is_everybodys(
    api: httpx.Client, registry: UserRegistry, front: TLSFront, logins: Logins, made: Made, sandboxes: Sandboxes, database: Database
) -> None:
    """Of those without a login, who are refused over TLS that is trusted, and of those with one of their own."""
    image = registry.push(BUSYBOX, f"team/everybodys:{sandboxes.run}").replace(registry.host, front.secure)
    database.execute(
        "SET ROLE martlet_operator; UPDATE docker_registry SET certificate_authorities = :'authority' WHERE host = :'host';",
        authority=front.authority, host=front.secure,
    )  # fmt: skip
    snapshot = made.ask("everybodys", image)["id"]
    assert "registry refuses" in made.settled(snapshot)["errorReason"]
    logins.put(front.secure)
    assert api.post(f"/snapshots/{snapshot}/activate").status_code == 200
    assert made.settled(snapshot)["state"] == "active", made.get(snapshot)
