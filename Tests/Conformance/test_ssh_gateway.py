"""SSH into sandboxes through the gateway: the SDK gives the token, OpenSSH's own client does the rest."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import httpx
import pytest
from daytona import DaytonaError

from Rig.database import Database
from Rig.network import free_port
from Rig.processes import MemoryWatch, open_descriptors
from Rig.sandboxes import Client, Sandboxes
from Rig.ssh import SSHUser
from Rig.stack import Stack
from Rig.waiting import eventually
from Rig.wire import check_error

END_SECONDS = 60
# Generous, and yet less than any of the gateway's deadlines that could end the same.
AT_ONCE_SECONDS = 5
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ssh")


@pytest.fixture
def user(shared: Any, folder: Path) -> SSHUser:
    """Somebody with a fresh token for the module's sandbox."""
    return SSHUser(shared.create_ssh_access(expires_in_minutes=30).ssh_command, folder)


@contextmanager
def session(user: SSHUser, *command: str, options: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A session that says `ready` once it runs; ended afterwards."""
    process = user.start(*(command or ("echo ready; cat",)), options=options)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == b"ready\n", (line, process.poll() is not None and process.stderr.read())
        yield process
    finally:
        process.kill()
        process.communicate()


def end_of(process: subprocess.Popen[bytes]) -> str:
    """What a session says when it is ended from outside. Its input stays open, or it would end by itself."""
    process.wait(END_SECONDS)
    assert process.stderr is not None
    errors = process.stderr.read()
    assert process.returncode == 255, (process.returncode, errors)
    return errors.decode()


def connect(port: int) -> socket.socket:
    def attempt() -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            return None

    return eventually(attempt, 60, f"something to listen on {port}")


def echoed(port: int, text: bytes = b"hello\n") -> bytes:
    """What comes back when the text was sent, and its end with it."""
    with connect(port) as peer:
        peer.sendall(text)
        peer.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: peer.recv(65536), b""))


# The SDK's methods


def test_tokens_are_given_checked_and_taken_back(client: Client, box: Any, folder: Path) -> None:
    access = client.wait(box.create_ssh_access(expires_in_minutes=5))
    assert re.fullmatch(r"[A-Za-z0-9]{32}", access.token) and access.sandbox_id == box.id
    assert access.ssh_command.endswith(f" {access.token}@127.0.0.1") and "-p " in access.ssh_command
    assert 280 < (access.expires_at - access.created_at).total_seconds() < 320
    found = client.wait(box.validate_ssh_access(access.token))
    assert found.valid and found.sandbox_id == box.id
    assert SSHUser(access.ssh_command, folder).output("echo in") == b"in\n"

    second = client.wait(box.create_ssh_access())
    assert 3500 < (second.expires_at - second.created_at).total_seconds() < 3700
    assert not client.wait(box.validate_ssh_access(access.token)).valid, "a new one takes its place"
    client.wait(box.revoke_ssh_access(second.token))
    gone = client.wait(box.validate_ssh_access(second.token))
    assert not gone.valid and gone.sandbox_id == ""
    for token in (access.token, second.token):
        refused = SSHUser(access.ssh_command.replace(access.token, token), folder).run("true")
        assert refused.returncode == 255 and b"Permission denied" in refused.stderr
    with pytest.raises(DaytonaError, match="expiresInMinutes"):
        client.wait(box.create_ssh_access(expires_in_minutes=0))


def test_wrong_queries(api: httpx.Client, shared: Any) -> None:
    path = f"/sandbox/{shared.id}/ssh-access"
    for minutes in ("0", "x", "1.5", "999999"):
        check_error(api.post(path, params={"expiresInMinutes": minutes}), 400, "expiresInMinutes")
    check_error(api.get("/sandbox/ssh-access/validate"), 400, "token")
    assert api.delete(path, params={"token": "nonsense"}).json()["id"] == shared.id


# What a session can do


def test_commands(user: SSHUser, shared: Any) -> None:
    done = user.run("echo out; echo err >&2; cat; exit 7", input=b"given\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\ngiven\n", b"err\n")
    assert user.output("pwd").decode().strip() == shared.get_work_dir()
    assert user.output("echo $COLOUR", options=("-o", "SetEnv=COLOUR=red")) == b"red\n"
    assert user.run("kill -TERM $$").returncode == 255, "ended by a signal, as OpenSSH tells it"
    assert user.output("head -c 3; cat >/dev/null", input=b"abcdef") == b"abc"
    assert user.output("cat", input=b"x" * MEGABYTE) == b"x" * MEGABYTE


def test_terminals(user: SSHUser) -> None:
    """A terminal of its own size, which follows the client's."""
    command = "tty; stty size; trap : WINCH; until stty size | grep -q '^44 '; do sleep 0.1; done; echo grown"
    master, slave = os.openpty()
    try:
        def resize(rows: int) -> None:
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 99, 0, 0))

        resize(33)
        process = subprocess.Popen(
            user.words(command, options=("-tt",)), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        slave = -1
        text = read_until(master, b"33 99")
        assert b"/dev/pts/" in text
        resize(44)
        read_until(master, b"grown")
        assert process.wait(END_SECONDS) == 0
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)


