"""The stateful code interpreter: contexts, streams, errors, timeouts, death of the process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterator

import httpx
import httpx_ws
import pytest
from daytona import DaytonaBadRequestError, DaytonaConnectionError, DaytonaNotFoundError, DaytonaTimeoutError

from Rig import wire
from Rig.environment import Environment
from Rig.sandboxes import Client
from Rig.waiting import eventually
from Rig.wire import check_error

MEBIBYTE = 2**20


@pytest.fixture
def toolbox(shared: Any, environment: Environment) -> Iterator[httpx.Client]:
    with wire.client(f"{shared.toolbox_proxy_url}/{shared.id}", environment.api_key) as made:
        yield made


@pytest.fixture
def context(client: Client, box: Any) -> Iterator[Any]:
    """A context of the test's own, so that no other test's state is met."""
    made = client.wait(box.code_interpreter.create_context())
    yield made
    with contextlib.suppress(DaytonaNotFoundError):
        client.wait(box.code_interpreter.delete_context(made))


@pytest.fixture
def run(client: Client, box: Any, context: Any) -> Any:
    return lambda code, **more: client.wait(box.code_interpreter.run_code(code, context=context, **more))


def test_state_is_kept_and_both_outputs_come(run: Any) -> None:
    first = run("import sys, os\nx = 20\nprint('out')\nprint('err', file=sys.stderr)")
    assert (first.stdout, first.stderr, first.error) == ("out\n", "err\n", None)
    second = run("x += 1\nprint(x, __name__)\nos.system('echo sub; echo suberr >&2')\nx")
    assert (second.stdout, second.stderr, second.error) == ("21 __main__\nsub\n", "suberr\n", None)


def test_the_default_context_is_shared(client: Client, box: Any) -> None:
    client.wait(box.code_interpreter.run_code("shared_by_all = 5"))
    assert client.wait(box.code_interpreter.run_code("print(shared_by_all)")).stdout == "5\n"


def test_output_is_streamed(client: Client, box: Any, context: Any, run: Any) -> None:
    """The pieces must come as they are printed: the second is printed only after somebody has seen the first."""
    seen: list[str] = []
    go = f"/tmp/streamed-{context.id}"
    code = f"import os, time\nprint(0)\nfor _ in range(6000):\n    if os.path.exists({go!r}): break\n    time.sleep(0.01)\nprint(1)"
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(run, code, on_stdout=lambda message: seen.append(message.output))
        eventually(lambda: "".join(seen).startswith("0\n"), 40, "the first piece")
        assert "".join(seen) == "0\n"
        client.wait(box.process.exec(f"touch {go}"))
        assert running.result(60).stdout == "".join(seen) == "0\n1\n"


def test_callbacks_get_errors(run: Any) -> None:
    errors: list[Any] = []
    outputs: list[str] = []
    done = run(
        "import sys\nprint('warn', file=sys.stderr)\n{}['k']",
        on_stderr=lambda message: outputs.append(message.output),
        on_error=errors.append,
    )
    assert "".join(outputs) == "warn\n"
    assert [each.name for each in errors] == ["KeyError"] and done.error == errors[0]


def test_tracebacks_show_the_users_lines_only(run: Any) -> None:
    run("def divide(n):\n    return 1 / n")
    error = run("# a comment\ndivide(0)").error
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert error.traceback.startswith("Traceback (most recent call last):\n")
    assert "divide(0)" in error.traceback and "return 1 / n" in error.traceback and "martlet" not in error.traceback
    syntax = run("def broken(:").error
    assert syntax.name == "SyntaxError" and "def broken(:" in syntax.traceback
    assert run("print(divide(1))").stdout == "1.0\n", "an error ends the execution only"


def test_input_and_exit(run: Any) -> None:
    asked = run("input('name? ')")
    assert asked.stdout == "name? " and asked.error.name == "EOFError" and "no standard input" in asked.error.value
    left = run("x = 1\nimport sys\nsys.exit(3)")
    assert (left.error.name, left.error.value) == ("SystemExit", "3")
    assert run("sys.exit()").error is None
    assert run("print(x)").stdout == "1\n"


def test_variables_are_of_one_execution(run: Any) -> None:
    assert run("import os\nprint(os.environ['ODD'])", envs={"ODD": "a b\n$c é"}).stdout == "a b\n$c é\n"
    assert run("print(os.environ.get('ODD'))").stdout == "None\n"


@pytest.mark.parametrize("text", ["grüße 漢字 🙂", "tabs\tand \x1b[1mescapes\x1b[0m", "\\u0041 \"quotes\" 'and' \\ "])
def test_text_is_unharmed(run: Any, text: str) -> None:
    assert run(f"print({text!r}, end='')").stdout == text
    assert run("import os, time\nfor byte in 'é漢🙂'.encode():\n    os.write(1, bytes([byte])); time.sleep(0.02)").stdout == "é漢🙂"


def test_top_level_await(run: Any) -> None:
    assert run("import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return 9\nprint(await f())").stdout == "9\n"


def test_timeout_interrupts_and_keeps_the_state(run: Any) -> None:
    started = time.monotonic()
    with pytest.raises(DaytonaTimeoutError):
        run("x = 7\nimport time\ntime.sleep(600)", timeout=3)
    assert time.monotonic() - started < 40
    after = run("print(x)")
    assert (after.stdout, after.stderr) == ("7\n", "")


def test_timeout_kills_what_ignores_it(client: Client, box: Any, run: Any) -> None:
    code = "import os, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nos.system('setsid sleep 86421 &')\nwhile True: time.sleep(1)"
    with pytest.raises(DaytonaTimeoutError):
        run(code, timeout=1)
    eventually(lambda: client.wait(box.process.exec("pgrep -fc '^sleep 86421' || true")).result.strip() == "0", 40, "the tree's end")
    after = run("print('code' in globals())")
    assert after.stdout == "False\n" and "is lost" in after.stderr
    assert run("print(1)").stderr == ""


@pytest.mark.parametrize(
    ("code", "reason"),
    [("import os\nos._exit(3)", "exit code 3"), ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
     ("import os\nos.kill(os.getpid(), 9)", "SIGKILL")],
)
def test_a_dead_process_is_told_and_replaced(run: Any, code: str, reason: str) -> None:
    died = run("x = 1\nprint('before')\n" + code)
    assert died.stdout == "before\n"
    assert died.error.name == "InterpreterDied" and reason in died.error.value
    after = run("print('x' in globals())")
    assert after.stdout == "False\n" and reason in after.stderr
    assert run("print(1)").stderr == ""


def test_contexts(client: Client, box: Any) -> None:
    interpreter = box.code_interpreter
    first, second = client.wait(interpreter.create_context()), client.wait(interpreter.create_context(cwd="/usr"))
    assert first.language == "python" and first.active and first.id != second.id
    assert first.cwd == client.wait(box.get_work_dir()) and second.cwd == "/usr"
    listed = {each.id for each in client.wait(interpreter.list_contexts())}
    assert {first.id, second.id} <= listed and "default" not in listed
    client.wait(interpreter.run_code("x = 100", context=first))
    assert client.wait(interpreter.run_code("print(x)", context=first)).stdout == "100\n"
    assert client.wait(interpreter.run_code("print(x)", context=second)).error.name == "NameError"
    assert client.wait(interpreter.run_code("import os; print(os.getcwd())", context=second)).stdout == "/usr\n"
    for each in (first, second):
        client.wait(interpreter.delete_context(each))
    assert not {first.id, second.id} & {each.id for each in client.wait(interpreter.list_contexts())}
    with pytest.raises(DaytonaNotFoundError):
        client.wait(interpreter.delete_context(first))
    with pytest.raises(DaytonaConnectionError, match=f"{first.id}.*1008"):
        client.wait(interpreter.run_code("x", context=first))


def test_refused_contexts(client: Client, box: Any, toolbox: httpx.Client) -> None:
    with pytest.raises(DaytonaBadRequestError, match="/no/such/place"):
        client.wait(box.code_interpreter.create_context(cwd="/no/such/place"))
    for body in (b"", b"{", b"[]", b'{"cwd":7}', b'{"language":"cobol"}'):
        check_error(toolbox.post("/process/interpreter/context", content=body), 400)
    check_error(toolbox.delete("/process/interpreter/context/default"), 400, "default")
    check_error(toolbox.delete("/process/interpreter/context/unknown"), 404, "unknown")
    check_error(toolbox.get("/process/interpreter/execute"), 426)


def test_too_many_contexts(client: Client, box: Any) -> None:
    made = []
    try:
        with pytest.raises(Exception) as raised:
            for _ in range(100):
                made.append(client.wait(box.code_interpreter.create_context()))
        assert getattr(raised.value, "status_code", None) == 429 and "limit" in str(raised.value)
    finally:
        for each in made:
            client.wait(box.code_interpreter.delete_context(each))
    assert len(made) >= 10


def test_deleting_a_context_ends_its_execution(sync_client: Client, shared: Any) -> None:
    box = sync_client.sdk.get(shared.id)
    context = box.code_interpreter.create_context()
    running = threading.Event()
    failures: list[Exception] = []

    def execute() -> None:
        try:
            box.code_interpreter.run_code("print('runs')\nimport time\ntime.sleep(600)", context=context, on_stdout=lambda _: running.set())
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    assert running.wait(30)
    box.code_interpreter.delete_context(context)
    thread.join(30)
    assert not thread.is_alive() and isinstance(failures[0], DaytonaConnectionError) and "deleted" in str(failures[0])


def test_executions_of_one_context_are_queued(async_client: Client, shared: Any) -> None:
    async def together() -> list[str]:
        box = await async_client.sdk.get(shared.id)
        context = await box.code_interpreter.create_context()
        await box.code_interpreter.run_code("import time\nrunning = 0", context=context)
        code = "running += 1\nassert running == 1\ntime.sleep(0.05)\nrunning -= 1\nprint({})"
        done = await asyncio.gather(*[box.code_interpreter.run_code(code.format(n), context=context) for n in range(20)])
        await box.code_interpreter.delete_context(context)
        assert [each.error for each in done] == [None] * 20
        return [each.stdout for each in done]

    assert async_client.wait(together()) == [f"{n}\n" for n in range(20)]


def test_a_client_that_goes_away_interrupts(async_client: Client, shared: Any) -> None:
    async def leave() -> tuple[str, str]:
        box = await async_client.sdk.get(shared.id)
        context = await box.code_interpreter.create_context()
        running = asyncio.Event()
        code = "x = 'kept'\nimport time\ntry:\n    print('runs')\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    how = 'interrupted'\n"
        task = asyncio.create_task(box.code_interpreter.run_code(code, context=context, on_stdout=lambda _: running.set()))
        await asyncio.wait_for(running.wait(), 30)
        task.cancel()
        after = await asyncio.wait_for(box.code_interpreter.run_code("print(x, how)", context=context), 30)
        await box.code_interpreter.delete_context(context)
        return after.stdout, after.stderr

    assert async_client.wait(leave()) == ("kept interrupted\n", "")


@pytest.mark.deadline(180)
def test_a_flood_arrives_whole(run: Any) -> None:
    done = run("for n in range(200_000):\n    print(n)")
    assert done.stdout == "".join(f"{n}\n" for n in range(200_000))
    assert len(run("print('x' * (32 << 20))").stdout) == 32 * MEBIBYTE + 1


def test_late_output_begins_the_next_execution(client: Client, box: Any, context: Any, run: Any) -> None:
    go, printed = f"/tmp/go-{context.id}", f"/tmp/printed-{context.id}"
    code = f"""
