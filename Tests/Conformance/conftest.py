"""The official SDK, unmodified, in both flavours, against one sandbox per module."""

from __future__ import annotations

from typing import Any, Iterator

import httpx
import pytest

from Rig.database import Database
from Rig.engine import Engine
from Rig.registry import UserRegistry
from Rig.sandboxes import Client, Sandboxes
from Rig.snapshots import Made


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest) -> Client:
    """Each test that takes this runs with `Daytona` and with `AsyncDaytona`."""
    return request.getfixturevalue(f"{request.param}_client")


@pytest.fixture(scope="module")
def shared(sandboxes: Sandboxes) -> Iterator[Any]:
    """One started sandbox of the default snapshot for the module, as the sync SDK gives it."""
    made = sandboxes.create(auto_stop_interval=0)
    yield made
    sandboxes.remove([made.id])


@pytest.fixture
def box(client: Client, shared: Any) -> Any:
    """The module's sandbox, in the flavour of the test."""
    return client.wait(client.sdk.get(shared.id))


@pytest.fixture(scope="module")
def small(sandboxes: Sandboxes, busybox: str) -> Iterator[Any]:
    """One started busybox sandbox for the module."""
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    yield made
    sandboxes.remove([made.id])


@pytest.fixture(scope="module")
def registry(engine: Engine, database: Database, busybox: str) -> Iterator[UserRegistry]:
    """A user's registry, for the module."""
    made = UserRegistry(engine, database)
    yield made
    made.close()


@pytest.fixture(scope="module")
def login(api: httpx.Client, registry: UserRegistry) -> Iterator[str]:
    """The organization's login for that registry; its id."""
    body = {"name": f"test-{registry.host}", "url": registry.host, "username": registry.username, "password": registry.password}
    answer = api.post("/docker-registry", json=body)
    assert answer.status_code == 201, answer.text
    yield answer.json()["id"]
    assert api.delete(f"/docker-registry/{answer.json()['id']}").status_code == 204


@pytest.fixture
def made(api: httpx.Client, sandboxes: Sandboxes) -> Iterator[Made]:
    of_this_test = Made(api, f"martlet-test-{sandboxes.run}")
    yield of_this_test
    for each in of_this_test.ids:
        assert api.delete(f"/snapshots/{each}").status_code in (200, 404)
