"""Eight programs that create, use, stop, start and delete sandboxes, and put up with what goes wrong meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import httpx

from Rig.database import Database
from Rig.environment import Environment
from Rig.sandboxes import RUN_LABEL, Sandboxes

# Answers that are honest while a part is away or another order is being carried out.
HONEST = {400, 404, 408, 409, 502, 503, 504}
DELETE_SECONDS = 60


class Workload:
    """`with Workload(…):` works until the block ends; then `check()` says whether anything was dishonest."""

    def __init__(self, environment: Environment, run: str, snapshot: str, seed: int, workers: int = 8) -> None:
        self._environment = environment
        self._labels = {RUN_LABEL: run, "chaos": "yes"}
        self._snapshot = snapshot
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(random.Random(seed + n), n)) for n in range(workers)]
        self.counts: Counter[str] = Counter()
        self.surprises: list[str] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Workload:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        print("workload:", dict(self.counts))
        assert not self.surprises, "\n".join(self.surprises[:20])
        assert self.counts["create 200"] > 0, "control: something was created"

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def _surprise(self, text: str) -> None:
        with self._lock:
            self.surprises.append(text)

    def _call(self, client: httpx.Client, verb: str, method: str, path: str, body: object = None) -> httpx.Response | None:
        """One call; None when no answer came."""
        try:
            answer = client.request(method, path, json=body)
        except httpx.HTTPError as error:
            self._count(f"{verb} {type(error).__name__}")
            return None
        self._count(f"{verb} {answer.status_code}")
        if answer.status_code != 200 and answer.status_code not in HONEST:
            self._surprise(f"{verb}: {answer.status_code} {answer.text[:300]}")
        return answer

    def _work(self, chance: random.Random, number: int) -> None:
        """Lives one after another. Every second worker leaves its newest sandbox alive, so that something must come to rest;
        no more than that, or the runner's capacity would be booked out and waiting rows would be right."""
        headers = {"Authorization": f"Bearer {self._environment.api_key}"}
        survivor, turn = "", 0
        with httpx.Client(base_url=self._environment.api_url, headers=headers, timeout=30) as client:
            while not self._ended.is_set():
                turn += 1
                name = f"chaos-{self._labels[RUN_LABEL]}-{number}-{turn}"
                self._one_life(client, chance, name)
                if number % 2 == 0:
                    name, survivor = survivor, name
                if name:
                    self._delete(client, name)

    def _one_life(self, client: httpx.Client, chance: random.Random, name: str) -> None:
        body = {"snapshot": self._snapshot, "name": name, "labels": self._labels, "autoStopInterval": 0}
        answer = self._call(client, "create", "POST", "/sandbox", body)
        if answer is None or answer.status_code != 200:
            time.sleep(0.2)
        for _ in range(chance.randrange(4)):
            verb = chance.choice(["stop", "stop?force=true", "start", "exec", "resize", "look"])
            if verb == "exec":
                self._exec(client, name)
            elif verb == "look":
                self._call(client, "look", "GET", f"/sandbox/{name}")
            elif verb == "resize":
                self._call(client, verb, "POST", f"/sandbox/{name}/resize", {"cpu": 2})
            else:
                self._call(client, verb.partition("?")[0], "POST", f"/sandbox/{name}/{verb}")
            time.sleep(chance.random() * 0.5)

    def _delete(self, client: httpx.Client, name: str) -> None:
        """Asks until there is an answer; a row that came after all (its create had no answer) goes with the run."""
        end = time.monotonic() + DELETE_SECONDS
        while time.monotonic() < end:
            answer = self._call(client, "delete", "DELETE", f"/sandbox/{name}")
            if answer is not None and answer.status_code in (200, 404):
                return
            time.sleep(0.3)
        self._surprise(f"delete of {name} had no answer for {DELETE_SECONDS} s")

    def _exec(self, client: httpx.Client, name: str) -> None:
        seen = self._call(client, "get", "GET", f"/sandbox/{name}")
        if seen is None or seen.status_code != 200:
            return
        base = f"{seen.json()['toolboxProxyUrl']}/{seen.json()['id']}/process/execute"
        answer = self._call(client, "exec", "POST", base, {"command": "echo alive", "timeout": 20})
        if answer is not None and answer.status_code == 200 and answer.json()["result"] != "alive\n":
            self._surprise(f"exec gave {answer.text[:200]}")


def remove_chaos(sandboxes: Sandboxes, database: Database) -> None:
    """Deletes what the workload left alive on purpose (so that something had to come to rest)."""
    found = database.rows(
        """SELECT id FROM sandbox
           WHERE labels->>'chaos' = 'yes' AND labels->>:'label' = :'run' AND desired_state <> 'destroyed'""",
        label=RUN_LABEL, run=sandboxes.run,
    )  # fmt: skip
    sandboxes.remove([each["id"] for each in found])
