"""What a sandbox must not reach: rows N1 to N6 and mistakes 3 to 6, 8, 9 of ABUSE.md."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import Any, Iterator

import pytest

from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.network import HostNetwork, Outside
from Rig.probing import ELSEWHERE, METADATA, PRIVATE, STOPPED, Target, address_of, assert_stopped, probe
from Rig.sandboxes import Sandboxes
from Rig.waiting import eventually

DATA_PORTS = (80, 8080)


def test_the_control_is_honest(host: HostNetwork, outside: Outside, control: Target) -> None:
    """The host itself gets to every address that sandboxes must not get to: without the firewall so would they."""
    for address in (*METADATA, *PRIVATE, ELSEWHERE, outside.address):
        script = f"import socket; print(socket.create_connection(({address!r}, 80), 3).recv(99))"
        assert "200 OK" in host.run("python3", "-c", script), address


def test_metadata(attacker: Any, control: Target) -> None:
    targets = [(kind, address, port) for kind in ("tcp", "udp") for address in METADATA for port in DATA_PORTS]
    assert_stopped(attacker, [*targets, ("tcp", "fd00:ec2::254", 80), ("tcp", "fe80::a9fe:a9fe", 80)], control)


def test_private_ranges(attacker: Any, control: Target) -> None:
    assert_stopped(attacker, [("tcp", address, port) for address in PRIVATE for port in DATA_PORTS], control)


def test_the_host(attacker: Any, control: Target, host: HostNetwork, outside: Outside, engine: Engine) -> None:
    """Every address of the host, the bridge's gateway too, on every port that anything listens on, and on a fresh one."""
    listener = host.popen(
        "python3", "-c",
        "import socket\nserver = socket.create_server(('0.0.0.0', 0))\nprint(server.getsockname()[1], flush=True)\n"
        "while True: server.accept()[0].close()",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        fresh = int(listener.stdout.readline())
        assert outside.connect(outside.GATEWAY, fresh) == "connected", "control: others do reach a port of the host"
        ports = {port for _, port in host.listening()} | {fresh, 22, 80, 443, 2375, 2376, 5432}
        gateway = next(iter(engine.container(attacker.id)["NetworkSettings"]["Networks"].values()))["Gateway"]
        addresses = {*host.addresses(), gateway, outside.GATEWAY} - {""}
        assert_stopped(attacker, [("tcp", address, port) for address in addresses for port in sorted(ports)], control)
        assert_stopped(attacker, [("udp", address, 53) for address in addresses if address not in resolvers(attacker)], control)
    finally:
        listener.kill()
        listener.wait()


def resolvers(box: Any) -> set[str]:
    text = box.process.exec("cat /etc/resolv.conf").result
    return {line.split()[1] for line in text.splitlines() if line.startswith("nameserver")}


def test_our_own_ports(attacker: Any, control: Target, environment: Environment, database: Database, host: HostNetwork) -> None:
    """API, proxy, ingress and Postgres by whatever address they are known."""
    from urllib.parse import urlsplit

    known = {urlsplit(each).port for each in (environment.api_url, attacker.toolbox_proxy_url, environment.database_url)}
    known |= {int(each["a"].rpartition(":")[2]) for each in database.rows("SELECT ingress_address AS a FROM runner_status")}
    listening = {port for _, port in host.listening()}
    assert known - {None} <= listening | {None}, "control: they do listen"
    targets = [("tcp", address, port) for address in host.addresses() for port in known if port]
    assert_stopped(attacker, targets, control)


def test_another_sandbox(attacker: Any, victim: Any, control: Target, engine: Engine) -> None:
    victim.process.exec("python3 -m http.server 9000 --bind 0.0.0.0 >/dev/null 2>&1 &")
    victim.process.exec("python3 -m http.server 9001 --bind :: >/dev/null 2>&1 &")
    there = address_of(engine, victim)
    eventually(lambda: probe(victim, [("tcp", there, 9000)])[("tcp", there, 9000)] == "reached", 60, "the victim's server")
    targets: list[Target] = [(kind, there, port) for kind in ("tcp", "udp") for port in (9000, 2280, 22, 80)]
    assert_stopped(attacker, targets, control)


def test_no_ipv6(attacker: Any, control: Target) -> None:
    assert attacker.process.exec("cat /proc/net/if_inet6 2>/dev/null | grep -v ' lo$'; true").result == ""
    targets: list[Target] = [("tcp", "2606:4700:4700::1111", 443), ("udp", "ff02::1", 5353), ("tcp", "fd00::1", 80)]
    assert_stopped(attacker, targets, control)


def test_mail_is_closed(attacker: Any, control: Target, outside: Outside) -> None:
    assert_stopped(attacker, [("tcp", outside.address, 25)], control)


RAW_SENDERS = {
    "raw": "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
    "packet": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "transparent": "socket.socket().setsockopt(0, 19, 1)",
    "foreign": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(('203.0.113.77', 0))",
    "device": "socket.socket().setsockopt(1, 25, b'lo\\0')",
    "mark": "socket.socket().setsockopt(1, 36, 7)",
}


@pytest.mark.parametrize("kind", [each for each in RAW_SENDERS if each != "device"])
def test_no_raw_sockets(attacker: Any, kind: str) -> None:
    done = attacker.process.exec(f"python3 -c \"import socket; {RAW_SENDERS[kind]}\"")
    assert done.exit_code == 1 and ("PermissionError" in done.result or "Cannot assign" in done.result), done.result


def test_no_change_of_the_network(rooted: Any) -> None:
    """As root, in the sandbox: no address, route, device, rule or MAC can be changed."""
    for command in (
        "ifconfig eth0 203.0.113.77", "ip addr add 203.0.113.77/24 dev eth0", "ip route add 1.2.3.4 dev eth0",
        "ip link set eth0 address 02:00:00:00:00:01", "ip link add d0 type dummy", "ifconfig eth0 down", "arping -c1 -I eth0 1.1.1.1",
        "ping -c1 -W1 1.1.1.1", "traceroute -n -m1 -w1 1.1.1.1", "sysctl -w net.ipv4.ip_forward=1",
    ):  # fmt: skip
        assert rooted.process.exec(command, timeout=20).exit_code != 0, command
    assert rooted.process.exec("ip addr show eth0 || ifconfig eth0").exit_code == 0, "control"


SPOOF = r"""
import socket, struct, sys
own, claimed, target = sys.argv[1:]
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for source, port in ((claimed, 8080), (own, 80)):
    body = struct.pack("!HHHH", 4444, port, 12, 0) + b"hiya"
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target))
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    raw.sendto(head + body, (target, port))
"""


@pytest.mark.parametrize("claimed", [
    "the victim", "203.0.113.77", "127.0.0.1", "192.0.2.250",
])  # fmt: skip
def test_a_false_source_address_goes_nowhere(
    claimed: str, attacker: Any, victim: Any, engine: Engine, outside: Outside
) -> None:
    """Even with every capability (the test enters the sandbox's network as the host's root) the source is checked."""
    init, own = engine.container(attacker.id)["State"]["Pid"], address_of(engine, attacker)
    source = address_of(engine, victim) if claimed == "the victim" else claimed
    before = len(outside.visits)
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{init}/ns/net", "--", "python3", "-c", SPOOF, own, source, outside.address],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    eventually(
        lambda: [each for each in outside.visits[before:] if (each.kind, each.port) == ("udp", 80)], 30,
        "the control datagram with the true source",
    )  # fmt: skip
    assert not [each for each in outside.visits[before:] if each.port == 8080], f"spoofed as {source} and passed"


