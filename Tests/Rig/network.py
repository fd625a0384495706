"""The network as the runner sees it, and a stretch of "internet" that tests make for themselves.

Everything happens in the network namespace of the runner (usually the machine's own). The far side is a namespace of
our own behind a veth pair with four addresses of TEST-NET-3 (203.0.113.0/30; machines may use others); nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import threading
from typing import IO, NamedTuple

COMMAND_SECONDS = 30
# Below what the kernel gives to whoever connects, and below what `ops/` gives to the parts of a Martlet.
FREE_PORTS = range(11000, 20000)
FREE_PORT_TRIES = 200


def free_port() -> int:
    """A port of the loopback that somebody may listen on a moment later: no connection is given it meanwhile."""
    for _ in range(FREE_PORT_TRIES):
        port = random.choice(FREE_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no free port was found in {FREE_PORTS}")


class HostNetwork:
    """Commands in the network namespace of a process. It may end: the namespace is held open."""

    def __init__(self, pid: int) -> None:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        self._enter = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace}", "--"]

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run([*self._enter, *command], capture_output=True, text=True, timeout=COMMAND_SECONDS)
        assert done.returncode == 0 or not check, f"{' '.join(command)} failed: {done.stderr}"
        return done.stdout

    def popen(self, *command: str, **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._enter, *command], **options)  # type: ignore[call-overload, no-any-return]

    def veths_on(self, bridges: list[str]) -> int:
        """Host ends of veth pairs that are plugged into these bridges."""
        links = json.loads(self.run("ip", "-json", "link", "show", "type", "veth") or "[]")
        return sum(each.get("master") in bridges for each in links)

    def addresses(self) -> list[str]:
        """The IPv4 addresses of the host, loopback not counted."""
        found = []
        for link in json.loads(self.run("ip", "-json", "-4", "address", "show")):
            found += [each["local"] for each in link.get("addr_info", []) if each["scope"] != "host"]
        return found

    def rules(self) -> list[str]:
        """All iptables rules and chains, without counters and comments of iptables-save itself."""
        text = self.run("iptables-save") + self.run("ip6tables-save", check=False)
        lines = [line.split(" [")[0] for line in text.splitlines() if line and not line.startswith("#")]
        return sorted(line for line in lines if line not in ("COMMIT",))

    def listening(self) -> list[tuple[str, int]]:
        """Every TCP listener of the namespace as (address, port)."""
        found = []
        for line in self.run("ss", "-Hltn").splitlines():
            address, _, port = line.split()[3].rpartition(":")
            found.append((address.strip("[]").split("%")[0], int(port)))
        return sorted(set(found))


LISTENER = r"""
import os, socket, struct, sys, threading
def report(kind, source, destination, port):
    os.write(1, f"{kind} {source} {destination} {port}\n".encode())  # one write: many threads report
def serve(listener, port):
    while True:
        peer, address = listener.accept()
        report("tcp", address[0], peer.getsockname()[0], port)
        threading.Thread(target=answer, args=(peer,), daemon=True).start()
def answer(peer):
    # Answers once, then echoes whatever comes, so that a test can hold a connection and see it cut.
    try:
        peer.sendall(b"HTTP/1.0 200 OK\r\n\r\noutside\n")
        while data := peer.recv(4096):
            if b"HTTP/1" in data:
                break
            peer.sendall(data)
    except OSError:
        pass
    peer.close()
def serve_datagrams(listener, port):
    while True:
        data, control, _, address = listener.recvmsg(2048, 1024)
        to = next((socket.inet_ntoa(d[8:12]) for l, t, d in control if (l, t) == (0, 8)), "?")
        report("udp", address[0], to, port)
        listener.sendto(b"outside\n", address)
for port in map(int, sys.argv[1:]):
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind(("0.0.0.0", port)); tcp.listen(64)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(0, 8, 1)  # IP_PKTINFO: which of our addresses was meant
    udp.bind(("0.0.0.0", port))
    threading.Thread(target=serve, args=(tcp, port), daemon=True).start()
    threading.Thread(target=serve_datagrams, args=(udp, port), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""


class Visit(NamedTuple):
    """Someone who came to the outside host: how, from where, to which of its addresses and ports."""

    kind: str
    source: str
    destination: str
    port: int


class Outside:
    """A host of the internet that sandboxes may reach: a namespace with listeners, and a log of who came."""

    GATEWAY = "203.0.113.1"
    PORTS = (25, 80, 8080)

    def __init__(self, host: HostNetwork, number: int, extra_addresses: tuple[str, ...] = ()) -> None:
        self._host = host
        self._name = f"mrtout{number}"
        self.address = "203.0.113.2"
        self._addresses = (self.address, *extra_addresses)
        self.visits: list[Visit] = []
        self._listener: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Outside:
        host, name = self._host, self._name
        self._remove()
        # A namespace without a name in /run/netns: it lives exactly as long as its listener.
        self._listener = subprocess.Popen(
            ["unshare", "--net", "--", "python3", "-u", "-c", LISTENER, *map(str, self.PORTS)],
            stdout=subprocess.PIPE,
        )
        assert self._listener.stdout is not None
        assert self._listener.stdout.readline() == b"ready\n", "the listener outside did not start"
        pid = str(self._listener.pid)
        host.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid)
        host.run("ip", "address", "add", f"{self.GATEWAY}/30", "dev", name)
        host.run("ip", "link", "set", name, "up")
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", "ip"]
        for command in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{self.address}/30", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "via", self.GATEWAY],
        ):
            subprocess.run([*inside, *command], check=True, timeout=COMMAND_SECONDS)
        for address in self._addresses[1:]:
            subprocess.run([*inside, "address", "add", f"{address}/32", "dev", "lo"], check=True)
            host.run("ip", "route", "add", f"{address}/32", "via", self.address)
        threading.Thread(target=self._watch, args=(self._listener.stdout,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.kill()
            self._listener.wait()
        self._remove()

    def _remove(self) -> None:
        for address in self._addresses[1:]:
            self._host.run("ip", "route", "del", f"{address}/32", check=False)
        self._host.run("ip", "link", "del", self._name, check=False)

    def _watch(self, lines: IO[bytes]) -> None:
        for line in lines:
            kind, source, destination, port = line.decode().split()
            self.visits.append(Visit(kind, source, destination, int(port)))

    def connect(self, address: str, port: int) -> str:
        """What a TCP connect from outside gives: for controls ("others do reach this listener")."""
        assert self._listener is not None
        script = f"import socket; socket.create_connection(({address!r}, {port}), 2).close(); print('connected')"
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self._listener.pid}/ns/net", "--", "python3", "-c", script],
            capture_output=True, text=True, timeout=COMMAND_SECONDS,
        )
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]