def read_until(descriptor: int, mark: bytes) -> bytes:
    """Reads a terminal until the mark has come; the test's own deadline ends the wait."""
    text = b""
    while mark not in text:
        text += os.read(descriptor, 65536)
    return text


@pytest.mark.deadline(400)
def test_files_arrive_as_they_were(user: SSHUser, folder: Path) -> None:
    """50 MB in each direction, and less by each tool."""
    big = os.urandom(MEGABYTE) * 50
    assert hashlib.sha256(user.output("tee /tmp/big", input=big)).digest() == hashlib.sha256(big).digest()
    assert user.output("sha256sum /tmp/big; rm /tmp/big").split()[0].decode() == hashlib.sha256(big).hexdigest()
    source = folder / "big"
    source.write_bytes(big[: 5 * MEGABYTE])
    expected = hashlib.sha256(source.read_bytes()).hexdigest()

    def check(path: str, back: Callable[[Path], object]) -> None:
        assert user.output(f"sha256sum {path}").split()[0].decode() == expected, path
        copy = folder / "back"
        back(copy)
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == expected, path
        copy.unlink()

    user.tool("scp", str(source), f"{user.destination}:/tmp/by-scp")
    check("/tmp/by-scp", lambda copy: user.tool("scp", f"{user.destination}:/tmp/by-scp", str(copy)))
    user.tool("scp", "-O", str(source), f"{user.destination}:/tmp/by-old-scp")
    check("/tmp/by-old-scp", lambda copy: user.tool("scp", "-O", f"{user.destination}:/tmp/by-old-scp", str(copy)))
    batch = f"put {source} /tmp/by-sftp\nrename /tmp/by-sftp /tmp/by-sftp-2\nchmod 600 /tmp/by-sftp-2\nls -l /tmp\n"
    assert b"by-sftp-2" in user.tool("sftp", "-b", "-", user.destination, input=batch.encode())
    get = lambda copy: user.tool("sftp", "-b", "-", user.destination, input=f"get /tmp/by-sftp-2 {copy}\n".encode())
    check("/tmp/by-sftp-2", get)
    user.output("rm /tmp/by-*")
    source.unlink()


def test_keys_are_renewed_in_the_middle(user: SSHUser) -> None:
    """On both sides, in both directions at once, and again and again."""
    data = os.urandom(20 * MEGABYTE)
    assert user.output("cat", input=data, options=("-o", "RekeyLimit=1M")) == data


def test_rsync(user: SSHUser, folder: Path) -> None:
    assert user.run("command -v rsync").returncode == 0, "it needs one at both ends"
    (folder / "tree").mkdir()
    for number in range(20):
        (folder / "tree" / f"{number}").write_text(f"{number}\n" * 1000)
    shell = " ".join(["ssh", *user.options, "-p", str(user.port)])
    subprocess.run(
        ["rsync", "-a", "-e", shell, f"{folder}/tree/", f"{user.destination}:/tmp/tree/"], check=True, timeout=60
    )
    assert user.output("cat /tmp/tree/*") == b"".join(p.read_bytes() for p in sorted((folder / "tree").iterdir()))


# Forwardings

ECHO = """python3 -c '
import socket, sys, os
kind = socket.AF_UNIX if sys.argv[1].startswith("/") else socket.AF_INET
server = socket.socket(kind)
server.bind(sys.argv[1] if kind == socket.AF_UNIX else ("127.0.0.1", int(sys.argv[1])))
server.listen()
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    while piece := peer.recv(65536): peer.sendall(b"inside: " + piece)
    peer.close()
' """


