"""Snapshots from images as tests make them, and what may happen to their images behind Martlet's back."""

from __future__ import annotations

from typing import Any

import httpx

from Rig.engine import Engine
from Rig.environment import Environment
from Rig.registry import UserRegistry
from Rig.waiting import eventually

BUSYBOX = "martlet/busybox:test"
# What a test waits for at most; each is a matter of a second or two on an idle machine.
MADE_SECONDS = 100


class Made:
    """Snapshots of one test, deleted after it."""

    def __init__(self, api: httpx.Client, prefix: str) -> None:
        self._api = api
        self._prefix = prefix
        self.ids: list[str] = []

    def name(self, word: str) -> str:
        return f"{self._prefix}-{word}"

    def ask(self, word: str, image: str, **more: Any) -> dict[str, Any]:
        return self._note(self._api.post("/snapshots", json={"name": self.name(word), "imageName": image, **more}))

    def build(self, word: str, dockerfile: str) -> dict[str, Any]:
        return self._note(self._api.post("/snapshots", json={"name": self.name(word), "buildInfo": {"dockerfileContent": dockerfile}}))

    def capture(self, word: str, sandbox: str) -> dict[str, Any]:
        answer = self._api.post(f"/sandbox/{sandbox}/snapshot", json={"name": self.name(word)})
        # What has failed while the API waited is told at once, and is there all the same.
        assert answer.status_code == 200 or answer.status_code == 400 and "could not be made" in answer.text, answer.text
        return self._note(self._api.get(f"/snapshots/{self.name(word)}"))

    def _note(self, answer: httpx.Response) -> dict[str, Any]:
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
            lambda: (found := self.get(identifier))["state"] in ("active", "error", "build_failed") and found, within, "a snapshot to be settled"
        )


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


def forget(engine: Engine, ref: str, force: bool = False) -> None:
    """Removes every name of an image of our registry from the engine, as `docker rmi` would; `force` also where it is used."""
    _, digest = repository_and_digest(ref)
    for image in engine.get("/images/json"):
        if any(each.endswith(digest) for each in image["RepoDigests"] or []):
            for name in [*(image["RepoTags"] or []), *image["RepoDigests"]]:
                if "/snapshots/" in name:
                    assert engine.request("DELETE", f"/images/{name}", force=str(force).lower()).status_code in (200, 404)
