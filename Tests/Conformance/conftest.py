"""The official SDK, unmodified, in both flavours, against one sandbox per module."""

from __future__ import annotations

from typing import Any, Iterator

import pytest

from Rig.sandboxes import Client, Sandboxes


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
