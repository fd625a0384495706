"""What sessions, terminals, commands, SSH and the interpreter leave behind in a sandbox when they end: nothing.

Looked at from outside, through /proc, so that looking runs nothing in the sandbox.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator

import httpx
import pytest
from daytona import DaytonaConnectionTimeoutError, DaytonaProcessExecutionTimeoutError, DaytonaTimeoutError, SessionExecuteRequest

from Rig import wire
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.frames import FrameSocket
from Rig.processes import Inside, daemon_of, descriptors, inside
from Rig.sandboxes import Client, Sandboxes
from Rig.ssh import inner_key, inner_ssh, let_in
from Rig.terminals import create_terminal
from Rig.waiting import eventually

SETTLE_SECONDS = 45
ROUNDS = 6
# Connections that the proxy keeps for the next request, and may or may not have now. So whoever looks for sockets that are
# left makes more of them than these.
POOLED_CONNECTIONS = 4

# Children that leave the session and the group, and a pipe that they hold.
STRAYS = "setsid sleep 7777 & (setsid setsid sleep 7778 &) ; (trap '' TERM HUP INT; sleep 7779; sleep 7779) &"


@dataclass
class Balance:
    """What is there now, as opposed to when it was opened."""

    init: int
    processes: Counter[str] = field(init=False)
    opened: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self.processes, self.opened = self._processes(), self._opened()

    def _processes(self) -> Counter[str]:
        return Counter(f"{each.name}{'(zombie)' if each.state == 'Z' else ''}" for each in inside(self.init))

    def _opened(self) -> Counter[str]:
        return descriptors(daemon_of(self.init))

    def surplus(self) -> dict[str, int]:
        """What there is too much of."""
        opened = self._opened() - self.opened
        if opened["socket"] <= POOLED_CONNECTIONS:
            del opened["socket"]
        return dict((self._processes() - self.processes) + opened)

    def settle(self) -> None:
        def even() -> bool:
            surplus = self.surplus()
            assert not surplus, surplus
            return True

        eventually(even, SETTLE_SECONDS, "nothing to be left")


@pytest.fixture(scope="module")
def tidy(sandboxes: Sandboxes) -> Iterator[Any]:
    made = sandboxes.create(auto_stop_interval=0)
    yield made
    sandboxes.remove([made.id])


@pytest.fixture
def toolbox(tidy: Any, environment: Environment) -> Iterator[httpx.Client]:
    with wire.client(f"{tidy.toolbox_proxy_url}/{tidy.id}", environment.api_key) as made:
        yield made


@pytest.fixture
def init(tidy: Any, engine: Engine) -> int:
    return int(engine.container(tidy.id)["State"]["Pid"])


def sleepers(init: int) -> int:
    return sum(each.name == "sleep" for each in inside(init))


def check(init: int, action: Callable[[], object], rounds: int = ROUNDS) -> None:
    """Does it once, for what is made at the first use and kept, and then again and again."""
    action()
    balance = Balance(init)
    for _ in range(rounds):
        action()
    balance.settle()


def test_a_deleted_session(tidy: Any, init: int) -> None:
    def action() -> None:
        name = secrets.token_hex(4)
        tidy.process.create_session(name)
        tidy.process.execute_session_command(name, SessionExecuteRequest(command=STRAYS))
        tidy.process.execute_session_command(name, SessionExecuteRequest(command="read line; sleep 7777", run_async=True))
        tidy.process.delete_session(name)

    check(init, action, rounds=1)  # what does not hear SIGTERM is waited for


def test_a_killed_terminal(tidy: Any, init: int) -> None:
    def action() -> None:
        before = sleepers(init)
        terminal = create_terminal(tidy.process, secrets.token_hex(4))
        terminal.send_input(f"{STRAYS}\n")
        eventually(lambda: sleepers(init) == before + 3, SETTLE_SECONDS, "the strays to run")
        terminal.kill()
        terminal.disconnect()
        eventually(lambda: sleepers(init) == before, SETTLE_SECONDS, "what it ran to be gone")

    check(init, action)


def test_a_command_that_takes_too_long(tidy: Any, init: int) -> None:
    def action() -> None:
        # The SDK itself gives up five seconds after the time that it asked for; what is left must be the same.
        with pytest.raises((DaytonaProcessExecutionTimeoutError, DaytonaConnectionTimeoutError)):
            tidy.process.exec(f"{STRAYS} wait", timeout=1)

    check(init, action, rounds=2)


def test_an_ssh_client_that_is_gone(tidy: Any, init: int, toolbox: httpx.Client, sync_client: Client) -> None:
    ssh = inner_ssh(let_in(toolbox, inner_key(sync_client, tidy)))

    def action() -> None:
        # The client is killed, and so is its connection: nobody says goodbye.
        before = sleepers(init)
        for options in ("", "-tt"):
            lines = f"{ssh} {options} me@127.0.0.1 {STRAYS!r}' sleep 7777' >/dev/null </dev/null & until [ $(pgrep -c sleep) -ge {before + 4} ]; do :; done; kill -9 $!"
            assert tidy.process.exec(lines, timeout=60).exit_code == 0
            eventually(lambda: sleepers(init) == before, SETTLE_SECONDS, "what the client ran to be gone")

    check(init, action, rounds=3)


def test_an_execution_that_takes_too_long(tidy: Any, init: int) -> None:
    """One that can be interrupted keeps its process, one that cannot loses it; with the context, everything goes."""
    interpreter = tidy.code_interpreter
    strays = f"import subprocess, time, signal\nsubprocess.Popen({STRAYS!r}, shell=True)\n"

    def action() -> None:
        context = interpreter.create_context()
        for code in (
            "time.sleep(600)",
            "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    try: time.sleep(600)\n    except: pass",
        ):
            with pytest.raises(DaytonaTimeoutError):
                interpreter.run_code(strays + code, context=context, timeout=1)
        interpreter.delete_context(context)

    check(init, action, rounds=1)


@pytest.mark.deadline(300)
def test_ten_thousand_forks(tidy: Any, init: int) -> None:
    """Orphans whose parents did not wait, while the program that made them lives on."""
    forks = (
        "import os\n"
        "for n in range(5000):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os.fork()\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "print('forked', flush=True)\n"
        "input()\n"
    )
    tidy.fs.upload_file(forks.encode(), "/tmp/forks.py")
    balance = Balance(init)
    name = secrets.token_hex(4)
    tidy.process.create_session(name)
    request = SessionExecuteRequest(command="python3 /tmp/forks.py", run_async=True)
    command = tidy.process.execute_session_command(name, request).cmd_id
    eventually(
        lambda: tidy.process.get_session_command_logs(name, command).stdout == "forked\n", 200, "ten thousand forks", every=0.5
    )

    def zombies() -> list[Inside]:
        return [each for each in inside(init) if each.state == "Z"]

    eventually(lambda: not zombies(), SETTLE_SECONDS, "no zombie beside the program that made them")
    tidy.process.delete_session(name)
    balance.settle()


@pytest.mark.deadline(400)
def test_a_follower_that_is_gone_and_one_that_reads_slowly(tidy: Any, init: int, toolbox: httpx.Client) -> None:
    """Neither keeps the log from growing, nor a place in the daemon once its connection is gone."""
    name = secrets.token_hex(4)
    tidy.process.create_session(name)
    request = SessionExecuteRequest(command="yes 0123456789abcdef | head -c 50000000; echo; echo end; read line", run_async=True)

    def action() -> None:
        command = tidy.process.execute_session_command(name, request).cmd_id
        url = f"{toolbox.base_url}process/session/{name}/command/{command}/logs?follow=true"
        with contextlib.ExitStack() as stack:
            slow, fast = (stack.enter_context(FrameSocket(url, dict(toolbox.headers), 16384)) for _ in range(2))
            gone = FrameSocket(url, dict(toolbox.headers), 16384)
            gone.next(10)
            gone.close()
            fast.read_until(b"end\n", 120)
            slow.next(10)
            tidy.process.send_session_command_input(name, command, "on")
            # It gets all of it, or is told what it missed: the command went on without it.
            slow.read_until(b"end\n", 120)

    check(init, action, rounds=2)
    tidy.process.delete_session(name)
