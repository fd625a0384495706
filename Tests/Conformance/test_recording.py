"""Recordings of terminals: switched on for a sandbox or by its organization, made by PTYs and SSH, replayed by asciinema."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
import uuid
from pathlib import Path
from typing import Any, Iterator

import httpx
import pytest
from daytona import PtySize

from Rig import wire
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.processes import daemon_of
from Rig.sandboxes import Client, Sandboxes
from Rig.ssh import inner_key, inner_ssh, let_in
from Rig.terminals import WAIT_SECONDS, Terminal
from Rig.waiting import eventually
from Rig.wire import check_error

PATH = "/process/recordings"
END = "recording ended: "


@pytest.fixture(scope="module")
def toolbox(shared: Any, environment: Environment) -> Iterator[httpx.Client]:
    with wire.client(f"{shared.toolbox_proxy_url}/{shared.id}", environment.api_key) as client:
        yield client


def switch(api: httpx.Client, toolbox: httpx.Client, box: Any, on: bool) -> None:
    """Answered once the sandbox has heard of it, or after two seconds, which a busy machine may need."""
    answer = api.post(f"/sandbox/{box.id}/terminal-recording/{str(on).lower()}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["recordTerminals"] is on
    eventually(lambda: toolbox.get(PATH).json()["recordsTerminals"] is on, 60, "the sandbox to have heard of it")


@pytest.fixture
def recorded(api: httpx.Client, toolbox: httpx.Client, shared: Any) -> Iterator[None]:
    switch(api, toolbox, shared, True)
    yield
    switch(api, toolbox, shared, False)


def recordings_of(toolbox: httpx.Client, terminal: str) -> list[dict[str, Any]]:
    return [each for each in toolbox.get(PATH).json()["recordings"] if each["terminal"] == terminal]


def download(toolbox: httpx.Client, identifier: str) -> bytes:
    """Once all of it is on the disk: its last event says how it ended."""
    content = b""

    def is_whole() -> bool:
        nonlocal content
        answer = toolbox.get(f"{PATH}/{identifier}/download")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/x-asciicast"
        content = answer.content
        return json.loads(content.splitlines()[-1])[-1].startswith(END)

    eventually(is_whole, WAIT_SECONDS, "the end of the recording on the disk")
    return content


def asciinema(folder: Path, content: bytes, *command: str) -> bytes:
    """What Debian's asciinema writes to its standard output when it is given a recording, on a terminal of its own."""
    file = folder / "recorded.cast"
    file.write_bytes(content)
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "ASCIINEMA_CONFIG_HOME": str(folder)}
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            ["asciinema", *command, str(file)], env=environment, stdin=slave, capture_output=True, timeout=90,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    finally:
        os.close(slave)
        os.close(master)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_terminal_is_replayed_by_asciinema(
    client: Client, box: Any, toolbox: httpx.Client, recorded: None, tmp_path: Path
) -> None:
    name = f"recorded-{uuid.uuid4().hex[:8]}"
    terminal = Terminal.create(client, box, name, pty_size=PtySize(rows=33, cols=111))
    terminal.type("printf '\\033[31mréd\\033[0m 漢\\342'; sleep 0.1; printf '\\202\\254\\n'; stty size\n")
    terminal.expect("€")
    terminal.expect("33 111\r\n")
    client.wait(terminal.handle.resize(PtySize(rows=40, cols=120)))
    terminal.type("stty size; exit 3\n")
    terminal.expect("40 120\r\n")
    assert terminal.end() == (3, "non-zero exit")

    [made] = recordings_of(toolbox, name)
    content = download(toolbox, made["id"])
    [made] = recordings_of(toolbox, name)
    assert (made["kind"], made["cols"], made["rows"], made["active"]) == ("pty", 111, 33, False)
    assert (made["endReason"], made["sizeBytes"]) == ("exit code 3", len(content))
    head, *events = [json.loads(line) for line in content.splitlines()]
    assert (head["version"], head["width"], head["height"]) == (2, 111, 33)
    assert set(head["env"]) <= {"SHELL", "TERM"} and head["env"]["TERM"] == "xterm-256color"
    assert [data for _, code, data in events if code == "r"] == ["120x40"]
    assert {code for _, code, _ in events} == {"o", "r", "m"}
    assert asciinema(tmp_path, content, "cat") == terminal.output
    assert asciinema(tmp_path, content, "play", "--speed", "1000", "--idle-time-limit", "0.001") == terminal.output


def test_only_terminals_opened_while_it_is_on(client: Client, box: Any, api: httpx.Client, toolbox: httpx.Client) -> None:
    def use(on: bool) -> str:
        switch(api, toolbox, box, on)
        name = f"switched-{uuid.uuid4().hex[:8]}"
        terminal = Terminal.create(client, box, name)
        terminal.type("exit\n")
        assert terminal.end() == (0, None)
        return name

    names = [use(on) for on in (False, True, False)]
    assert [len(recordings_of(toolbox, name)) for name in names] == [0, 1, 0]