def test_all_network_blocked(sandboxes: Sandboxes, outside: Outside, attacker: Any, control: Target) -> None:
    closed = sandboxes.create(network_block_all=True, auto_stop_interval=0)
    targets: list[Target] = [
        ("tcp", outside.address, 80), ("udp", outside.address, 80), ("tcp", ELSEWHERE, 80), ("udp", "1.1.1.1", 53), ("tcp", "1.1.1.1", 443),
    ]  # fmt: skip
    assert set(probe(closed, targets).values()) <= STOPPED
    assert probe(attacker, [control])[control] == "reached"
    assert closed.process.exec("echo the toolbox works").result == "the toolbox works\n"
    assert probe(closed, [("tcp", "127.0.0.1", 2280)])[("tcp", "127.0.0.1", 2280)] == "reached", "loopback is its own"
    sandboxes.remove([closed.id])


def test_an_allow_list_allows_just_that(sandboxes: Sandboxes, outside: Outside) -> None:
    limited = sandboxes.create(network_allow_list=f"{outside.address}/32", auto_stop_interval=0)
    assert_stopped(limited, [("tcp", ELSEWHERE, 80), ("tcp", METADATA[0], 80), ("tcp", "1.1.1.1", 443)], ("tcp", outside.address, 80))
    sandboxes.remove([limited.id])


def test_no_allow_list_opens_the_floor(sandboxes: Sandboxes, outside: Outside, api: Any, host: HostNetwork) -> None:
    """`0.0.0.0/0` and friends: refused by name, or accepted and the floor holds all the same."""
    wide = f"0.0.0.0/0,169.254.169.254/32,10.0.0.0/8,{outside.GATEWAY}/32,{host.addresses()[0]}/32"
    answer = api.post("/sandbox", json={"networkAllowList": wide, "labels": sandboxes.labels()})
    if answer.status_code == 400:
        assert "networkAllowList" in answer.text
        wide = f"0.0.0.0/1,{outside.address}/32"
        made = sandboxes.create(network_allow_list=wide, auto_stop_interval=0)
    else:
        made = sandboxes.client.sdk.get(answer.json()["id"])
        made.wait_for_sandbox_start()
    targets = [("tcp", address, 80) for address in (*METADATA, "10.99.99.99")]
    targets += [("tcp", address, 22) for address in (*host.addresses(), outside.GATEWAY)]
    assert_stopped(made, targets, ("tcp", outside.address, 80))
    sandboxes.remove([made.id])


