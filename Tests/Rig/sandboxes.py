"""Sandboxes of a run: made with its label, removed at its end whatever happened."""

from __future__ import annotations

import asyncio
import inspect
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from daytona import AsyncDaytona, CreateSandboxFromSnapshotParams, Daytona, DaytonaConfig, Sandbox

from Rig.database import Database
from Rig.environment import Environment
from Rig.waiting import eventually

RUN_LABEL = "martlet-test-run"
BUSYBOX = "martlet-test-busybox"
REMOVAL_SECONDS = 120


class Client:
    """One flavour of the SDK behind one way of calling it, so that a test is written once for both."""

    def __init__(self, flavor: str, environment: Environment) -> None:
        self.flavor = flavor
        config = DaytonaConfig(
            api_key=environment.api_key, api_url=environment.api_url, target=environment.target
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        if flavor == "async":
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
            self.sdk: Any = self.wait(self._make_async(config))
        else:
            self.sdk = Daytona(config)

    @staticmethod
    async def _make_async(config: DaytonaConfig) -> AsyncDaytona:
        return AsyncDaytona(config)

    def wait(self, outcome: Any, seconds: float = 300) -> Any:
        """The value itself, or the value of a coroutine, run on the client's own loop."""
        if not inspect.iscoroutine(outcome):  # asyncio.iscoroutine takes generators too
            return outcome
        assert self._loop is not None, "a sync client was given a coroutine"
        return asyncio.run_coroutine_threadsafe(outcome, self._loop).result(seconds)

    def collect(self, stream: Any) -> list[Any]:
        """All values of a stream, sync or async, or of a coroutine that gives one."""
        stream = self.wait(stream)
        if not hasattr(stream, "__aiter__"):
            return list(stream)

        async def drain() -> list[Any]:
            return [each async for each in stream]

        return self.wait(drain())

    def close(self) -> None:
        if self._loop is not None:
            self.wait(self.sdk.close())
            self._loop.call_soon_threadsafe(self._loop.stop)


class Sandboxes:
    """Creates sandboxes for tests through the SDK, and clears them away."""

    def __init__(self, environment: Environment, database: Database, client: Client) -> None:
        self._environment = environment
        self._database = database
        self.client = client
        self.run = secrets.token_hex(4)

    def labels(self, **more: str) -> dict[str, str]:
        return {RUN_LABEL: self.run, **more}

    def create(self, timeout: float = 120, **parameters: Any) -> Sandbox:
        """A sandbox of this run by the sync SDK; `snapshot=BUSYBOX` for the small one."""
        parameters["labels"] = self.labels(**parameters.get("labels", {}))
        return self.client.sdk.create(CreateSandboxFromSnapshotParams(**parameters), timeout=timeout)

    def create_many(self, count: int, at_once: int = 4, **parameters: Any) -> list[Sandbox]:
        with ThreadPoolExecutor(at_once) as workers:
            return list(workers.map(lambda _: self.create(**dict(parameters)), range(count)))

    def alive(self) -> list[str]:
        """Ids of this run's sandboxes that are not gone, the youngest first: forks go before what they were forked from."""
        found = self._database.rows(
            "SELECT id FROM sandbox WHERE labels->>:'label' = :'run' AND destroyed_at IS NULL ORDER BY created_at DESC",
            label=RUN_LABEL, run=self.run,
        )
        return [each["id"] for each in found]

    def remove(self, identifiers: list[str] | None = None) -> None:
        """Deletes them over REST and waits until the rows say that nothing is left."""
        identifiers = self.alive() if identifiers is None else identifiers
        headers = {"Authorization": f"Bearer {self._environment.api_key}"}
        with httpx.Client(base_url=self._environment.api_url, headers=headers, timeout=60) as api:
            for each in identifiers:
                answer = api.delete(f"/sandbox/{each}")
                assert answer.status_code in (200, 404), f"delete of {each}: {answer.status_code} {answer.text}"
        eventually(
            lambda: not (set(identifiers) & set(self.alive())), REMOVAL_SECONDS, "deleted sandboxes to be gone"
        )


def add_snapshot(database: Database, name: str, image: str, disk_gib: int = 1, memory_gib: int = 1) -> None:
    """A general snapshot for tests, as an operator would add it in psql."""
    database.execute(
        """
        INSERT INTO snapshot (general, name, image, cpu, memory_gib, disk_gib)
            VALUES (true, :'name', :'image', 1, :'memory', :'disk')
            ON CONFLICT (name) WHERE general DO UPDATE SET image = excluded.image, memory_gib = excluded.memory_gib,
                disk_gib = excluded.disk_gib;
        """,
        name=name, image=image, disk=disk_gib, memory=memory_gib,
    )