def test_an_ssh_shell_is_recorded(
    client: Client, box: Any, toolbox: httpx.Client, recorded: None, tmp_path: Path
) -> None:
    port = let_in(toolbox, inner_key(client, box))
    before = {each["id"] for each in toolbox.get(PATH).json()["recordings"]}
    ssh = inner_ssh(port)
    assert client.wait(box.process.exec(f"{ssh} me@127.0.0.1 'echo without a terminal'")).exit_code == 0
    shell = client.wait(box.process.exec(f"printf 'stty size; tty\\nexit 4\\n' | {ssh} -tt me@127.0.0.1", timeout=60))
    assert shell.exit_code == 4, shell.result
    [made] = [each for each in toolbox.get(PATH).json()["recordings"] if each["id"] not in before]
    assert made["kind"] == "ssh" and f"{made['terminal']}\r\n" in shell.result
    content = download(toolbox, made["id"])
    assert asciinema(tmp_path, content, "cat").decode() == shell.result
    assert json.loads(content.splitlines()[-1])[-1] == f"{END}exit code 4"


@pytest.mark.alone
def test_the_organizations_default(api: httpx.Client, sandboxes: Sandboxes, busybox: str) -> None:
    [organization] = api.get("/organizations").json()
    path = f"/organizations/{organization['id']}/terminal-recording"

    def make(**more: Any) -> bool:
        body = {"snapshot": busybox, "labels": sandboxes.labels(), **more}
        answer = api.post("/sandbox", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["recordTerminals"]

    assert api.post(f"{path}/true").json()["recordTerminals"] is True
    try:
        assert (make(), make(recordTerminals=False)) == (True, False)
    finally:
        assert api.post(f"{path}/false").json()["recordTerminals"] is False
    assert (make(), make(recordTerminals=True)) == (False, True)


def test_recordings_outlive_a_restart(
    sync_client: Client, api: httpx.Client, sandboxes: Sandboxes, busybox: str, environment: Environment, tmp_path: Path
) -> None:
    box = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    with wire.client(f"{box.toolbox_proxy_url}/{box.id}", environment.api_key) as toolbox:
        switch(api, toolbox, box, True)
        terminal = Terminal.create(sync_client, box, "long")
        terminal.type("echo be''fore\n")
        terminal.expect("before\r\n")
        [made] = recordings_of(toolbox, "long")
        assert made["active"]
        box.stop(timeout=120)
        box.start(timeout=120)
        listed = toolbox.get(PATH).json()
        assert listed["recordsTerminals"] is True
        [kept] = listed["recordings"]
        assert kept["id"] == made["id"] and not kept["active"] and kept["endReason"]
        content = toolbox.get(f"{PATH}/{kept['id']}/download").content
        assert b"before\r\n" in asciinema(tmp_path, content, "cat")
        assert toolbox.delete(f"{PATH}/{kept['id']}").status_code == 204
        check_error(toolbox.get(f"{PATH}/{kept['id']}/download"), 404, kept["id"])
        assert toolbox.get(PATH).json()["recordings"] == []
    sandboxes.remove([box.id])


def test_a_killed_daemon_is_followed_by_one_that_records(
    sync_client: Client, shared: Any, toolbox: httpx.Client, recorded: None, engine: Engine, tmp_path: Path
) -> None:
    name = f"killed-{uuid.uuid4().hex[:8]}"
    terminal = Terminal.create(sync_client, shared, name)
    terminal.type("echo be''fore\n")
    terminal.expect("before\r\n")
    [made] = recordings_of(toolbox, name)
    path = f"{PATH}/{made['id']}/download"
    eventually(lambda: b"before" in toolbox.get(path).content, WAIT_SECONDS, "the output on the disk")
    init = int(engine.container(shared.id)["State"]["Pid"])
    daemon = daemon_of(init)
    os.kill(daemon, signal.SIGKILL)

    def is_back() -> bool:
        try:
            return daemon_of(init) != daemon and toolbox.get(PATH).status_code == 200
        except AssertionError:
            return False

    eventually(is_back, WAIT_SECONDS, "another daemon")
    assert toolbox.get(PATH).json()["recordsTerminals"] is True
    [kept] = recordings_of(toolbox, name)
    assert kept["id"] == made["id"] and not kept["active"] and "interrupted" in kept["endReason"]
    assert b"before\r\n" in asciinema(tmp_path, toolbox.get(path).content, "cat")


def test_what_is_no_recording_is_refused(api: httpx.Client, toolbox: httpx.Client, shared: Any) -> None:
    for nothing in ("x", "..%2Fetc", "00000000-0000-4000-8000-00000000000G"):
        for answer in (
            toolbox.get(f"{PATH}/{nothing}"), toolbox.delete(f"{PATH}/{nothing}"), toolbox.get(f"{PATH}/{nothing}/download")
        ):
            check_error(answer, 400, "GET /process/recordings")
    check_error(toolbox.get(f"{PATH}/{uuid.uuid4()}"), 404, "no recording")
    check_error(api.post(f"/sandbox/{shared.id}/terminal-recording/yes"), 400, "isOn")
    check_error(api.post("/sandbox", json={"recordTerminals": "yes"}), 400, "recordTerminals")
