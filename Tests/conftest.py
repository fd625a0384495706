"""What all Python suites share: one running Martlet, clients of it, sandboxes that go away, and deadlines."""

from __future__ import annotations

import os
import subprocess
from typing import Iterator

import httpx
import pytest

from Rig import wire
from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import REPOSITORY, Environment, read_environment
from Rig.network import HostNetwork
from Rig.sandboxes import BUSYBOX, Client, Sandboxes, add_snapshot
from Rig.stack import Stack
from Rig.waiting import deadline

DEFAULT_DEADLINE_SECONDS = 180
FIXTURE_DEADLINE_SECONDS = 300
BUSYBOX_IMAGE = "martlet/busybox:test"


def pytest_configure(config: pytest.Config) -> None:
    if config.option.collectonly or config.option.help:
        return
    try:
        read_environment()
    except LookupError as error:
        raise pytest.UsageError(str(error)) from None
    # The SDK must see what the tests say and nothing else.
    for name in ("DAYTONA_JWT_TOKEN", "DAYTONA_ORGANIZATION_ID", "DAYTONA_SERVER_URL"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who takes `stack` restarts or measures the parts that all tests share."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.alone)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item):
    with deadline(FIXTURE_DEADLINE_SECONDS, f"setting up {item.name}"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    marker = item.get_closest_marker("deadline")
    with deadline(marker.args[0] if marker else DEFAULT_DEADLINE_SECONDS, item.name):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item):
    with deadline(FIXTURE_DEADLINE_SECONDS, f"tearing down {item.name}"):
        return (yield)


@pytest.fixture(scope="session")
def environment() -> Environment:
    return read_environment()


@pytest.fixture(scope="session")
def database(environment: Environment) -> Database:
    return Database(environment.database_url)


@pytest.fixture(scope="session")
def engine(environment: Environment) -> Engine:
    return Engine(environment.docker_host)


@pytest.fixture(scope="session")
def stack(environment: Environment) -> Stack:
    return Stack(environment)


@pytest.fixture(scope="session")
def host(stack: Stack) -> HostNetwork:
    return HostNetwork(stack.pid("runner"))


@pytest.fixture(scope="session")
def api(environment: Environment) -> Iterator[httpx.Client]:
    """The control plane without the SDK."""
    with wire.client(environment.api_url, environment.api_key) as made:
        yield made


@pytest.fixture(scope="session")
def sync_client(environment: Environment) -> Iterator[Client]:
    made = Client("sync", environment)
    yield made
    made.close()


@pytest.fixture(scope="session")
def async_client(environment: Environment) -> Iterator[Client]:
    made = Client("async", environment)
    yield made
    made.close()


@pytest.fixture(scope="session")
def busybox(database: Database, engine: Engine, environment: Environment) -> str:
    """The name of a snapshot of the busybox image: small, quick, root."""
    if not engine.has_image(BUSYBOX_IMAGE):
        ops = REPOSITORY / "ops" / "stack" / "image"
        subprocess.run([ops, "busybox", "--docker-host", environment.docker_host], check=True, timeout=120)
    add_snapshot(database, BUSYBOX, BUSYBOX_IMAGE)
    return BUSYBOX


@pytest.fixture(scope="session")
def sandboxes(environment: Environment, database: Database, sync_client: Client) -> Iterator[Sandboxes]:
    made = Sandboxes(environment, database, sync_client)
    yield made
    made.remove()
