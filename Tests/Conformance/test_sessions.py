"""Persistent shells: state, order, input, logs as JSON and as a stream, and the end of everything that was started in them."""

from __future__ import annotations

import asyncio
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterator

import pytest
from daytona import (
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaGoneError,
    DaytonaNotFoundError,
    DaytonaRateLimitError,
    SessionExecuteRequest,
)

from Rig.sandboxes import Client
from Rig.waiting import eventually


class Shell:
    """A session in the flavour of the test."""

    def __init__(self, client: Client, box: Any, name: str | None = None) -> None:
        self.client, self.process = client, box.process
        self.id = name or f"test-{secrets.token_hex(4)}"
        client.wait(self.process.create_session(self.id))

    def run(self, command: str, **flags: Any) -> Any:
        request = SessionExecuteRequest(command=command, **flags)
        return self.client.wait(self.process.execute_session_command(self.id, request))

    def start(self, command: str, **flags: Any) -> str:
        return self.run(command, run_async=True, **flags).cmd_id

    def exit_code(self, command: str) -> int | None:
        return self.client.wait(self.process.get_session_command(self.id, command)).exit_code

    def ended(self, command: str, within: float = 60) -> int:
        eventually(lambda: self.exit_code(command) is not None, within, f"{command} to end")
        code = self.exit_code(command)
        assert code is not None
        return code

    def logs(self, command: str) -> Any:
        return self.client.wait(self.process.get_session_command_logs(self.id, command))

    def send(self, command: str, data: str) -> None:
        self.client.wait(self.process.send_session_command_input(self.id, command, data))

    def follow(self, command: str) -> tuple[str, str]:
        """The whole stream, as the SDK's callbacks get it."""
        out: list[str] = []
        err: list[str] = []
        stream = self.process.get_session_command_logs_async(self.id, command, out.append, err.append)
        if self.client.flavor == "async":
            self.client.wait(stream)
        else:
            asyncio.run(stream)
        return "".join(out), "".join(err)

    def delete(self) -> None:
        self.client.wait(self.process.delete_session(self.id))


@pytest.fixture
def shell(client: Client, box: Any) -> Iterator[Shell]:
    made = Shell(client, box)
    yield made
    try:
        made.delete()
    except DaytonaNotFoundError:
        pass


def test_create_list_get_delete(client: Client, box: Any) -> None:
    shell = Shell(client, box)
    assert client.wait(box.process.get_session(shell.id)).session_id == shell.id
    assert shell.id in [each.session_id for each in client.wait(box.process.list_sessions())]
    with pytest.raises(DaytonaConflictError):
        Shell(client, box, shell.id)
    with pytest.raises(DaytonaBadRequestError):
        Shell(client, box, "entrypoint")
    shell.delete()
    for call in (lambda: box.process.get_session(shell.id), lambda: box.process.delete_session(shell.id)):
        with pytest.raises(DaytonaNotFoundError):
            client.wait(call())
    with pytest.raises(DaytonaNotFoundError):
        shell.run("true")
    assert shell.id not in [each.session_id for each in client.wait(box.process.list_sessions())]


def test_state_stays_from_command_to_command(shell: Shell) -> None:
    assert shell.run("cd /tmp && export A=1; b=2; f() { echo f$1; }").exit_code == 0
    done = shell.run("pwd; echo $A $b; f 3; echo oops >&2; exit_code() { return 7; }; exit_code")
    assert (done.exit_code, done.stdout, done.stderr) == (7, "/tmp\n1 2\nf3\n", "oops\n")
    assert sorted(done.output.split()) == sorted((done.stdout + done.stderr).split())
    assert shell.run("echo $?").stdout == "7\n"
    listed = shell.client.wait(shell.process.get_session(shell.id)).commands
    assert [each.exit_code for each in listed] == [0, 7, 0]


def test_standard_input_is_at_its_end(shell: Shell) -> None:
    assert shell.run("cat; read x || echo end").stdout == "end\n"


