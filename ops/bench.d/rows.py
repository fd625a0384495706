"""The measurements: one function per row, each yielding its results."""

from __future__ import annotations

import os
import re
import secrets
import statistics
import subprocess
import time
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Callable, Iterator
from urllib.parse import quote

from parts import RUN, Caller, Database, Engine, Failed, LooseDaemon, Martlet, Nginx

MEBIBYTE = 2**20
BUSYBOX = "martlet/busybox:test"


@dataclass
class Result:
    """One line of the table."""

    row: str
    what: str
    measured: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    target: str = ""
    reached: bool | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.measured / self.peer if self.peer else None


@dataclass
class Options:
    rounds: int
    burst: int
    at_once: int
    seconds: int
    rows_list: int


def at_most(row: str, what: str, measured: float, unit: str, limit: float, note: str = "") -> Result:
    return Result(row, what, measured, unit, target=f"<= {limit:g} {unit}", reached=measured <= limit, note=note)


def against(row: str, what: str, measured: float, unit: str, peer: float, name: str, most: float | None = None,
            least: float | None = None, note: str = "") -> Result:  # fmt: skip
    result = Result(row, what, measured, unit, peer, name, note=note)
    ratio = result.ratio or 0
    if most is not None:
        result.target, result.reached = f"<= {most:g} x", ratio <= most
    if least is not None:
        result.target, result.reached = f">= {least:g} x", ratio >= least
    return result