def test_connections_into_the_sandbox(user: SSHUser) -> None:
    """-L to a port and to a Unix socket, and -D."""
    to_port, to_socket, dynamic = free_port(), free_port(), free_port()
    forwards = (
        "-L", f"{to_port}:localhost:7123", "-L", f"{to_socket}:/tmp/echo.sock", "-D", f"{dynamic}", "-o",
        "ExitOnForwardFailure=yes",
    )  # fmt: skip
    with session(user, ECHO + "7123"), session(user, "rm -f /tmp/echo.sock; " + ECHO + "/tmp/echo.sock"):
        with session(user, options=forwards):
            assert echoed(to_port) == b"inside: hello\n"
            assert echoed(to_socket) == b"inside: hello\n"
            with connect(dynamic) as peer:
                peer.sendall(b"\x05\x01\x00")
                assert peer.recv(2) == b"\x05\x00"
                peer.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + (7123).to_bytes(2, "big"))
                assert peer.recv(10)[:2] == b"\x05\x00"
                peer.sendall(b"hi\n")
                assert peer.recv(100) == b"inside: hi\n"
            with connect(to_port) as silent:
                silent.shutdown(socket.SHUT_WR)
                assert silent.recv(100) == b"", "an end without a word is passed on too"


def test_connections_out_of_the_sandbox(user: SSHUser) -> None:
    """-R, to a server of this machine; it listens inside the sandbox and nowhere else."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=answer_once, args=(server,), daemon=True).start()
        with session(user, options=("-R", f"7124:127.0.0.1:{server.getsockname()[1]}", "-o", "ExitOnForwardFailure=yes")):
            ask = "python3 -c 'import socket; s = socket.create_connection((\"127.0.0.1\", 7124)); s.sendall(b\"ask\"); print(s.recv(99).decode())'"
            assert user.output(ask) == b"outside: ask\n"
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.1", 7124), timeout=2)


def answer_once(server: socket.socket) -> None:
    peer, _ = server.accept()
    with peer:
        peer.sendall(b"outside: " + peer.recv(100))


def test_agents_are_lent(user: SSHUser, folder: Path) -> None:
    key, place = folder / "lent", folder / "agent.sock"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", place], stdout=subprocess.DEVNULL)
    try:
        eventually(place.exists, 60, "the agent's socket")
        environment = {**os.environ, "SSH_AUTH_SOCK": str(place)}
        subprocess.run(["ssh-add", "-q", key], check=True, env=environment, timeout=30)
        lent = user.output("ssh-add -L", options=("-A",), env=environment)
        assert lent.split()[1] == (folder / "lent.pub").read_bytes().split()[1]
        assert user.run("ssh-add -L", env=environment).returncode != 0, "only when asked for"
    finally:
        agent.terminate()
        agent.wait(10)


def test_one_connection_for_many_sessions(user: SSHUser, folder: Path) -> None:
    control = ("-o", f"ControlPath={folder}/control")
    with session(user, options=(*control, "-o", "ControlMaster=yes")):
        assert user.run(options=(*control, "-O", "check")).returncode == 0
        many = [user.start(f"cat; exit {number}", options=control) for number in range(8)]
        for number, process in enumerate(many):
            output, errors = process.communicate(b"shared\n", timeout=END_SECONDS)
            assert (process.returncode, output) == (number, b"shared\n"), errors


# Ends


def test_revoking_ends_sessions_at_once(user: SSHUser, shared: Any) -> None:
    with session(user) as open_session:
        begun = time.monotonic()
        shared.revoke_ssh_access(user.user)
        assert "was revoked" in end_of(open_session)
        assert time.monotonic() - begun < AT_ONCE_SECONDS


def test_another_token_ends_the_first_ones_sessions(user: SSHUser, shared: Any, folder: Path) -> None:
    with session(user) as first:
        second = SSHUser(shared.create_ssh_access().ssh_command, folder)
        assert "was revoked" in end_of(first)
        assert second.output("echo in") == b"in\n"


def test_expiry_ends_sessions(user: SSHUser, shared: Any, database: Database) -> None:
    with session(user) as open_session:
        expire = "UPDATE ssh_access SET expires_at = now() + interval '5 seconds' WHERE sandbox_id = :'id'"
        database.execute(expire, id=shared.id)
        assert open_session.poll() is None
        assert "this access has expired;" in end_of(open_session)
    refused = user.run("true")
    assert refused.returncode == 255 and b"Permission denied" in refused.stderr


def test_what_stops_with_its_sandbox(sandboxes: Sandboxes, busybox: str, folder: Path) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    user = SSHUser(made.create_ssh_access().ssh_command, folder)
    with session(user) as open_session:
        made.stop()
        assert re.search(f"sandbox {made.id} is stop", end_of(open_session))
    refused = user.run("true")
    assert refused.returncode == 255 and f"sandbox {made.id} is stopped; start it".encode() in refused.stderr
    made.start()
    assert user.output("echo again") == b"again\n", "the same token, and the same host key for the client"
    with session(user) as open_session:
        sandboxes.remove([made.id])
        assert "was deleted" in end_of(open_session)
    assert user.run("true").returncode == 255


def test_whoever_has_no_token_learns_nothing(user: SSHUser, folder: Path, database: Database, shared: Any) -> None:
    """Unknown, expired, malformed: one answer, and never before its time."""
    database.execute("UPDATE ssh_access SET expires_at = now() WHERE sandbox_id = :'id'", id=shared.id)
    said = set()
    for name in (user.user, "A" * 32, "root", "a-b_c"):
        stranger = SSHUser(f"ssh -p {user.port} {name}@{user.host}", folder)
        begun = time.monotonic()
        done = stranger.run("true")
        assert done.returncode == 255 and time.monotonic() - begun >= 0.5
        said.add(done.stderr.replace(name.encode(), b"NAME"))
    assert said == {b"NAME@127.0.0.1: Permission denied (publickey).\r\n"}


# What a session survives


@pytest.mark.deadline(240)
def test_sessions_outlive_the_api_and_postgres(user: SSHUser, shared: Any, stack: Stack) -> None:
    with session(user) as open_session:
        assert open_session.stdin and open_session.stdout
        for part in ("api", "postgres"):
            stack.restart(part)
            open_session.stdin.write(f"after {part}\n".encode())
            open_session.stdin.flush()
            assert open_session.stdout.readline() == f"after {part}\n".encode()
        stack.wait_until_ready()
        # Messages were lost meanwhile; from now on they are heard again.
        eventually(lambda: user.run("true").returncode == 0, 30, "new sessions")
        shared.revoke_ssh_access(user.user)
        assert "was revoked" in end_of(open_session)


def test_a_restart_says_goodbye(user: SSHUser, stack: Stack) -> None:
    with session(user) as open_session:
        stack.restart("ssh-gateway")
        assert "shutting down" in end_of(open_session)
    assert user.output("echo back") == b"back\n", "with the host key that it had"


def test_whoever_reads_slowly_holds_nothing_up(user: SSHUser, stack: Stack) -> None:
    """A flood to a client that stands still: memory does not grow, and others are served."""
    gateway = stack.pid("ssh-gateway")
    with session(user, "echo ready; head -c 300000000 /dev/zero") as slow:
        slow.send_signal(signal.SIGSTOP)
        with MemoryWatch({"gateway": gateway}) as watch:
            for _ in range(10):
                assert user.output("cat", input=b"x" * MEGABYTE) == b"x" * MEGABYTE
        slow.send_signal(signal.SIGCONT)
        growth = watch.growth()["gateway"]
        assert growth < 24 * MEGABYTE, f"grew by {growth >> 20} MiB"


def threads_of_connections(gateway: int) -> int:
    count = 0
    for each in os.listdir(f"/proc/{gateway}/task"):
        try:
            count += Path(f"/proc/{gateway}/task/{each}/comm").read_text() == "martlet-ssh-one\n"
        except OSError:
            continue  # it ended meanwhile
    return count


def bytes_not_taken(port: int) -> int:
    """What the kernel holds of those who listen there, for clients that do not read: at its end, and at theirs, which may have
    room for all that SSH's own window lets through."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    end = f":{port:04X}"
    sent = sum(int(row[4].split(":")[0], 16) for row in rows if row[1].endswith(end))
    return sent + sum(int(row[4].split(":")[1], 16) for row in rows if row[2].endswith(end))


