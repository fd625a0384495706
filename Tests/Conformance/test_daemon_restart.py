"""The daemon of a sandbox is killed: another takes its place, what the old one ran is gone, and callers are told so."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterator

import httpx
import pytest
from daytona import (
    DaytonaBadRequestError,
    DaytonaError,
    DaytonaNotFoundError,
    LspLanguageId,
    SessionExecuteRequest,
)

from Rig import wire
from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.processes import daemon_of, inside
from Rig.sandboxes import BUSYBOX, Client, Sandboxes
from Rig.terminals import create_terminal
from Rig.waiting import eventually
from Rig.wire import check_error

BACK_SECONDS = 45
WORDS = "daemon was restarted"


@pytest.fixture(scope="module")
def fragile(sandboxes: Sandboxes) -> Iterator[Any]:
    """A sandbox of this module's own."""
    made = sandboxes.create(auto_stop_interval=0)
    yield made
    sandboxes.remove([made.id])


@pytest.fixture
def init(fragile: Any, engine: Engine) -> int:
    return int(engine.container(fragile.id)["State"]["Pid"])


@pytest.fixture
def toolbox(fragile: Any, environment: Environment) -> Iterator[httpx.Client]:
    with wire.client(f"{fragile.toolbox_proxy_url}/{fragile.id}", environment.api_key) as made:
        yield made


def names(init: int) -> list[str]:
    return sorted(each.name for each in inside(init))


@pytest.fixture(scope="module")
def at_rest(fragile: Any, engine: Engine) -> list[str]:
    """What runs in it while nobody wants anything."""
    return names(int(engine.container(fragile.id)["State"]["Pid"]))


def kill_and_wait(sandbox: Any, kill: Callable[[], object]) -> None:
    """Kills the daemon, and waits until a command runs."""
    begun = time.monotonic()
    kill()

    def answers() -> bool:
        try:
            return sandbox.process.exec("echo back", timeout=5).result == "back\n"
        except DaytonaError:
            return False

    eventually(answers, BACK_SECONDS, "the sandbox to run commands again", every=0.01)
    print(f"usable again {time.monotonic() - begun:.3f} s after the kill")


def test_sessions_of_the_old_daemon_end_with_words(
    client: Client, fragile: Any, init: int, at_rest: list[str], toolbox: httpx.Client
) -> None:
    box = client.wait(client.sdk.get(fragile.id))
    process, interpreter = box.process, box.code_interpreter
    name = f"old-{uuid.uuid4().hex[:8]}"
    client.wait(process.create_session(name))
    client.wait(process.execute_session_command(name, SessionExecuteRequest(command="setsid sleep 7531 & (setsid sleep 7532 &)")))
    context = client.wait(interpreter.create_context())
    assert client.wait(interpreter.run_code("x = 1; print(x)", context=context)).stdout == "1\n"
    lsp = box.create_lsp_server(LspLanguageId.PYTHON, "project")
    client.wait(process.exec("mkdir -p project; touch project/a.py"))
    client.wait(lsp.start())
    assert toolbox.post("/env", json={"set": {"KEPT": "as it was"}}).status_code == 200
    daemon = daemon_of(init)

    kill_and_wait(fragile, lambda: os.kill(daemon, signal.SIGKILL))

    assert daemon_of(init) != daemon, "another daemon, in the same run of the sandbox"

    def is_as_before() -> bool:
        assert names(init) == at_rest, names(init)
        return True

    eventually(is_as_before, 30, "nothing of the old daemon to run")
    fragile.refresh_data()
    assert fragile.state.value == "started"
    assert client.wait(process.exec("echo $KEPT")).result == "as it was\n"
    assert WORDS in check_error(toolbox.get(f"/process/pty/{name}"), 404)["message"]
    for call in (
        lambda: process.get_session(name),
        lambda: process.execute_session_command(name, SessionExecuteRequest(command="true")),
        lambda: process.delete_session(name),
        lambda: process.kill_pty_session(name),
        lambda: interpreter.run_code("print(x)", context=context),
        lambda: interpreter.delete_context(context),
    ):
        with pytest.raises(DaytonaError, match=WORDS):
            client.wait(call())
    with pytest.raises(DaytonaNotFoundError):
        client.wait(process.get_session(name))
    with pytest.raises(DaytonaError, match="404"):  # of a refused handshake the SDK says no more
        client.wait(process.connect_pty_session(name, *([print] if client.flavor == "async" else [])))
    with pytest.raises(DaytonaBadRequestError, match=WORDS):
        client.wait(lsp.document_symbols("a.py"))
    client.wait(process.create_session(name))
    done = client.wait(process.execute_session_command(name, SessionExecuteRequest(command="echo new")))
    assert done.stdout == "new\n", "the id is free"
    client.wait(process.delete_session(name))


