"""Exhaustion hurts only the sandbox that does it, and is reported as the reason: rows H1, H2, H4, H5 of ABUSE.md."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from Rig.database import Database
from Rig.engine import Engine
from Rig.processes import daemon_of, in_container
from Rig.sandboxes import Sandboxes, add_snapshot
from Rig.stack import Stack
from Rig.waiting import eventually

# Generous, because this machine may have two cores and other work: the point is that the neighbour goes on.
NEIGHBOUR_SECONDS = 10.0


class Neighbour:
    """Runs small commands in another sandbox all the while, and notes how long each took."""

    def __init__(self, box: Any) -> None:
        self._box = box
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.times: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:  # at least once, however short the bomb was
            begun = time.monotonic()
            try:
                result = self._box.process.exec("echo fine > n && cat n").result
                if result != "fine\n":
                    self.failures.append(result)
            except Exception as error:
                self.failures.append(repr(error))
            self.times.append(time.monotonic() - begun)
            if self._ended.wait(0.1):
                return

    def check(self) -> None:
        times = sorted(self.times)
        assert times and not self.failures, self.failures[:3]
        print(f"neighbour: {len(times)} calls, median {times[len(times) // 2] * 1000:.0f} ms, slowest {times[-1] * 1000:.0f} ms")
        assert times[-1] < NEIGHBOUR_SECONDS


@pytest.fixture
def bomber(sandboxes: Sandboxes) -> Any:
    made = sandboxes.create(auto_stop_interval=0)
    yield made
    sandboxes.remove([made.id])


def reported(box: Any, database: Database, answer: str, *words: str) -> str:
    """Everything the user and the operator can read about it; asserts that a word of the reason is in it."""
    box.refresh_data()
    events = database.rows("SELECT kind, cause, detail FROM event WHERE subject_id = :'id' ORDER BY id", id=box.id)
    text = f"{answer} {box.error_reason} {events}"
    assert any(word in text.lower() for word in words), f"none of {words} is in {text[-1500:]}"
    return text


def in_view(box: Any, database: Database, *words: str) -> None:
    """The operator's view names the limit. Where the engine tells nothing (processes, disk) a survey finds it, within 15 s."""

    def named() -> bool:
        causes = database.rows("SELECT cause FROM reached_limits WHERE id = :'id'", id=box.id)
        return any(all(word in each["cause"] for word in words) for each in causes)

    eventually(named, 90, f"the view reached_limits to say {words}")


def revive(box: Any) -> None:
    """After a bomb the sandbox works again: by itself, or after a stop and a start."""

    def works() -> bool:
        try:
            return box.process.exec("echo alive", timeout=5).result == "alive\n"
        except Exception:
            return False

    end = time.monotonic() + 10
    while time.monotonic() < end:
        if works():
            return
    box.stop(force=True)
    box.start()
    eventually(works, 30, "it to work after stop and start")


@pytest.mark.deadline(300)
def test_fork_bomb(bomber: Any, victim: Any, engine: Engine, database: Database) -> None:
    inspected = engine.container(bomber.id)
    limit, init = inspected["HostConfig"]["PidsLimit"], inspected["State"]["Pid"]
    highest = 0
    with Neighbour(victim) as neighbour:
        answer = ""
        try:
            done = bomber.process.exec("bomb() { bomb | bomb & }; bomb; sleep 4; (true) || echo refused; true", timeout=8)
            answer = done.result
        except Exception as error:
            answer = str(error)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            highest = max(highest, len(in_container(init)))
            time.sleep(0.2)
        second = ""
        try:
            second = bomber.process.exec("for n in 1 2 3; do /bin/true; done; echo done", timeout=5).result
        except Exception as error:
            second = str(error)
    print(f"at most {highest} processes seen, limit {limit}")
    assert highest <= limit + 2
    neighbour.check()
    in_view(bomber, database, "too many processes", f"limit is {limit} ")
    reported(bomber, database, answer + second, "fork", "resource temporarily unavailable", "too many processes")
    revive(bomber)


@pytest.mark.deadline(300)
def test_memory_bomb(bomber: Any, victim: Any, engine: Engine, database: Database) -> None:
    daemon = daemon_of(engine.container(bomber.id)["State"]["Pid"])
    with Neighbour(victim) as neighbour:
        answer = ""
        try:
            done = bomber.process.code_run("data = []\nwhile True: data.append(bytearray(16 << 20))", timeout=60)
            answer = done.result
            assert done.exit_code in (137, 1), done.exit_code
        except Exception as error:
            answer = str(error)
    neighbour.check()
    assert "out of memory" in answer and f"{bomber.memory * 1024} MiB" in answer, answer[-500:]
    in_view(bomber, database, "out of memory", f"{bomber.memory * 1024} MiB")
    revive(bomber)
    if engine.container(bomber.id)["State"]["Pid"]:
        print("the daemon survived:", daemon == daemon_of(engine.container(bomber.id)["State"]["Pid"]))


