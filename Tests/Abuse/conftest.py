"""Hostile sandboxes, hostile clients, and a stretch of internet of our own for the controls that must succeed."""

from __future__ import annotations

from typing import Any, Iterator

import httpx
import pytest

from Rig import wire
from Rig.database import Database
from Rig.environment import Environment
from Rig.network import HostNetwork, Outside
from Rig.probing import ELSEWHERE, METADATA, PRIVATE, Target
from Rig.sandboxes import Sandboxes

@pytest.fixture(scope="session")
def outside(host: HostNetwork) -> Iterator[Outside]:
    with Outside(host, 0, (*METADATA, *PRIVATE, ELSEWHERE)) as made:
        yield made


@pytest.fixture(scope="session")
def control(outside: Outside) -> Target:
    """A connection that every open sandbox must be able to make."""
    return ("tcp", outside.address, 80)


@pytest.fixture(scope="module")
def attacker(sandboxes: Sandboxes) -> Iterator[Any]:
    """A sandbox of the default image, with Python to attack with."""
    made = sandboxes.create(auto_stop_interval=0)
    yield made
    sandboxes.remove([made.id])


@pytest.fixture(scope="module")
def victim(sandboxes: Sandboxes) -> Iterator[Any]:
    """Another sandbox, which must notice nothing."""
    made = sandboxes.create(auto_stop_interval=0)
    yield made
    sandboxes.remove([made.id])


@pytest.fixture(scope="module")
def rooted(sandboxes: Sandboxes, busybox: str) -> Iterator[Any]:
    """A busybox sandbox, whose user is root."""
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    yield made
    sandboxes.remove([made.id])


@pytest.fixture(scope="session")
def stranger(database: Database) -> Iterator[wire.Tenant]:
    """Another organization with a key of its own."""
    with wire.Tenant(database, "martlet-test-stranger") as made:
        yield made


@pytest.fixture
def toolbox(attacker: Any, environment: Environment) -> Iterator[httpx.Client]:
    with wire.client(f"{attacker.toolbox_proxy_url}/{attacker.id}", environment.api_key) as made:
        yield made
