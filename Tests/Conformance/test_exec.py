"""Running commands: directory, environment, output, exit codes, and the end of whole process groups."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from daytona import (
    DaytonaBadRequestError, DaytonaConnectionTimeoutError, DaytonaProcessExecutionTimeoutError, DaytonaTimeoutError,
)

from Rig import wire
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.processes import MemoryWatch, daemon_of
from Rig.sandboxes import Client
from Rig.stack import Stack
from Rig.waiting import eventually
from Rig.wire import check_error

MEBIBYTE = 2**20


@pytest.fixture
def toolbox(shared: Any, environment: Environment) -> httpx.Client:
    return wire.client(f"{shared.toolbox_proxy_url}/{shared.id}", environment.api_key)


def test_output_and_exit_code(client: Client, box: Any) -> None:
    done = client.wait(box.process.exec("echo out; exit 7"))
    assert (done.exit_code, done.result, done.artifacts.stdout) == (7, "out\n", "out\n")
    assert client.wait(box.process.exec("true")).result == ""
    assert client.wait(box.process.exec("kill -9 $$")).exit_code == 137
    assert client.wait(box.process.exec("no-such-command-at-all")).exit_code == 127


def test_the_two_outputs_keep_their_order(client: Client, box: Any) -> None:
    script = "for n in 1 2 3 4 5; do echo out$n; echo err$n >&2; done"
    assert client.wait(box.process.exec(script)).result.split() == [f"{s}{n}" for n in range(1, 6) for s in ("out", "err")]


def test_working_directory(client: Client, box: Any) -> None:
    assert client.wait(box.process.exec("pwd")).result.strip() == client.wait(box.get_work_dir())
    assert client.wait(box.process.exec("pwd", cwd="/usr/lib")).result == "/usr/lib\n"
    client.wait(box.process.exec("mkdir -p relative"))
    assert client.wait(box.process.exec("pwd", cwd="relative")).result.strip().endswith("/relative")
    wrong = client.wait(box.process.exec("pwd", cwd="/no/such/place"))
    assert wrong.exit_code == -1 and "/no/such/place" in wrong.result


def test_environment(client: Client, box: Any) -> None:
    odd = "a'b\"c $HOME `id` \\ \t é 漢\nsecond line"
    assert client.wait(box.process.exec('printf %s "$ODD"', env={"ODD": odd})).result == odd
    assert client.wait(box.process.exec("env", env={"A": "1", "_b2": "2"})).result.count("\nA=1\n") == 1
    assert client.wait(box.process.exec("echo ${A-unset}")).result == "unset\n", "env is of one command only"
    assert "MARTLET_" not in client.wait(box.process.exec("env; tr '\\0' '\\n' < /proc/self/environ")).result


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", "A B", "A\0B", "é"])
def test_bad_environment_names(client: Client, box: Any, name: str) -> None:
    with pytest.raises(DaytonaBadRequestError):
        client.wait(box.process.exec("true", env={name: "x"}))


def test_bad_requests(client: Client, box: Any, toolbox: httpx.Client) -> None:
    with pytest.raises(DaytonaBadRequestError):
        client.wait(box.process.exec(""))
    for body in (b"", b"{", b"[]", b"null", b'{"command":7}', b'{"command":"true","timeout":-1}', b'{"command":"true","timeout":"x"}'):
        check_error(toolbox.post("/process/execute", content=body, headers={"Content-Type": "application/json"}), 400)


def test_shell_text_of_any_length_and_kind(client: Client, box: Any) -> None:
    long = "x" * 500_000
    assert client.wait(box.process.exec(f"printf %s '{long}' | wc -c")).result.strip() == "500000"
    assert client.wait(box.process.exec("cat <<'END'\n$HOME \"quoted\"\nEND\n")).result == '$HOME "quoted"\n'
    assert client.wait(box.process.exec("# only a comment")).exit_code == 0
    assert client.wait(box.process.exec("read line; echo \"got:$line\"")).result == "got:\n", "stdin is at its end"


def test_bytes_that_are_no_text(client: Client, box: Any) -> None:
    done = client.wait(box.process.exec(r"printf 'a\377\376b\0c\303'"))
    assert done.exit_code == 0
    assert done.result[0] == "a" and "b" in done.result and "c" in done.result


def processes(client: Client, box: Any, mark: str) -> int:
    return int(client.wait(box.process.exec(f"pgrep -fc 'sleep {mark[:-1]}[{mark[-1]}]' || true")).result)


def expiry(client: Client, box: Any, command: str) -> Exception:
    """What is told of a command that may take a second. The SDK itself gives up five seconds later, so a busy machine may need
    another try."""
    for _ in range(5):
        begun = time.monotonic()
        try:
            client.wait(box.process.exec(command, timeout=1))
        except DaytonaProcessExecutionTimeoutError as error:
            assert time.monotonic() - begun > 0.9
            return error
        except DaytonaConnectionTimeoutError:
            continue
        raise AssertionError(f"{command!r} was not ended by its time-out")
    raise AssertionError(f"{command!r} was not answered within six seconds")


@pytest.mark.parametrize(
    "command",
    [
        "sleep {mark}",
        "trap '' TERM INT HUP; sleep {mark}; sleep {mark}",
        "sleep {mark} & sleep {mark} & wait",
        "setsid sleep {mark}",
        "(setsid sh -c 'setsid sleep {mark} & wait' &) ; sleep {mark}",
        "nohup sleep {mark} >/dev/null 2>&1 & disown; sleep {mark}",
    ],
)
def test_a_timeout_ends_everything_that_was_started(client: Client, box: Any, command: str) -> None:
    mark = f"98{abs(hash((client.flavor, command))) % 10**6:06}"
    error = expiry(client, box, command.format(mark=mark))
    assert isinstance(error, DaytonaTimeoutError)
    assert (error.status_code, error.code, error.source) == (
        408, "PROCESS_EXECUTION_TIMEOUT", "DAYTONA_DAEMON",
    )  # fmt: skip
    eventually(lambda: processes(client, box, mark) == 0, 30, f"no process of {command!r} to be left")


def test_a_background_process_without_the_pipes_lives_on(client: Client, box: Any) -> None:
    begun = time.monotonic()
    done = client.wait(box.process.exec("sleep 7654 >/dev/null 2>&1 </dev/null & echo started"))
    assert done.result == "started\n" and time.monotonic() - begun < 20
    assert client.wait(box.process.exec("pkill -f 'sleep 765[4]'; echo $?")).result == "0\n"


def test_a_client_that_leaves_does_not_leave_a_process(client: Client, box: Any, toolbox: httpx.Client) -> None:
    """Whoever hangs up cannot read the result; the group is ended, or ends by its own time-out."""
    with pytest.raises(httpx.ReadTimeout):
        toolbox.post("/process/execute", json={"command": "sleep 4321", "timeout": 5}, timeout=1)
    eventually(lambda: processes(client, box, "4321") == 0, 40, "the abandoned command to end")


@pytest.mark.deadline(120)
def test_fifty_megabytes_of_output(client: Client, box: Any, stack: Stack) -> None:
    pids = {"proxy": stack.pid("proxy"), "runner": stack.pid("runner")}
    with MemoryWatch(pids) as watch:
        done = client.wait(box.process.exec("head -c 50000000 /dev/zero | tr '\\0' 'x'; echo end >&2; exit 3"))
    assert done.exit_code == 3
    assert len(done.result) == 50_000_004 and done.result.endswith("end\n")
    assert done.result.count("x") == 50_000_000
    grown = {name: round(value / MEBIBYTE, 1) for name, value in watch.growth().items()}
    print(f"growth in MiB: {grown}")
    assert max(grown.values()) < 64, grown


@pytest.mark.deadline(90)
def test_endless_output_is_bounded(shared: Any, toolbox: httpx.Client, engine: Engine) -> None:
    """`yes` is cut at a limit and answered as any time-out is; the daemon is small and well afterwards."""
    daemon = daemon_of(engine.container(shared.id)["State"]["Pid"])
    with MemoryWatch({"daemon": daemon}) as watch:
        with toolbox.stream("POST", "/process/execute", json={"command": "yes", "timeout": 3}, timeout=60) as answer:
            size = sum(len(chunk) for chunk in answer.iter_raw())
    assert answer.status_code == 408
    assert size < 600 * MEBIBYTE, f"{size} bytes of an endless output were answered"
    assert watch.growth()["daemon"] < 64 * MEBIBYTE
    assert shared.process.exec("echo alive").result == "alive\n"
    assert daemon_of(engine.container(shared.id)["State"]["Pid"]) == daemon, "the daemon was restarted"


def test_many_at_once(shared: Any) -> None:
    with ThreadPoolExecutor(24) as workers:
        results = list(workers.map(lambda n: shared.process.exec(f"sleep 0.2; echo {n}").result, range(48)))
    assert results == [f"{n}\n" for n in range(48)]