def milliseconds(action: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) * 1000


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Snapshot:
    """A small snapshot of the bench's own, so that images of any size are measured alike; the default one if it has no busybox."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self.name = f"martlet-bench-{RUN}"
        self._database = database
        has_busybox = any(BUSYBOX in (each["RepoTags"] or []) for each in engine.caller().call("GET", "/images/json"))
        image = BUSYBOX if has_busybox else database.run("SELECT image FROM snapshot WHERE general ORDER BY created_at LIMIT 1")
        database.run(
            "INSERT INTO snapshot (general, name, image, cpu, memory_gib, disk_gib) VALUES (true, :'name', :'image', 1, 1, 1)",
            name=self.name, image=image,
        )

    def remove(self) -> None:
        self._database.run("DELETE FROM snapshot WHERE name = :'name'", name=self.name)


class Bench:
    """What the rows share."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.martlet, self.engine, self.database = Martlet(), Engine(), Database()
        self.api = self.martlet.api()
        self.snapshot = Snapshot(self.engine, self.database)
        self.engine.make_network()

    def close(self) -> None:
        """Removes everything that the bench made, whatever happened before."""
        query = "SELECT id FROM sandbox WHERE labels->>'martlet-bench' = :'run' AND destroyed_at IS NULL"
        for identifier in self.database.run(query, run=RUN).split():
            self.martlet.delete(self.martlet.api(), identifier)
        self.engine.clear()
        self.snapshot.remove()

    # ---- cold create -------------------------------------------------------------------------------------------------

    def cold(self) -> Iterator[Result]:
        """Alternately ours and the engine's, so that both see the same machine."""
        first = self.martlet.create(self.api, snapshot=self.snapshot.name)
        peer = self.engine.peer_of(first["id"])
        self.martlet.delete(self.api, first["id"])
        caller = self.engine.caller()
        ours: list[float] = []
        answers: list[float] = []
        bare: list[float] = []
        used: list[float] = []
        for _ in range(self.options.rounds):
            begun = time.perf_counter()
            made = self.martlet.create(self.api, snapshot=self.snapshot.name)
            answers.append((time.perf_counter() - begun) * 1000)
            done = self.martlet.toolbox(made).call("POST", "/process/execute", {"command": "echo first"})
            ours.append((time.perf_counter() - begun) * 1000)
            if done["result"] != "first\n":
                raise Failed(f"the first command gave {done}")
            self.martlet.delete(self.api, made["id"])
            begun = time.perf_counter()
            container = self.engine.run(caller, peer)
            bare.append((time.perf_counter() - begun) * 1000)
            self.engine.exec_true(caller, container)
            used.append((time.perf_counter() - begun) * 1000)
            self.engine.remove(caller, container)
        p50 = statistics.median
        yield against("cold", "create to first output, p50", p50(ours), "ms", p50(bare), "engine create+start", most=1.2)
        yield against("cold", "create to first output, p50", p50(ours), "ms", p50(used), "engine create+start+exec")
        yield Result("cold", "create to first output, slowest", max(ours), "ms", max(used), "engine create+start+exec")
        yield Result("cold", "POST to answer `started`, p50", p50(answers), "ms")

    # ---- burst -------------------------------------------------------------------------------------------------------

    def burst(self) -> Iterator[Result]:
        count = self.options.burst
        room = int(
            self.database.run(
                """SELECT coalesce(sum(least(s.cpu_capacity - l.cpu, s.memory_capacity_gib - l.memory_gib, s.disk_capacity_gib - l.disk_gib,
                       s.address_slots - l.sandboxes)), 0) FROM runner_status s JOIN runner_load l USING (runner_id)"""
            )
        )
        keep = room >= count
        note = f"{self.options.at_once} at a time, " + ("all kept to the end" if keep else f"room for {room} only: each removed at once")
        first = self.martlet.create(self.api, snapshot=self.snapshot.name)
        peer = self.engine.peer_of(first["id"])
        self.martlet.delete(self.api, first["id"])
        failures: list[str] = []
        ours = self._burst(count, lambda: self._one_of_ours(keep, failures))
        if keep:
            self._clear_ours()
        theirs = self._burst(count, lambda: self._one_of_theirs(peer, keep, failures))
        if keep:
            self._clear_theirs()
        for each in failures[:3]:
            print(f"  {each}")
        succeeded = 100 * (count - len([each for each in failures if each.startswith("martlet")])) / count
        yield Result("burst", f"{count} creates succeed", succeeded, "%", target=">= 100 %", reached=succeeded >= 100, note=note)
        yield against("burst", "creates per second", count / ours, "/s", count / theirs, "engine create+start", least=0.9, note=note)

    def _burst(self, count: int, action: Callable[[], None]) -> float:
        begun = time.perf_counter()
        with ThreadPoolExecutor(self.options.at_once) as workers:
            list(workers.map(lambda _: action(), range(count)))
        return time.perf_counter() - begun

    def _one_of_ours(self, keep: bool, failures: list[str]) -> None:
        api = self.martlet.api()
        try:
            made = self.martlet.create(api, snapshot=self.snapshot.name)
            if not keep:
                self.martlet.delete(api, made["id"])
        except Failed as error:
            failures.append(f"martlet: {error}")
        api.close()

    def _one_of_theirs(self, peer: dict[str, Any], keep: bool, failures: list[str]) -> None:
        caller = self.engine.caller()
        try:
            container = self.engine.run(caller, peer)
            if not keep:
                self.engine.remove(caller, container)
        except Failed as error:
            failures.append(f"engine: {error}")
        caller.close()

    def _clear_ours(self) -> None:
        query = "SELECT id FROM sandbox WHERE labels->>'martlet-bench' = :'run' AND destroyed_at IS NULL"
        with ThreadPoolExecutor(4) as workers:
            list(workers.map(lambda each: self.martlet.delete(self.martlet.api(), each), self.database.run(query, run=RUN).split()))

    def _clear_theirs(self) -> None:
        found = self.engine.caller().call("GET", '/containers/json?all=true&filters={"label":["martlet-bench=%s"]}' % RUN)
        with ThreadPoolExecutor(4) as workers:
            list(workers.map(lambda each: self.engine.remove(self.engine.caller(), each["Id"]), found))

    # ---- exec --------------------------------------------------------------------------------------------------------

    def exec(self) -> Iterator[Result]:
        made = self.martlet.create(self.api, snapshot=self.snapshot.name)
        toolbox, caller, container = self.martlet.toolbox(made), self.engine.caller(), self.engine.container_of(made["id"])["Id"]
        body = {"command": "true"}
        for _ in range(20):
            toolbox.call("POST", "/process/execute", body)
        ours: list[float] = []
        engine: list[float] = []
        command: list[float] = []
        for number in range(60):
            ours += [milliseconds(lambda: toolbox.call("POST", "/process/execute", body)) for _ in range(5)]
            engine.append(milliseconds(lambda: self.engine.exec_true(caller, container)))
            if number % 4 == 0:
                line = ["docker", "--host", self.engine.host, "exec", container, "true"]
                command.append(milliseconds(lambda: subprocess.run(line, check=True)))
        self.martlet.delete(self.api, made["id"])
        p50 = statistics.median
        yield at_most("exec", "exec of true, p50", p50(ours), "ms", 5)
        yield against("exec", "exec of true, p50", p50(ours), "ms", p50(command), "docker exec (CLI)", most=0.15)
        yield against("exec", "exec of true, p50", p50(ours), "ms", p50(engine), "docker exec (Engine API)", most=0.15)
        yield Result("exec", "exec of true, p99", percentile(ours, 0.99), "ms")

    # ---- proxy -------------------------------------------------------------------------------------------------------

    def proxy(self) -> Iterator[Result]:
        made = self.martlet.create(self.api, snapshot=self.snapshot.name)
        url = f"{made['toolboxProxyUrl']}/{made['id']}/version"
        pids = {name: self.martlet.pid(name) for name in ("proxy", "runner")}
        daemon = LooseDaemon(self.martlet)
        daemon.start()
        nginx = None
        try:
            nginx = Nginx(daemon)
            before = {name: anonymous_bytes(pid) for name, pid in pids.items()}
            ours: list[Load] = []
            theirs: list[Load] = []
            for _ in range(3):
                ours.append(self._wrk(url, self.martlet.key))
                theirs.append(self._wrk(f"http://127.0.0.1:{nginx.port}/version", self.martlet.key))
            growth = max(anonymous_bytes(pid) - before[name] for name, pid in pids.items()) / MEBIBYTE
        finally:
            if nginx is not None:
                nginx.stop()
            daemon.stop()
            self.martlet.delete(self.api, made["id"])
        p50 = statistics.median
        failed = sum(each.failed for each in ours)
        yield against(
            "proxy", "requests per second, keep-alive", p50([each.rate for each in ours]), "/s", p50([each.rate for each in theirs]),
            "nginx, same daemon", least=0.8, note="ours goes through proxy, TLS, runner and namespace; nginx by loopback",
        )  # fmt: skip
        yield Result("proxy", "latency p50 under load", p50([each.latency for each in ours]), "ms", p50([each.latency for each in theirs]), "nginx")
        yield Result("proxy", "failed requests", failed, "", target="0", reached=failed == 0)
        yield at_most("proxy", "growth of proxy or runner under load", growth, "MiB", 32)

    def _wrk(self, url: str, key: str) -> Load:
        command = ["wrk", "-t2", "-c32", f"-d{self.options.seconds}s", "--latency", "-H", f"Authorization: Bearer {key}", url]
        return Load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # ---- daemon ------------------------------------------------------------------------------------------------------

    def daemon(self) -> Iterator[Result]:
        made = self.martlet.create(self.api, snapshot=self.snapshot.name)
        init = self.engine.container_of(made["id"])["State"]["Pid"]
        time.sleep(2)
        idle = sum(map(private_dirty_bytes, (init, daemon_of(init)))) / MEBIBYTE
        toolbox = self.martlet.toolbox(made)
        for _ in range(200):
            toolbox.call("POST", "/process/execute", {"command": "echo used"})
        time.sleep(2)
        used = sum(map(private_dirty_bytes, (init, daemon_of(init)))) / MEBIBYTE
        self.martlet.delete(self.api, made["id"])
        loose = LooseDaemon(self.martlet)
        starts = []
        for _ in range(15):
            starts.append(loose.start() * 1000)
            loose.stop()
        yield at_most("daemon", "private dirty memory, idle", idle, "MiB", 4)
        yield Result("daemon", "private dirty memory after 200 commands", used, "MiB")
        yield at_most("daemon", "ready after start, p50", statistics.median(starts), "ms", 30)
        yield Result("daemon", "binary, static", loose.binary.stat().st_size / MEBIBYTE, "MiB")

    # ---- list --------------------------------------------------------------------------------------------------------

    def list(self) -> Iterator[Result]:
        count = self.options.rows_list
        organization = Organization(self.database, count)
        try:
            api = self.martlet.api(organization.key)
            yield from self._measure_lists(api, count)
        finally:
            organization.remove()

    def _measure_lists(self, api: Caller, count: int) -> Iterator[Result]:
        first = api.call("GET", "/sandbox?limit=100")["items"]
        identifiers = [each["id"] for each in first]
        queries = {
            "get by id": lambda n: f"/sandbox/{identifiers[n % len(identifiers)]}",
            "get by name": lambda n: f"/sandbox/bench-{n * 37 % count}",
            "list, first page": lambda n: "/sandbox?limit=50",
            "list by name prefix": lambda n: f"/sandbox?limit=50&sort=name&order=asc&name=bench-{n % 90 + 10}",
            "list by label": lambda n: f"/sandbox?limit=50&labels=%7B%22bucket%22%3A%22{n % 1000}%22%7D",
        }
        for what, path in queries.items():
            times = [milliseconds(lambda: api.call("GET", path(n))) for n in range(250)][50:]
            yield at_most("list", f"{what}, {count} rows, p99", percentile(times, 0.99), "ms", 10, f"p50 {statistics.median(times):.2f} ms")
        yield self._walk(api, count)

    def _walk(self, api: Caller, count: int) -> Result:
        """Every page to the end: the last must cost what the first does."""
        times: list[float] = []
        seen, cursor = 0, ""
        while True:
            begun = time.perf_counter()
            page = api.call("GET", f"/sandbox?limit=100&sort=createdAt&order=desc{cursor}")
            times.append((time.perf_counter() - begun) * 1000)
            seen += len(page["items"])
            if not page.get("nextCursor"):
                break
            cursor = f"&cursor={quote(page['nextCursor'], safe='')}"
        if seen != count:
            raise Failed(f"the pages held {seen} of {count} sandboxes")
        tenth = max(1, len(times) // 10)
        note = f"first tenth p50 {statistics.median(times[:tenth]):.1f} ms, last tenth {statistics.median(times[-tenth:]):.1f} ms"
        return at_most("list", f"pages of 100, all {len(times)}, p99", percentile(times, 0.99), "ms", 10, note)

    # ---- idle --------------------------------------------------------------------------------------------------------

    def idle(self) -> Iterator[Result]:
        seconds = 15
        states = self.database.run("SELECT count(*) FILTER (WHERE state = 'started') || ' running, ' || count(*) FILTER (WHERE state = 'stopped') || ' stopped' FROM sandboxes")
        pids = {name: self.martlet.pid(name) for name in ("runner", "api", "proxy")}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        time.sleep(seconds)
        for name, pid in pids.items():
            share = (cpu_seconds(pid) - before[name]) / seconds * 100
            if name == "runner":
                yield at_most("idle", "CPU of the runner", share, "% of a core", 2, f"{states} sandboxes")
            else:
                yield Result("idle", f"CPU of the {name}", share, "% of a core")


class Load:
    """What wrk reports."""

    def __init__(self, text: str) -> None:
        rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
        half = re.search(r"50%\s+([\d.]+)(us|ms|s)", text)
        if rate is None or half is None:
            raise Failed(f"wrk said: {text[:400]}")
        self.rate = float(rate[1])
        self.latency = float(half[1]) * {"us": 0.001, "ms": 1, "s": 1000}[half[2]]
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        self.failed = int(refused[1] if refused else 0) + sum(map(int, broken.groups() if broken else ()))


class Organization:
    """A tenant with very many sandboxes that are rows only, in a region that no runner serves."""

    def __init__(self, database: Database, count: int) -> None:
        self._database = database
        self.key = "mrt_" + urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        self._name = f"martlet-bench-{RUN}"
        self._id = database.run("SELECT gen_random_uuid()")
        database.run(
            """
            BEGIN;
            INSERT INTO region (id, name) VALUES (:'name', :'name');
            INSERT INTO organization (id, name, default_region_id) VALUES (:'id', :'name', :'name');
            INSERT INTO app_user (id, email) VALUES (:'id', :'name' || '@example.invalid');
            INSERT INTO organization_member (organization_id, user_id, role) VALUES (:'id', :'id', 'owner');
            INSERT INTO api_key (organization_id, user_id, name, hash, prefix, suffix, permissions)
                SELECT :'id', :'id', 'bench', decode(:'hash', 'hex'), left(:'key', 8), right(:'key', 4), permissions
                FROM api_key ORDER BY created_at LIMIT 1;
            SET LOCAL session_replication_role = replica;  -- rows only: no placement, no events, no notifications
            INSERT INTO sandbox (organization_id, name, region_id, snapshot_name, image, labels, cpu, memory_gib, disk_gib, desired_state,
                    created_at)
                SELECT :'id', 'bench-' || n, :'name', 'bench', 'bench', jsonb_build_object('bucket', (n % 1000)::text), 1 + n % 8, 1, 1,
                    'stopped', now() - make_interval(secs => n)
                FROM generate_series(0, :count - 1) AS n;
            INSERT INTO sandbox_activity (sandbox_id, organization_id, last_activity_at)
                SELECT id, organization_id, created_at FROM sandbox WHERE organization_id = :'id';
            COMMIT;
            ANALYZE sandbox; ANALYZE sandbox_activity;
            """,
            id=self._id, name=self._name, key=self.key, hash=sha256(self.key.encode()).hexdigest(), count=count,
        )

    def remove(self) -> None:
        self._database.run(
            """
            BEGIN;
            DELETE FROM api_key WHERE organization_id = :'id';
            SET LOCAL session_replication_role = replica;
            DELETE FROM sandbox_activity WHERE organization_id = :'id';
            DELETE FROM sandbox WHERE organization_id = :'id';
            DELETE FROM organization_member WHERE organization_id = :'id';
            DELETE FROM organization WHERE id = :'id';
            DELETE FROM app_user WHERE id = :'id';
            DELETE FROM region WHERE id = :'name';
            COMMIT;
            ANALYZE sandbox; ANALYZE sandbox_activity;
            """,
            id=self._id, name=self._name,
        )


# ---- /proc ---------------------------------------------------------------------------------------------------------------


def anonymous_bytes(pid: int) -> int:
    return next(int(line.split()[1]) * 1024 for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon:"))


def private_dirty_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty:"))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def daemon_of(init: int) -> int:
    """Host pid of the daemon in the container with that init, which is its supervisor."""
    space = os.readlink(f"/proc/{init}/ns/pid")
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/pid") == space and os.readlink(f"/proc/{entry}/exe").endswith("martlet-daemon"):
                if Path(f"/proc/{entry}/comm").read_text() == "martlet-daemon\n":
                    return int(entry)
        except OSError:
            continue
    raise Failed(f"no daemon runs in the container with init {init}")