def test_calls_and_sockets_that_were_open_end_soon(sync_client: Client, fragile: Any, init: int) -> None:
    process = fragile.process
    process.create_session("follows")
    request = SessionExecuteRequest(command="while sleep 0.1; do echo tick; done", run_async=True)
    command = process.execute_session_command("follows", request).cmd_id
    ticks: list[str] = []
    terminal = create_terminal(process, f"pty-{uuid.uuid4().hex[:8]}")

    def follow() -> None:
        asyncio.run(process.get_session_command_logs_async("follows", command, ticks.append, lambda _: None))

    def interpret() -> None:
        fragile.code_interpreter.run_code("print('begun')\nimport time\ntime.sleep(600)", on_stdout=lambda _: begun.set())

    begun = threading.Event()
    with ThreadPoolExecutor(4) as workers:
        commanded = workers.submit(process.exec, "sleep 600", timeout=600)
        followed, interpreted = workers.submit(follow), workers.submit(interpret)
        watched = workers.submit(lambda: list(terminal))
        eventually(lambda: ticks and begun.is_set(), 60, "all to be under way")
        eventually(lambda: any(each.name == "sleep" for each in inside(init)), 60, "the command to run")
        kill_and_wait(fragile, lambda: os.kill(daemon_of(init), signal.SIGKILL))
        assert isinstance(commanded.exception(BACK_SECONDS), DaytonaError)
        assert isinstance(interpreted.exception(BACK_SECONDS), DaytonaError)
        # What the SDK makes of a stream that broke is its own business, but it ends.
        followed.exception(BACK_SECONDS)
        watched.exception(BACK_SECONDS)
    assert terminal.exit_code is None


def test_whatever_a_user_does_to_it(sandboxes: Sandboxes, engine: Engine) -> None:
    """Signals to all, to it alone, and to process 1, which hears none of them."""
    made = sandboxes.create(auto_stop_interval=0)
    init = engine.container(made.id)["State"]["Pid"]

    def harm(command: str) -> None:
        try:
            made.process.exec(command, timeout=5)
        except DaytonaError:
            pass

    commands = ["kill -9 -1", "sudo -n kill -9 -1", "pkill -STOP martlet-daemon", "pkill -9 -f martlet"]
    commands += [f"kill -{signal} 1" for signal in ("KILL", "TERM", "INT", "HUP", "QUIT")]
    for command in commands:
        kill_and_wait(made, lambda: harm(command))
        assert engine.container(made.id)["State"]["Pid"] == init, f"the sandbox was ended by {command!r}"
    sandboxes.remove([made.id])


@pytest.fixture(scope="module")
def served(sandboxes: Sandboxes, database: Database, busybox: str) -> Iterator[Any]:
    """A sandbox whose image's own program is a server, and one whose program ends at once."""
    with_entrypoint(database, "martlet-test-server", "echo serving; exec sleep 100000")
    with_entrypoint(database, "martlet-test-job", "echo done; exit 3")
    made = [sandboxes.create(snapshot=name, auto_stop_interval=0) for name in ("martlet-test-server", "martlet-test-job")]
    yield made
    sandboxes.remove([each.id for each in made])
    database.execute("DELETE FROM snapshot WHERE name IN ('martlet-test-server', 'martlet-test-job')")


def with_entrypoint(database: Database, name: str, script: str) -> None:
    database.execute(
        """
        INSERT INTO snapshot (general, name, image, cpu, memory_gib, disk_gib, entrypoint)
            SELECT general, :'name', image, cpu, memory_gib, disk_gib, ARRAY['sh', '-c', :'script'] FROM snapshot WHERE name = :'base'
            ON CONFLICT (name) WHERE general DO UPDATE SET image = excluded.image, entrypoint = excluded.entrypoint;
        """,
        name=name, base=BUSYBOX, script=script,
    )


def test_the_log_of_an_entrypoint_is_followed(client: Client, served: Any) -> None:
    out: list[str] = []
    err: list[str] = []
    job = client.wait(client.sdk.get(served[1].id))
    stream = job.process.get_entrypoint_logs_async(out.append, err.append)
    if client.flavor == "async":
        client.wait(stream)
    else:
        asyncio.run(stream)
    assert ("".join(out), "".join(err)) == ("done\n", "")


def test_the_entrypoint_runs_again_if_it_ran(served: Any, engine: Engine) -> None:
    server, job = served

    def code(box: Any) -> int | None:
        return box.process.get_entrypoint_session().commands[0].exit_code

    eventually(lambda: code(job) == 3, 60, "the job to end")
    eventually(lambda: server.process.get_entrypoint_logs().stdout == "serving\n", 60, "the server to begin")
    for box in served:
        init = engine.container(box.id)["State"]["Pid"]
        kill_and_wait(box, lambda: os.kill(daemon_of(init), signal.SIGKILL))
    eventually(lambda: server.process.get_entrypoint_logs().stdout == "serving\n", 60, "the server to begin again")
    assert "it runs again" in server.process.get_entrypoint_logs().stderr and code(server) is None
    assert code(job) == 3, "what had ended is not run a second time"
    assert "was lost" in job.process.get_entrypoint_logs().stderr and job.process.get_entrypoint_logs().stdout == ""