@pytest.mark.deadline(300)
def test_memory_bomb_in_shared_memory(bomber: Any, victim: Any, database: Database) -> None:
    """tmpfs counts as the sandbox's memory, and /dev/shm is small."""
    with Neighbour(victim) as neighbour:
        try:
            answer = bomber.process.exec("head -c 8G /dev/zero > /dev/shm/fill; echo exit $?", timeout=60).result
        except Exception as error:
            answer = str(error)
    neighbour.check()
    reported(bomber, database, answer, "no space", "memory", "oom", "killed")
    revive(bomber)


@pytest.mark.deadline(300)
def test_disk_filler(sandboxes: Sandboxes, database: Database, victim: Any, engine: Engine) -> None:
    name = "martlet-test-small-disk"
    image = engine.container(victim.id)["Config"]["Image"]
    add_snapshot(database, name, image, disk_gib=1)
    filler = sandboxes.create(snapshot=name, auto_stop_interval=0)
    effective = database.value("SELECT effective FROM sandbox_status WHERE sandbox_id = :'id'", id=filler.id)
    assert effective.get("diskBytes"), f"no disk limit is in force on this machine, though btrfs has quotas: {effective}"
    with Neighbour(victim) as neighbour:
        done = filler.process.exec("head -c 3G /dev/zero > fill; echo exit $?; sync; du -m fill", timeout=120)
        with pytest.raises(Exception) as refused:
            filler.fs.upload_file(b"x" * 50_000_000, "more")
    neighbour.check()
    in_view(filler, database, "disk full", "1024 MiB")
    assert "exit 0" not in done.result
    assert any(word in done.result.lower() for word in ("no space left", "quota exceeded")), done.result
    assert any(word in str(refused.value).lower() for word in ("space", "quota", "disk")), refused.value
    used = int(done.result.split()[-2])
    assert used <= 1100, f"{used} MiB written with a limit of 1 GiB"
    assert filler.process.exec("rm fill; head -c 10M /dev/zero > after; echo $?").result.endswith("0\n"), "it works again"
    metrics = filler.get_metrics_latest()
    assert metrics.disk_total <= 2**30 * 1.1
    sandboxes.remove([filler.id])
    database.execute("DELETE FROM snapshot WHERE name = :'name'", name=name)


@pytest.mark.deadline(300)
def test_a_flood_of_output_stays_out_of_the_hosts_disk(
    sandboxes: Sandboxes, busybox: str, database: Database, victim: Any, engine: Engine
) -> None:
    """An entrypoint that prints without end: the engine's log is bounded."""
    name = "martlet-test-flood"
    add_snapshot(database, name, "martlet/busybox:test")
    database.execute("UPDATE snapshot SET entrypoint = '{yes,flood-flood-flood-flood}' WHERE name = :'name'", name=name)
    flood = sandboxes.create(snapshot=name, auto_stop_interval=0)
    with Neighbour(victim) as neighbour:
        time.sleep(6)
        assert flood.process.exec("echo alive").result == "alive\n"
    neighbour.check()
    configured = engine.container(flood.id)["HostConfig"]["LogConfig"]
    assert configured["Type"] == "none" or "max-size" in configured["Config"], configured
    daemon = daemon_of(engine.container(flood.id)["State"]["Pid"])
    from Rig.processes import anonymous_bytes

    assert anonymous_bytes(daemon) < 64 * 2**20, "the flood is held in the daemon's memory"
    sandboxes.remove([flood.id])
    database.execute("DELETE FROM snapshot WHERE name = :'name'", name=name)


@pytest.mark.deadline(300)
def test_spinning_on_all_cores(bomber: Any, victim: Any) -> None:
    with Neighbour(victim) as neighbour:
        bomber.process.exec("for n in 1 2 3 4 5 6 7 8; do timeout 5 sh -c 'while :; do :; done' & done; wait", timeout=60)
    neighbour.check()


@pytest.mark.deadline(300)
def test_a_daemon_that_is_killed_for_ever(rooted: Any, engine: Engine) -> None:
    """Row H13: root in the sandbox kills our daemon, again and again. The sandbox is his to break, but the state must not lie.

    Its supervisor starts it again, until that is too often; then the sandbox ends, and the runner's rules for crashes hold.
    """
    before = engine.container(rooted.id)["State"]["Pid"]

    def kill() -> bool:
        """Whether that ended the sandbox."""
        try:
            rooted.process.exec("kill -9 $(pidof martlet-daemon)", timeout=5)
        except Exception as error:
            print(type(error).__name__, str(error)[:120])
        return bool(engine.container(rooted.id)["State"]["Pid"] != before)

    def honest() -> bool:
        rooted.refresh_data()
        if rooted.state.value == "error":
            assert rooted.error_reason
            return True
        try:
            return rooted.process.exec("echo back", timeout=5).result == "back\n"
        except Exception:
            return False

    for _ in range(3):
        assert not kill()
        eventually(honest, 60, "the sandbox to work again, or to say why it does not")
    assert engine.container(rooted.id)["State"]["Pid"] == before, "the sandbox itself has lived on"
    eventually(kill, 60, "so many kills to end the sandbox")
    eventually(honest, 60, "the sandbox to work again, or to say why it does not")