def test_a_tightened_policy_cuts_what_is_open(
    sandboxes: Sandboxes, outside: Outside, database: Database, control: Target
) -> None:
    made = sandboxes.create(auto_stop_interval=0)
    made.process.exec(
        "cat > hold.py <<'END'\nimport socket, time\n"
        f"peer = socket.create_connection(('{outside.address}', 80)); peer.settimeout(2); peer.recv(999)\n"
        "for n in range(3000):\n    peer.sendall(b'x'); peer.recv(9); open('held', 'w').write(str(n)); time.sleep(0.1)\n"
        "END\npython3 hold.py >/dev/null 2>&1 &"
    )

    def held() -> int:
        return int(made.process.exec("cat held 2>/dev/null || echo 0").result or 0)

    eventually(lambda: held() > 3, 40, "control: the connection to be held")
    database.execute("UPDATE sandbox SET network_block_all = true WHERE id = :'id'", id=made.id)
    eventually(lambda: probe(made, [control])[control] in STOPPED, 60, "new connections to be stopped")
    eventually(lambda: made.process.exec("pgrep -f hold.p[y]").exit_code != 0, 60, "the open connection to be cut")
    database.execute("UPDATE sandbox SET network_block_all = false WHERE id = :'id'", id=made.id)
    eventually(lambda: probe(made, [control])[control] == "reached", 60, "the network to be open again")
    sandboxes.remove([made.id])


HAMMER = """
import signal, socket, sys, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def hammer(kind, address, port):
    while True:
        try:
            peer = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
            peer.settimeout(0.3); peer.connect((address, port)); peer.send(b'knock'); peer.close()
        except OSError:
            pass
        time.sleep(0.002)
for each in sys.argv[1].split(','):
    kind, address, port = each.split('/')
    threading.Thread(target=hammer, args=(kind, address, int(port)), daemon=True).start()
while True: time.sleep(1)
"""


@pytest.fixture
def hammers(database: Database, outside: Outside, host: HostNetwork) -> Iterator[str]:
    """A snapshot whose entrypoint knocks on every forbidden door (and one allowed) from its first instant to its last."""
    name = "martlet-test-hammer"
    doors = [f"{kind}/{address}/80" for address in (*METADATA[:2], *PRIVATE[:3]) for kind in ("tcp", "udp")]
    doors += [f"tcp/{outside.address}/8080", f"udp/{outside.address}/8080"]
    database.execute(
        """
        INSERT INTO snapshot (general, name, image, entrypoint)
            SELECT true, :'name', image, ARRAY['python3', '-c', :'code', :'doors'] FROM snapshot
            WHERE general AND name NOT LIKE 'martlet-test-%' ORDER BY created_at LIMIT 1
            ON CONFLICT (name) WHERE general DO UPDATE SET entrypoint = excluded.entrypoint;
        """,
        name=name, code=HAMMER, doors=",".join(doors),
    )
    yield name
    database.execute("DELETE FROM snapshot WHERE name = :'name'", name=name)


@pytest.mark.deadline(240)
@pytest.mark.parametrize("blocked", [False, True])
def test_before_during_and_after_stop_and_start(
    sandboxes: Sandboxes, outside: Outside, hammers: str, blocked: bool, engine: Engine
) -> None:
    """No packet gets out early, none during the grace of a stop (the hammer ignores SIGTERM), none after a restart."""
    before = len(outside.visits)
    sources: set[str] = set()
    box = sandboxes.create(snapshot=hammers, network_block_all=blocked, auto_stop_interval=0)
    for force in (False, True):
        sources.add(address_of(engine, box))
        time.sleep(1.5)
        box.stop(force=force)
        quiet = len(outside.visits)
        time.sleep(0.5)
        late = [each for each in outside.visits[quiet + 20 :] if each.source in sources]
        assert not late, "it was reported stopped and still sends"
        box.start()
    sources.add(address_of(engine, box))
    time.sleep(1)
    sandboxes.remove([box.id])
    seen = [each for each in outside.visits[before:]]
    allowed = [each for each in seen if each.destination == outside.address and each.port == 8080]
    forbidden = [each for each in seen if each.destination in (*METADATA, *PRIVATE)]
    assert not forbidden, forbidden[:5]
    if blocked:
        assert not allowed, allowed[:5]
    else:
        assert len(allowed) > 20, "control: the hammer did knock"


@pytest.mark.deadline(180)
def test_no_window_while_the_runner_is_killed(sandboxes: Sandboxes, outside: Outside, hammers: str, stack: Any) -> None:
    """Row N5: rules outlive the runner, and a sandbox that starts while it comes back starts closed."""
    before = len(outside.visits)
    boxes = [sandboxes.create(snapshot=hammers, network_block_all=True, auto_stop_interval=0) for _ in range(2)]
    restarts = threading.Thread(target=lambda: [boxes[1].stop(force=True), boxes[1].start()])
    restarts.start()
    for _ in range(2):
        stack.kill("runner")
        time.sleep(1)
        stack.start("runner")
    restarts.join()
    sandboxes.remove([each.id for each in boxes])
    inner = [each for each in outside.visits[before:] if each.port == 8080 or each.destination != outside.address]
    assert not inner, inner[:5]
