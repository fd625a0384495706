"""OpenSSH's own client: on this machine, as a user runs it, and inside a sandbox, against its own server."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any, Sequence

import httpx

from Rig.sandboxes import Client

COMMAND_SECONDS = 120
INNER_KEY = "/tmp/ssh-key"
INNER_OPTIONS = (
    f"-i {INNER_KEY} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
)


def inner_key(client: Client, box: Any) -> str:
    """Makes a key in a sandbox, for its own client; answers the public half."""
    make = f"rm -f {INNER_KEY}*; ssh-keygen -q -t ed25519 -N '' -C '' -f {INNER_KEY} && cat {INNER_KEY}.pub"
    made = client.wait(box.process.exec(make))
    assert made.exit_code == 0, made.result
    return made.result.strip()


def inner_ssh(port: int) -> str:
    """The client's words up to its options, for a command in the sandbox; `me@127.0.0.1` comes after them."""
    return f"ssh {INNER_OPTIONS} -p {port}"


def let_in(toolbox: httpx.Client, key: str) -> int:
    """Lets a key into the sandbox's server; answers the port of that."""
    answer = toolbox.post("/ssh/authorized-keys", json={"keys": [key]})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["port"])


class SSHUser:
    """Somebody with a token (or none), and a folder for what the client keeps."""

    def __init__(self, command: str, folder: Path) -> None:
        """`command` is what `create_ssh_access` answers: `ssh [-p PORT] USER@HOST`."""
        words = shlex.split(command)
        assert words[0] == "ssh" and len(words) in (2, 4), command
        self.port = int(words[2]) if len(words) == 4 else 22
        self.user, _, self.host = words[-1].partition("@")
        self.folder = folder
        # The host key is kept in one file for all users of a test: were it another the second time, the client would refuse.
        # -4: a sandbox has no IPv6, and the client would complain about forwardings without it.
        self.options = [
            "-F", "none", "-4", "-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={folder}/known_hosts",
            "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityFile=none", "-o", "LogLevel=ERROR",
        ]  # fmt: skip

    @property
    def destination(self) -> str:
        return f"{self.user}@{self.host}"

    def words(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        return ["ssh", *self.options, "-p", str(self.port), *options, self.destination, *command]

    def run(
        self, *command: str, options: Sequence[str] = (), input: bytes = b"", seconds: float = COMMAND_SECONDS, **more: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs a command to its end, whatever comes of it."""
        words = self.words(*command, options=options)
        return subprocess.run(words, input=input, capture_output=True, timeout=seconds, **more)

    def output(self, *command: str, options: Sequence[str] = (), input: bytes = b"", **more: Any) -> bytes:
        """Runs a command that must succeed."""
        done = self.run(*command, options=options, input=input, **more)
        assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr[-500:])
        return done.stdout

    def start(self, *command: str, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Begins a command. Whoever starts it ends it."""
        return subprocess.Popen(
            self.words(*command, options=options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def tool(self, name: str, *arguments: str, input: bytes = b"", seconds: float = COMMAND_SECONDS) -> bytes:
        """`scp` or `sftp` with their port, which must succeed."""
        words = [name, *self.options, "-P", str(self.port), *arguments]
        done = subprocess.run(words, input=input, capture_output=True, timeout=seconds)
        assert done.returncode == 0, (name, done.returncode, done.stdout[-500:], done.stderr[-500:])
        return done.stdout
