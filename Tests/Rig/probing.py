"""Trying doors from inside a sandbox, each beside one that must open."""

from __future__ import annotations

import json
import shlex
from typing import Any

from Rig.engine import Engine

# Where clouds keep their metadata service. The test's own "internet" answers at these addresses, so that only the
# firewall can be the reason when a sandbox does not get there.
METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16")
PRIVATE = ("10.99.99.99", "172.16.99.99", "192.168.99.99", "100.64.99.99", "198.18.99.99", "192.0.0.9")
# A second public address, outside every allow list of these tests (TEST-NET-2).
ELSEWHERE = "198.51.100.9"

PROBE = r"""
import concurrent.futures, errno, json, socket, sys
def probe(target):
    kind, address, port = target
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        if kind == "tcp":
            peer = socket.socket(family, socket.SOCK_STREAM)
            peer.settimeout(2.5)
            peer.connect((address, port))
            return "reached"
        peer = socket.socket(family, socket.SOCK_DGRAM)
        peer.settimeout(2.5)
        peer.connect((address, port))
        peer.send(b"ping")
        peer.recv(100)
        return "reached"
    except TimeoutError:
        return "silence"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
targets = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(probe, targets))))
"""

# What a dropped or rejected packet looks like. A refusal by the peer itself (ECONNREFUSED, ECONNRESET) means that the
# packet got there, and is as bad as a connection.
STOPPED = {"silence", "ENETUNREACH", "EHOSTUNREACH", "EACCES", "EPERM", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EINVAL"}

Target = tuple[str, str, int]


def probe(box: Any, targets: list[Target]) -> dict[Target, str]:
    """What each connect from inside the sandbox gives."""
    done = box.process.exec(f"python3 -c {shlex.quote(PROBE)} {shlex.quote(json.dumps(targets))}", timeout=60)
    assert done.exit_code == 0, done.result
    return dict(zip(targets, json.loads(done.result)))


def assert_stopped(box: Any, targets: list[Target], control: Target) -> None:
    """None of the targets is reached, while the control is: in the same call, so that it is not the probe that fails."""
    seen = probe(box, [*targets, control])
    assert seen.pop(control) == "reached", f"the control {control} was not reached: {seen}"
    reached = {target: result for target, result in seen.items() if result not in STOPPED}
    assert not reached, f"reached from inside a sandbox: {reached}"


def address_of(engine: Engine, box: Any) -> str:
    """The sandbox's address on the bridge."""
    networks = engine.container(box.id)["NetworkSettings"]["Networks"]
    (only,) = networks.values()
    return str(only["IPAddress"])