def test_whoever_dies_while_much_is_sent_is_gone_at_once(user: SSHUser, stack: Stack) -> None:
    gateway = stack.pid("ssh-gateway")
    eventually(lambda: not threads_of_connections(gateway), END_SECONDS, "threads of earlier connections to go")
    with session(user, "echo ready; cat /dev/zero") as process:
        process.send_signal(signal.SIGSTOP)
        seen = [0]

        def is_full() -> bool:
            seen.append(bytes_not_taken(user.port))
            return seen[-1] == seen[-2] > 0

        eventually(is_full, END_SECONDS, "the way to the client to be full", every=0.3)
        process.kill()
        eventually(lambda: not threads_of_connections(gateway), AT_ONCE_SECONDS, "the thread of the connection to go")


def test_nothing_is_left_behind(user: SSHUser, stack: Stack) -> None:
    gateway = stack.pid("ssh-gateway")
    user.output("true")
    before = eventually(lambda: open_descriptors(gateway), 10, "descriptors")
    for number in range(20):
        process = user.start("cat")
        if number % 2:
            process.kill()
        process.communicate(timeout=END_SECONDS)
    eventually(lambda: not threads_of_connections(gateway), END_SECONDS, "threads of ended connections to go")
    eventually(lambda: open_descriptors(gateway) <= before + 2, END_SECONDS, "descriptors of ended connections to go")
