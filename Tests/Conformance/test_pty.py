"""Terminals: input and output, size, environment, several clients, and every way one ends."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from daytona import DaytonaBadRequestError, DaytonaConflictError, DaytonaError, PtySize

from Rig.sandboxes import Client
from Rig.terminals import WAIT_SECONDS, Terminal, create_terminal
from Rig.waiting import eventually


@pytest.fixture
def name() -> str:
    return f"pty-{uuid.uuid4().hex[:8]}"


def ids(client: Client, box: Any) -> list[str]:
    return [each.id for each in client.wait(box.process.list_pty_sessions())]


def test_a_shell_with_its_size_directory_and_variables(client: Client, box: Any, name: str) -> None:
    envs = {"ODD": "a'b\"c $HOME é 漢", "TERM": "vt100"}
    size = PtySize(rows=33, cols=111)
    terminal = Terminal.create(client, box, name, cwd="/usr/lib", envs=envs, pty_size=size)
    terminal.type('stty size; pwd; echo "<$ODD|$TERM>"; case $- in *i*) echo inter"active";; esac\n')
    for text in ("33 111\r\n", "/usr/lib\r\n", f"<{envs['ODD']}|vt100>\r\n", "interactive\r\n"):
        terminal.expect(text)
    seen = client.wait(box.process.get_pty_session_info(name))
    assert (seen.id, seen.cwd, seen.envs, seen.rows, seen.cols) == (name, "/usr/lib", envs, 33, 111)
    assert seen.active and not seen.lazy_start and seen.created_at
    terminal.type("exit\n")
    assert terminal.end() == (0, None)
    eventually(lambda: name not in ids(client, box), WAIT_SECONDS, "the ended terminal to be gone")


def test_defaults(client: Client, box: Any, name: str) -> None:
    terminal = Terminal.create(client, box, name)
    client.wait(terminal.handle.wait_for_connection())
    assert terminal.handle.session_id == name
    terminal.type('stty size; echo "<$TERM>"; pwd\n')
    terminal.expect("24 80\r\n")
    terminal.expect("<xterm-256color>")
    terminal.expect(client.wait(box.get_work_dir()))
    client.wait(terminal.handle.kill())


@pytest.mark.parametrize(
    "command,end",
    [
        ("exit 7", (7, "non-zero exit")), ("exit 130", (130, "Ctrl+C")), ("kill -9 $$", (137, "SIGKILL")),
        ("exec sh -c 'kill -15 $$'", (143, "SIGTERM")), ("exec sh -c 'kill -6 $$'", (134, "signal 6")),
    ],
)
def test_ends(client: Client, box: Any, name: str, command: str, end: tuple[int, str]) -> None:
    terminal = Terminal.create(client, box, name)
    terminal.type(f"{command}\n")
    assert terminal.end() == end


def test_wait_gives_the_result(sync_client: Client, shared: Any, name: str) -> None:
    handle = create_terminal(shared.process, name)
    handle.send_input("echo wai''ted; exit 3\n")
    output = bytearray()
    result = handle.wait(on_data=output.extend, timeout=WAIT_SECONDS)
    assert (result.exit_code, result.error) == (3, "non-zero exit") and b"waited" in output


def test_resize(client: Client, box: Any, name: str) -> None:
    terminal = Terminal.create(client, box, name)
    changed = client.wait(terminal.handle.resize(PtySize(rows=50, cols=160)))
    assert (changed.rows, changed.cols) == (50, 160)
    terminal.type("stty size\n")
    terminal.expect("50 160")
    with pytest.raises(DaytonaError):
        client.wait(terminal.handle.resize(PtySize(rows=0, cols=160)))
    client.wait(terminal.handle.kill())
    with pytest.raises(DaytonaError) as refused:
        client.wait(box.process.resize_pty_session(name, PtySize(rows=50, cols=160)))
    assert refused.value.status_code == 410


def test_kill_ends_the_whole_tree(client: Client, box: Any, name: str) -> None:
    terminal = Terminal.create(client, box, name)
    terminal.type("setsid sleep 43217 & sleep 43218 & echo beg''un; sleep 43219\n")
    terminal.expect("begun")
    client.wait(box.process.kill_pty_session(name))
    assert terminal.end() == (137, "SIGKILL")
    assert name not in ids(client, box)
    left = "grep -lz '^4321' /proc/[0-9]*/cmdline 2>/dev/null | wc -l"
    eventually(lambda: client.wait(box.process.exec(left)).result.strip() == "0", 20, "its processes to be gone")
    with pytest.raises(DaytonaError):
        client.wait(box.process.kill_pty_session(name))
    with pytest.raises(DaytonaError):
        Terminal.connect(client, box, name)


def test_ctrl_c(client: Client, box: Any, name: str) -> None:
    terminal = Terminal.create(client, box, name)
    terminal.type("trap 'echo caug''ht' INT; sleep 43220\n")
    # Its shell has put it in front before it became `sleep`.
    sleeps = "grep -lz '^43220' /proc/[0-9]*/cmdline 2>/dev/null | wc -l"
    eventually(lambda: client.wait(box.process.exec(sleeps)).result.strip() == "1", WAIT_SECONDS, "the sleep to be in front")
    terminal.type(b"\x03")
    terminal.type("echo aft''er\n")
    terminal.expect("after")
    client.wait(terminal.handle.kill())


def test_clients_share_and_leave_it(client: Client, box: Any, name: str) -> None:
    first = Terminal.create(client, box, name)
    first.type("echo o''ne\n")
    first.expect("one\r\n")
    second = Terminal.connect(client, box, name)
    second.expect("one\r\n")  # it is shown what was there before
    second.type("echo t''wo\n")
    first.expect("two\r\n")
    first.leave()
    second.type("echo thr''ee\n")
    second.expect("three\r\n")
    second.leave()
    assert name in ids(client, box)
    third = Terminal.connect(client, box, name)
    third.expect("three\r\n")
    third.type("exit 4\n")
    assert third.end() == (4, "non-zero exit")


def test_much_output(client: Client, box: Any, name: str) -> None:
    terminal = Terminal.create(client, box, name)
    terminal.type("head -c 4000000 /dev/zero | tr '\\0' x; echo; echo e''nd; exit\n")
    assert terminal.end()[0] == 0
    terminal.expect("end\r\n")
    assert terminal.text.count("x") >= 4_000_000


def test_refusals(client: Client, box: Any, name: str) -> None:
    terminal = Terminal.create(client, box, name)
    with pytest.raises(DaytonaConflictError):
        Terminal.create(client, box, name)
    for more in ({"pty_size": PtySize(rows=0, cols=80)}, {"pty_size": PtySize(rows=24, cols=1001)}, {"cwd": "/no/such"}):
        with pytest.raises(DaytonaBadRequestError):
            Terminal.create(client, box, f"{name}-bad", **more)
    with pytest.raises(DaytonaBadRequestError):
        Terminal.create(client, box, f"{name}-bad", envs={"not a name": "x"})
    with pytest.raises(DaytonaError):
        Terminal.connect(client, box, "never-was")
    assert f"{name}-bad" not in ids(client, box)
    client.wait(terminal.handle.kill())
