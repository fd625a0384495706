"""Docker as it is, over its socket: what really runs, as opposed to what Martlet says."""

from __future__ import annotations

from typing import Any

import httpx

LABEL = "martlet.sandbox"


class Engine:
    """The Engine API, version 1.41 (Docker 20.10)."""

    def __init__(self, host: str) -> None:
        assert host.startswith("unix://"), f"MARTLET_DOCKER_HOST is {host!r}; the suites need a unix:// socket"
        self.socket = host.removeprefix("unix://")
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=self.socket), base_url="http://docker/v1.41", timeout=60
        )

    def get(self, path: str, **parameters: str) -> Any:
        answer = self._http.get(path, params=parameters)
        answer.raise_for_status()
        return answer.json()

    def request(self, method: str, route: str, body: object = None, **parameters: str) -> httpx.Response:
        """Any call; the answer as it came."""
        return self._http.request(method, route, params=parameters, json=body)

    def push(self, repository: str, tag: str, login: str) -> str:
        """Pushes an image; what the engine said of it."""
        answer = self._http.post(f"/images/{repository}/push", params={"tag": tag}, headers={"X-Registry-Auth": login})
        answer.raise_for_status()
        return answer.text

    def sandboxes(self) -> list[dict[str, Any]]:
        """Every container that bears Martlet's label, running or not."""
        return self.get("/containers/json", all="true", filters='{"label":["%s"]}' % LABEL)

    def container(self, sandbox_id: str) -> dict[str, Any]:
        """The container of a sandbox, as `docker inspect` shows it."""
        found = self.get("/containers/json", all="true", filters='{"label":["%s=%s"]}' % (LABEL, sandbox_id))
        assert len(found) == 1, f"sandbox {sandbox_id} has {len(found)} containers"
        return self.get(f"/containers/{found[0]['Id']}/json")

    def bridges(self) -> list[str]:
        """Interfaces of all bridge networks of this engine."""
        networks = self.get("/networks", filters='{"driver":["bridge"]}')
        name = "com.docker.network.bridge.name"
        return [each["Options"].get(name) or f"br-{each['Id'][:12]}" for each in networks]

    def has_image(self, name: str) -> bool:
        return self._http.get(f"/images/{name}/json").status_code == 200

    def unnamed_steps(self, mark: str) -> list[str]:
        """What is here under no name and was made by a command with `mark`: steps of builds, and what was forgotten."""
        unnamed = [
            each["Id"] for each in self.get("/images/json", all="true")
            if not [name for name in (each["RepoTags"] or []) + (each["RepoDigests"] or []) if not name.startswith("<none>")]
        ]  # fmt: skip
        # Other tests' images come and go meanwhile.
        histories = {image: self.request("GET", f"/images/{image}/history") for image in unnamed}
        return [image for image, history in histories.items() if mark in history.text]