def test_text_that_is_no_program_ends_only_its_command(shell: Shell) -> None:
    for text in ("echo 'unterminated", "if true; then (", "fi", "no-such-command-at-all", "return 3"):
        assert shell.run(text).exit_code != 0, text
        assert shell.run("echo after").stdout == "after\n"
    assert shell.run("cat <<'END'\n$HOME \"x\nEND").stdout == '$HOME "x\n'
    assert shell.run(f"printf %s '{'x' * 1_000_000}' | wc -c").stdout.strip() == "1000000"


def test_bad_requests(shell: Shell) -> None:
    for text in ("", "  \n", "a\0b"):
        with pytest.raises(DaytonaBadRequestError):
            shell.run(text)
    with pytest.raises(DaytonaNotFoundError):
        shell.exit_code("no-such-command")


def test_exit_ends_the_session(shell: Shell) -> None:
    assert shell.run("exit 3").exit_code == 3
    with pytest.raises(DaytonaGoneError) as raised:
        shell.run("true")
    assert raised.value.code == "SESSION_ENDED"


def test_commands_run_in_order(shell: Shell) -> None:
    first = shell.start("sleep 3; x=1")
    assert shell.exit_code(first) is None
    assert shell.run("echo $x").stdout == "1\n"
    assert shell.exit_code(first) == 0


def test_input(shell: Shell) -> None:
    command = shell.start("read a; read b; echo got $a $b")
    shell.send(command, "one")
    shell.send(command, "two\n")
    assert shell.ended(command) == 0
    assert shell.logs(command).stdout == "one\ntwo\ngot one two\n"
    quiet = shell.start("read c; echo $c!", suppress_input_echo=True)
    shell.send(quiet, "ssh")
    assert shell.ended(quiet) == 0 and shell.logs(quiet).stdout == "ssh!\n"
    with pytest.raises(DaytonaGoneError) as raised:
        shell.send(command, "late")
    assert raised.value.code == "COMMAND_ALREADY_COMPLETED"
    assert shell.run("exit 0").exit_code == 0
    with pytest.raises(DaytonaGoneError) as raised:
        shell.send(command, "late")
    assert raised.value.code == "SESSION_ENDED"


def test_logs_while_it_runs_and_afterwards(shell: Shell) -> None:
    command = shell.start("echo one; echo two >&2; read x; echo three")
    eventually(lambda: shell.logs(command).stderr == "two\n", 60, "the first output")
    assert shell.logs(command).stdout == "one\n"
    shell.send(command, "")
    shell.ended(command)
    done = shell.logs(command)
    assert done.stdout == "one\n\nthree\n" and done.stderr == "two\n"
    assert "\x01" not in done.output and "\x02" not in done.output


def test_following(shell: Shell) -> None:
    script = "for n in 1 2 3 4 5; do echo out$n; echo err$n >&2; sleep 0.1; done; exit 4"
    command = shell.start(script)
    out, err = shell.follow(command)
    assert out == "".join(f"out{n}\n" for n in range(1, 6))
    assert err == "".join(f"err{n}\n" for n in range(1, 6))
    assert shell.exit_code(command) == 4, "the stream ends after the command"
    assert shell.follow(command) == (out, err), "replay"


def test_following_what_prints_nothing_or_markers(shell: Shell) -> None:
    assert shell.follow(shell.start("sleep 0.3")) == ("", "")
    out, err = shell.follow(shell.start(r"printf 'a\002\002\002b'; sleep 0.2; printf 'c\001\001\001d' >&2"))
    assert (out, err) == ("ab", "cd"), "a program's own marker bytes do not change the stream"


def test_characters_that_are_split(shell: Shell) -> None:
    script = r"printf '\342\202'; sleep 0.2; printf x >&2; sleep 0.2; printf '\254\377'"
    command = shell.start(script)
    assert shell.follow(command) == ("€\ufffd", "x")
    assert shell.logs(command).output == "x€\ufffd"


