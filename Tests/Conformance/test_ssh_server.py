"""The SSH server inside a sandbox: keys let in by the toolbox, and OpenSSH's own client against it.

The client runs in the sandbox too: from outside the way leads through the gateway, which has tests of its own.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from Rig import wire
from Rig.environment import Environment
from Rig.sandboxes import Client
from Rig.ssh import INNER_OPTIONS, inner_key, inner_ssh
from Rig.wire import check_error

PATH = "/ssh/authorized-keys"


@pytest.fixture
def toolbox(shared: Any, environment: Environment) -> httpx.Client:
    return wire.client(f"{shared.toolbox_proxy_url}/{shared.id}", environment.api_key)


@pytest.fixture
def key(client: Client, box: Any) -> str:
    return inner_key(client, box)


def run(client: Client, box: Any, port: int, command: str, options: str = "") -> Any:
    return client.wait(box.process.exec(f"{inner_ssh(port)} {options} me@127.0.0.1 {command}", timeout=60))


def test_a_key_lets_in_until_it_is_revoked(client: Client, box: Any, key: str, toolbox: httpx.Client) -> None:
    status = toolbox.post(PATH, json={"keys": [key], "expiresInSeconds": 600}).json()
    assert key in [each["key"] for each in status["keys"]] and status["hostKey"].startswith("ssh-ed25519 ")
    port = status["port"]
    done = run(client, box, port, "'echo out; pwd; exit 7'")
    assert (done.exit_code, done.result) == (7, f"out\n{client.wait(box.get_work_dir())}\n")
    assert run(client, box, port, "'stty size; tty'", "-tt").exit_code == 0

    assert key not in toolbox.delete(PATH, params={"key": key}).text
    refused = run(client, box, port, "true", "-o BatchMode=yes")
    assert refused.exit_code == 255 and "Permission denied (publickey)" in refused.result


def test_files_and_forwarding(client: Client, box: Any, key: str, toolbox: httpx.Client) -> None:
    port = toolbox.post(PATH, json={"keys": [key]}).json()["port"]
    copy = (
        f"cd /tmp && head -c 20000000 /dev/urandom > big && scp {INNER_OPTIONS} -P {port} big me@127.0.0.1:/tmp/big2 && cmp big big2"
        f" && scp {INNER_OPTIONS} -P {port} me@127.0.0.1:/tmp/big2 big3 && cmp big big3"
    )
    assert client.wait(box.process.exec(copy, timeout=120)).exit_code == 0
    # Ports of its own for each flavour: the first one's client may be there still.
    served, forwarded = (8765, 8766) if client.flavor == "sync" else (8767, 8768)
    # -4: a sandbox has no IPv6, and the client would say so.
    forward = (
        f"python3 -m http.server {served} --bind 127.0.0.1 >/dev/null 2>&1 &"
        f" ssh -4 {INNER_OPTIONS} -p {port} -f -L {forwarded}:localhost:{served} me@127.0.0.1 sleep 60 >/dev/null 2>&1; "
    )
    fetched = client.wait(box.process.exec(forward + f"curl -s --retry 9 --retry-all-errors http://127.0.0.1:{forwarded}/ | head -c 15; kill %1"))
    assert fetched.result.startswith("<!DOCTYPE HTML>"), fetched.result


@pytest.mark.parametrize(
    ("body", "mentions"),
    [
        ({}, "keys"),
        ({"keys": []}, "empty"),
        ({"keys": ["ssh-ed25519 AAAA"]}, "keys.0"),
        ({"keys": ["ssh-dss AAAA"]}, "ssh-ed25519"),
        ({"keys": ["x"], "expiresInSeconds": 0}, "expiresInSeconds"),
    ],
)
def test_what_is_no_key_is_refused(toolbox: httpx.Client, body: dict[str, Any], mentions: str) -> None:
    check_error(toolbox.post(PATH, json=body), 400, mentions)