import os, threading, time
def late():
    while not os.path.exists({go!r}): time.sleep(0.01)
    print('late')
    open({printed!r}, 'w').close()
threading.Thread(target=late).start()
"""
    assert run(code).stdout == ""
    client.wait(box.process.exec(f"touch {go}"))
    eventually(lambda: client.wait(box.process.exec(f"test -e {printed}")).exit_code == 0, 60, "the late output")
    assert run("print('next')").stdout == "late\nnext\n"


@pytest.mark.parametrize(
    ("message", "code", "named"),
    [("{", 1002, "JSON"), ("{}", 1002, "code"), ('{"code":"","timeout":-1}', 1002, "timeout"), ('{"code":"","contextId":"none"}', 1008, "none")],
)
def test_bad_first_messages(shared: Any, environment: Environment, message: str, code: int, named: str) -> None:
    address = f"{shared.toolbox_proxy_url}/{shared.id}/process/interpreter/execute"
    with httpx.Client(headers={"Authorization": f"Bearer {environment.api_key}"}) as http:
        with httpx_ws.connect_ws(address.replace("http", "ws", 1), http) as socket:
            socket.send_text(message)
            with pytest.raises(httpx_ws.WebSocketDisconnect) as closed:
                socket.receive(timeout=60)
    assert closed.value.code == code and named in (closed.value.reason or "")


def test_frames_on_the_wire(shared: Any, environment: Environment) -> None:
    address = f"{shared.toolbox_proxy_url}/{shared.id}/process/interpreter/execute"
    frames = []
    with httpx.Client(headers={"Authorization": f"Bearer {environment.api_key}"}) as http:
        with httpx_ws.connect_ws(address.replace("http", "ws", 1), http) as socket:
            socket.send_text(json.dumps({"code": "print('é')\n1/0"}))
            with pytest.raises(httpx_ws.WebSocketDisconnect) as closed:
                while True:
                    frames.append(json.loads(socket.receive_text(timeout=60)))
    assert closed.value.code == 1000
    assert "".join(each["text"] for each in frames if each["type"] == "stdout") == "é\n"
    assert [each["type"] for each in frames[-2:]] == ["error", "control"] and frames[-1]["text"] == "completed"


def test_an_image_without_python(client: Client, small: Any) -> None:
    box = client.wait(client.sdk.get(small.id))
    with pytest.raises(DaytonaConnectionError, match="python3"):
        client.wait(box.code_interpreter.run_code("print(1)"))
    with pytest.raises(Exception, match="python3"):
        client.wait(box.code_interpreter.create_context())