def test_a_job_in_the_background_holds_nobody(shell: Shell) -> None:
    go = f"/tmp/go-{shell.id}"
    done = shell.run(f"(until [ -e {go} ]; do sleep 0.1; done; echo late) & echo early")
    assert done.stdout == "early\n"
    shell.run(f"touch {go}")
    eventually(lambda: shell.logs(done.cmd_id).stdout == "early\nlate\n", 60, "the job's output")


def test_several_followers_and_one_that_leaves(shell: Shell) -> None:
    command = shell.start("read x; seq 1 20000")
    with ThreadPoolExecutor(4) as workers:
        streams = [workers.submit(shell.follow, command) for _ in range(3)]
        time.sleep(0.3)
        shell.send(command, "")
        results = [stream.result(60)[0] for stream in streams]
    expected = "\n" + "".join(f"{n}\n" for n in range(1, 20001))
    assert results == [expected] * 3


@pytest.mark.deadline(400)
def test_a_hundred_megabytes(shell: Shell) -> None:
    command = shell.start("head -c 100000000 /dev/zero | tr '\\0' x; echo end >&2")
    assert shell.ended(command, 180) == 0
    done = shell.logs(command)
    assert len(done.stdout) == 100_000_000 and done.stderr == "end\n"
    assert len(shell.follow(command)[0]) == 100_000_000


def processes(client: Client, box: Any, mark: str) -> int:
    return int(client.wait(box.process.exec(f"pgrep -fc 'sleep {mark[:-1]}[{mark[-1]}]' || true")).result)


def test_delete_ends_everything(client: Client, box: Any) -> None:
    mark = f"97{secrets.randbelow(10**6):06}"
    shell = Shell(client, box)
    shell.run(f"nohup sleep {mark} >/dev/null 2>&1 & setsid sleep {mark} &")
    shell.run(f"(setsid sh -c 'trap \"\" TERM HUP; sleep {mark}; sleep {mark}' &)")
    shell.start(f"sleep {mark}")
    eventually(lambda: processes(client, box, mark) >= 4, 60, "the processes to run")
    shell.delete()
    assert processes(client, box, mark) == 0
    assert client.wait(box.process.exec("ls -a /tmp/.martlet-logs-* | grep -c '^[0-9]' || true")).result.strip() == "0"


def test_a_queue_has_an_end(client: Client, box: Any) -> None:
    shell = Shell(client, box)
    shell.start("sleep 60")
    with pytest.raises(DaytonaRateLimitError):
        for _ in range(200):
            shell.start("true")
    shell.delete()


@pytest.mark.deadline(400)
def test_two_hundred_sessions(client: Client, box: Any) -> None:
    def use(number: int) -> bool:
        shell = Shell(client, box, f"many-{number}-{client.flavor}")
        shell.run(f"n={number}")
        return shell.run("echo $n").stdout == f"{number}\n"

    with ThreadPoolExecutor(16) as workers:
        assert all(workers.map(use, range(200)))
        listed = [each.session_id for each in client.wait(box.process.list_sessions())]
        assert sum(each.startswith("many-") for each in listed) == 200
        list(workers.map(lambda n: client.wait(box.process.delete_session(f"many-{n}-{client.flavor}")), range(200)))
    assert not any(each.session_id.startswith("many-") for each in client.wait(box.process.list_sessions()))


def test_the_entrypoint(client: Client, box: Any) -> None:
    """Sandboxes of the default snapshot may have one or not; both are answered as the contract says."""
    assert "entrypoint" not in [each.session_id for each in client.wait(box.process.list_sessions())]
    try:
        found = client.wait(box.process.get_entrypoint_session())
    except DaytonaNotFoundError:
        with pytest.raises(DaytonaNotFoundError):
            client.wait(box.process.get_entrypoint_logs())
        return
    assert found.session_id == "entrypoint" and [each.id for each in found.commands] == ["entrypoint_command"]
    logs = client.wait(box.process.get_entrypoint_logs())
    assert isinstance(logs.stdout, str) and isinstance(logs.stderr, str) and isinstance(logs.output, str)
