"""The edge: credentials, tenants, ports, headers, paths, smuggling, floods. Rows E1, E3, E4, E7, E10, E11, F1, F6."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import socket
import ssl
import time
from typing import Any, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from Rig import wire
from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import Environment
from Rig.wire import Tenant, check_error, raw_exchange, status_of

NOWHERE = "11111111-2222-4333-8444-555555555555"

API_ROUTES = [
    ("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/stop"), ("POST", "/stop?force=true"), ("PUT", "/labels"),
    ("POST", "/resize"), ("POST", "/autostop/5"), ("POST", "/autoarchive/5"), ("POST", "/autodelete/5"), ("POST", "/ttl/5"),
    ("POST", "/public/true"), ("POST", "/last-activity"), ("GET", "/toolbox-proxy-url"), ("GET", "/signing-key"),
    ("POST", "/signing-key/rotate"), ("POST", "/network-settings"), ("POST", "/archive"), ("POST", "/recover"),
    ("GET", "/ports/3000/preview-url"), ("POST", "/ssh-access"), ("PUT", "/secrets"), ("GET", "/build-logs-url"),
]  # fmt: skip
BODIES = {"/labels": {"labels": {}}, "/resize": {"cpu": 2}, "/network-settings": {"networkBlockAll": True}, "/secrets": {"secrets": []}}

TOOLBOX_ROUTES = [
    ("POST", "/process/execute", {"command": "true"}), ("POST", "/process/code-run", {"code": "1", "language": "python"}),
    ("GET", "/files?path=/", None), ("GET", "/files/info?path=/", None), ("GET", "/files/download?path=/etc/hostname", None),
    ("POST", "/files/bulk-download", {"paths": ["/etc/hostname"]}), ("POST", "/files/folder?path=/tmp/x&mode=755", None),
    ("DELETE", "/files?path=/tmp/x", None), ("GET", "/version", None), ("POST", "/env", {"set": {}}), ("GET", "/work-dir", None),
    ("GET", "/port", None), ("GET", "/system/metrics", None), ("POST", "/init", {"token": "x"}), ("GET", "/process/session", None),
]  # fmt: skip


def faceless(answer: httpx.Response, *names: str) -> tuple[int, str]:
    """Status and text of an answer without what differs by request: path, time, and the id asked for."""
    body = answer.json()
    for field in ("path", "timestamp", "requestId"):
        body.pop(field, None)
    text = json.dumps(body, sort_keys=True)
    for name in names:
        text = text.replace(name, "…")
    return answer.status_code, text


def test_another_tenants_sandbox_is_not_there_for_the_api(
    environment: Environment, stranger: Tenant, victim: Any, database: Database
) -> None:
    before = database.row("SELECT * FROM sandbox WHERE id = :'id'", id=victim.id)
    with wire.client(environment.api_url, stranger.key) as enemy:
        assert enemy.get("/sandbox").json()["items"] == []
        for name in (victim.id, victim.name):
            for method, path in API_ROUTES:
                real = enemy.request(method, f"/sandbox/{name}{path}", json=BODIES.get(path))
                none = enemy.request(method, f"/sandbox/{NOWHERE}{path}", json=BODIES.get(path))
                assert faceless(real, name) == faceless(none, NOWHERE), f"{method} {path} tells"
                assert real.status_code in (404, 501), f"{method} {path}: {real.status_code}"
        assert enemy.get("/sandbox", params={"id": victim.id}).json()["items"] == []
        assert enemy.get("/sandbox", params={"name": victim.name}).json()["items"] == []
    assert database.row("SELECT * FROM sandbox WHERE id = :'id'", id=victim.id) == before
    with wire.client(environment.api_url, environment.api_key) as owner:
        assert owner.get(f"/sandbox/{victim.id}").status_code == 200, "control"


def test_another_tenants_sandbox_is_not_there_for_the_proxy(environment: Environment, stranger: Tenant, victim: Any) -> None:
    with wire.client(victim.toolbox_proxy_url, stranger.key) as enemy:
        for method, path, body in TOOLBOX_ROUTES:
            real = enemy.request(method, f"/{victim.id}{path}", json=body)
            none = enemy.request(method, f"/{NOWHERE}{path}", json=body)
            assert real.status_code == 404 and faceless(real, victim.id) == faceless(none, NOWHERE), f"{method} {path} tells"
    with wire.client(f"{victim.toolbox_proxy_url}/{victim.id}", environment.api_key) as owner:
        assert owner.get("/version").status_code == 200, "control"


def test_another_tenant_can_have_the_same_name(environment: Environment, stranger: Tenant, sandboxes: Any, busybox: str) -> None:
    name = f"twin-{sandboxes.run}"
    mine = sandboxes.create(snapshot=busybox, name=name)
    with wire.client(environment.api_url, stranger.key) as other:
        answer = other.post("/sandbox", json={"snapshot": busybox, "name": name})
        assert answer.status_code == 200 and answer.json()["id"] != mine.id, answer.text
        assert other.get(f"/sandbox/{name}").json()["id"] == answer.json()["id"]
        assert sandboxes.client.sdk.get(name).id == mine.id
        assert other.delete(f"/sandbox/{name}").status_code == 200
    sandboxes.remove([mine.id])


def test_another_tenants_keys_and_organization(environment: Environment, stranger: Tenant, victim: Any) -> None:
    with wire.client(environment.api_url, stranger.key) as enemy:
        assert [each["name"] for each in enemy.get("/api-keys").json()] == ["test"]
        assert {each["id"] for each in enemy.get("/organizations").json()} == {stranger.organization}
        check_error(enemy.get(f"/organizations/{victim.organization_id}"), enemy.get(f"/organizations/{NOWHERE}").status_code)
        for header in ("X-Daytona-Organization-ID", "X-Organization-Id"):
            assert enemy.get("/sandbox", headers={header: victim.organization_id}).json().get("items", []) == []


SPOOFS = {
    "X-Martlet-Token": "x", "X-Martlet-Sandbox": "x", "X-Daytona-Preview-Token": "x", "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Host": "localhost", "X-Forwarded-User": "admin", "X-Real-IP": "127.0.0.1", "X-Original-URL": "/health",
    "X-Rewrite-URL": "/health", "X-HTTP-Method-Override": "GET", "Proxy-Authorization": "Martlet v1.0.x", "Cookie": "session=x",
    "Forwarded": "for=127.0.0.1", "Via": "1.1 x", "X-Daytona-Organization-ID": NOWHERE,
}  # fmt: skip


def test_no_header_stands_in_for_a_credential(victim: Any, environment: Environment) -> None:
    for headers in ({}, SPOOFS, *({name: value} for name, value in SPOOFS.items())):
        answer = httpx.get(f"{victim.toolbox_proxy_url}/{victim.id}/version", headers=headers)
        check_error(answer, 401)
        check_error(httpx.get(f"{environment.api_url}/sandbox", headers=headers), 401)
    bearer = {"Authorization": f"Bearer {environment.api_key}"}
    answer = httpx.get(f"{victim.toolbox_proxy_url}/{victim.id}/version", headers={**SPOOFS, **bearer})
    assert answer.status_code == 200, "control: with the key, and the spoofs are stripped"


def test_the_daemons_token_is_not_a_key_of_the_front(victim: Any, database: Database, environment: Environment) -> None:
    token = database.value("SELECT toolbox_token FROM sandbox WHERE id = :'id'", id=victim.id)
    for headers in ({"X-Martlet-Token": token}, {"Authorization": f"Bearer {token}"}, {"Authorization": f"Martlet {token}"}):
        check_error(httpx.get(f"{victim.toolbox_proxy_url}/{victim.id}/version", headers=headers), 401)
    query = {"DAYTONA_SANDBOX_AUTH_KEY": token, "token": token, "api_key": environment.api_key}
    check_error(httpx.get(f"{victim.toolbox_proxy_url}/{victim.id}/version", params=query), 401)


def test_the_daemon_wants_its_token_from_everybody(attacker: Any, victim: Any, database: Database) -> None:
    """From inside the sandbox: the daemon's port answers nobody who has no token, and the token is nowhere to be read."""
    fetch = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:2280"
    for path in ("/version", "/process/execute", "/files/download?path=/etc/hostname"):
        assert attacker.process.exec(f"{fetch}{path}").result == "401", path
    other = database.value("SELECT toolbox_token FROM sandbox WHERE id = :'id'", id=victim.id)
    assert attacker.process.exec(f"{fetch}/version -H 'X-Martlet-Token: {other}'").result == "401"
    own = database.value("SELECT toolbox_token FROM sandbox WHERE id = :'id'", id=attacker.id)
    assert attacker.process.exec(f"{fetch}/version -H 'X-Martlet-Token: {own}'").result == "200", "control"
    found = attacker.process.exec(
        f"grep -rslF '{own[:20]}' /proc/[0-9]*/environ /proc/[0-9]*/cmdline /tmp /home /etc /.martlet /run 2>/dev/null; env | grep -i token; true"
    ).result
    own_command = [line for line in found.splitlines() if "/cmdline" not in line]
    assert not own_command, found


# ---- the runner's ingress --------------------------------------------------------------------------------------------


class Ingress:
    """The proxy's way to a sandbox, taken without the proxy."""

    def __init__(self, database: Database, sandbox: str) -> None:
        self.sandbox = sandbox
        found = database.row(
            """
            SELECT r.ingress_address AS address, encode(r.ingress_secret, 'hex') AS secret, p.epoch
            FROM sandbox_placement p JOIN runner_status r ON r.runner_id = p.runner_id WHERE p.sandbox_id = :'id'
            """,
            id=sandbox,
        )
        host, _, port = found["address"].rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self.secret, self.epoch = bytes.fromhex(found["secret"]), found["epoch"]

    def token(self, port: object = 2280, sandbox: str | None = None, epoch: int | None = None, seconds: int = 30) -> str:
        expires = int(time.time()) + seconds
        signed = f"v1:{sandbox or self.sandbox}:{port}:{self.epoch if epoch is None else epoch}:{expires}"
        return f"Martlet v1.{expires}.{hmac.new(self.secret, signed.encode(), hashlib.sha256).hexdigest()}"

    def connect(self, target: str, token: str | None, then: bytes = b"", epoch: object = None) -> bytes:
        """Everything the ingress answers to one CONNECT (and to what is sent through the tunnel)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        credential = f"Proxy-Authorization: {token}\r\n" if token is not None else ""
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credential}X-Martlet-Epoch: {self.epoch if epoch is None else epoch}\r\n\r\n"
        with socket.create_connection(self._address, 5) as plain, context.wrap_socket(plain) as peer:
            peer.settimeout(3)
            peer.sendall(head.encode())
            answer = b""
            try:
                while chunk := peer.recv(65536):
                    answer += chunk
                    if then and b"\r\n\r\n" in answer:
                        peer.sendall(then)
                        then = b""
            except (TimeoutError, ConnectionResetError, ssl.SSLError):
                pass
            return answer


def test_the_ingress_checks_everything(attacker: Any, victim: Any, database: Database) -> None:
    way = Ingress(database, victim.id)
    there = f"{victim.id}:2280"
    request = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    good = way.connect(there, way.token(), request)
    assert status_of(good) == 200, f"control: {good[:200]!r}"
    assert b" 401 " in good.split(b"\r\n\r\n", 1)[1], "even through the tunnel the daemon wants its token"
    wrong = {
        "no token": way.connect(there, None),
        "an empty token": way.connect(there, ""),
        "garbage": way.connect(there, "Martlet v1.9999999999.zz"),
        "another scheme": way.connect(there, way.token().replace("Martlet ", "Bearer ")),
        "another version": way.connect(there, way.token().replace("v1.", "v2.")),
        "expired": way.connect(there, way.token(seconds=-5)),
        "for another port": way.connect(there, way.token(port=22)),
        "for another sandbox": way.connect(there, way.token(sandbox=attacker.id)),
        "of another epoch": way.connect(there, way.token(epoch=way.epoch + 1)),
        "a stale epoch, rightly signed": way.connect(there, way.token(epoch=way.epoch + 1), epoch=way.epoch + 1),
        "far in the future": way.connect(there, way.token(seconds=10**9)),
    }
    assert {name: status_of(answer) for name, answer in wrong.items() if status_of(answer) not in (400, 401, 403, 404, 407)} == {}
    nowhere = way.connect(f"{NOWHERE}:2280", way.token(sandbox=NOWHERE))
    assert status_of(nowhere) == 404


@pytest.mark.parametrize("port", ["02280", "+2280", " 2280", "2280 ", "0x8e8", "２２８０", "2280.0", "", "0", "65536", "-1", "99999999999999999999", "2280:2280", "2280/", "2280?"])
def test_a_port_is_written_in_one_way_only(victim: Any, database: Database, port: str) -> None:
    """Mistake 1: what a string comparison would let through. Each is signed exactly as written, so only the form is wrong."""
    way = Ingress(database, victim.id)
    try:
        answer = way.connect(f"{victim.id}:{port}", way.token(port=port))
    except (ConnectionError, ssl.SSLError):
        return
    assert status_of(answer) in (0, 400), answer[:200]


@pytest.mark.parametrize("target", ["127.0.0.1:22", "localhost:5432", "169.254.169.254:80", "[::1]:22", "{ID}:2280", "{id}.:2280", "http://x/", "../{id}:2280"])
def test_the_ingress_dials_sandboxes_only(victim: Any, database: Database, target: str) -> None:
    way = Ingress(database, victim.id)
    target = target.replace("{id}", victim.id).replace("{ID}", victim.id.upper())
    name = target.rpartition(":")[0]
    answer = way.connect(target, way.token(sandbox=name))
    assert status_of(answer) in (0, 400, 403, 404, 405), answer[:200]


def test_the_ingress_speaks_tls_only(victim: Any, database: Database) -> None:
    way = Ingress(database, victim.id)
    with socket.create_connection(way._address, 5) as plain:
        plain.settimeout(5)
        plain.sendall(f"CONNECT {victim.id}:2280 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {way.token()}\r\n\r\n".encode())
        try:
            answer = plain.recv(4096)
        except (TimeoutError, ConnectionResetError):
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 200")


# ---- paths, framing --------------------------------------------------------------------------------------------------


def request_bytes(environment: Environment, base: str, target: str, *extra: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {urlsplit(base).netloc}", f"Authorization: Bearer {environment.api_key}", *extra]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("utf-8", "surrogateescape") + body


def test_paths_do_not_climb(environment: Environment, attacker: Any, victim: Any) -> None:
    base = attacker.toolbox_proxy_url
    prefix = urlsplit(base).path
    climbing = [
        f"{prefix}/{attacker.id}/../{victim.id}/version", f"{prefix}/{attacker.id}/%2e%2e/{victim.id}/version",
        f"{prefix}/{attacker.id}/..%2f{victim.id}/version", f"{prefix}/{attacker.id}%2f..%2f{victim.id}/version",
        f"{prefix}//{victim.id}/version", f"/{prefix}/{victim.id}/version", f"{prefix}/{victim.id}//version",
        f"{prefix}/{victim.id.upper()}/version", f"{prefix}/%{ord(victim.id[0]):02x}{victim.id[1:]}/version",
        f"{prefix}/{victim.id}%00/version", f"{prefix}/{victim.id};x/version", f"{prefix}/{victim.id} /version",
        f"{prefix}/{victim.id}\\..\\version", f"{prefix}/ {victim.id}/version", f"{prefix}/{victim.id}:2280/version",
        f"{prefix}/{{{victim.id}}}/version", f"{prefix}/02280-{victim.id}/version", f"{prefix}", f"{prefix}/", "/", "*",
        f"http://169.254.169.254{prefix}/{victim.id}/version?", f"//evil{prefix}/{victim.id}/version",
    ]  # fmt: skip
    for target in climbing:
        status = status_of(raw_exchange(base, request_bytes(environment, base, target), 5))
        allowed = (0, 400, 401, 403, 404, 405, 505)
        if target.startswith("http://"):
            allowed += (200,)  # the absolute form is legal; what counts is that its host is not dialled
        assert status in allowed, f"{target}: {status}"
    good = raw_exchange(base, request_bytes(environment, base, f"{prefix}/{victim.id}/version"), 20)
    assert status_of(good) == 200, "control"


SMUGGLED = b"GET /toolbox/x/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


def smuggling(length: int) -> list[tuple[str, list[str], bytes]]:
    chunked = b"0\r\n\r\n" + SMUGGLED
    return [
        ("CL and TE", [f"Content-Length: {length}", "Transfer-Encoding: chunked"], chunked),
        ("TE and CL", ["Transfer-Encoding: chunked", f"Content-Length: {length}"], chunked),
        ("two lengths", ["Content-Length: 0", f"Content-Length: {length}"], SMUGGLED),
        ("a list of lengths", [f"Content-Length: 0, {length}"], SMUGGLED),
        ("a signed length", [f"Content-Length: +{length}"], SMUGGLED),
        ("a hex length", ["Content-Length: 0x10"], SMUGGLED),
        ("a negative length", ["Content-Length: -1"], SMUGGLED),
        ("an odd coding", ["Transfer-Encoding: xchunked"], chunked),
        ("chunked twice", ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], chunked),
        ("chunked, identity", ["Transfer-Encoding: chunked, identity"], chunked),
        ("a space before the colon", ["Transfer-Encoding : chunked", f"Content-Length: {length}"], chunked),
        ("a folded field", ["X-A: 1\r\n Transfer-Encoding: chunked", f"Content-Length: {length}"], chunked),
        ("a vertical tab", ["Transfer-Encoding:\x0bchunked", f"Content-Length: {length}"], chunked),
        ("a bare CR", ["X-A: 1\rTransfer-Encoding: chunked"], SMUGGLED),
        ("a NUL", ["X-A: a\0b"], b""),
        ("a chunk size with a sign", ["Transfer-Encoding: chunked"], b"+0\r\n\r\n" + SMUGGLED),
        ("a chunk size in 0x", ["Transfer-Encoding: chunked"], b"0x0\r\n\r\n" + SMUGGLED),
        ("a chunk size too large", ["Transfer-Encoding: chunked"], b"fffffffffffffffff0\r\n" + SMUGGLED),
        ("chunks without CR", ["Transfer-Encoding: chunked"], b"0\n\n" + SMUGGLED),
        ("a second host", ["Host: other"], b""),
        ("a second authorization", ["Authorization: Bearer other"], b""),
    ]


@pytest.mark.deadline(180)
@pytest.mark.parametrize("front", ["api", "proxy"])
def test_no_request_hides_in_another(front: str, environment: Environment, victim: Any) -> None:
    """The front and what is behind it must never disagree on where a request ends: refuse, or read it as one."""
    base = environment.api_url if front == "api" else victim.toolbox_proxy_url
    target = urlsplit(base).path + ("/sandbox" if front == "api" else f"/{victim.id}/process/execute")
    failed = []
    for name, extra, body in smuggling(len(SMUGGLED)):
        request = request_bytes(environment, base, target, "Content-Type: application/json", *extra, method="POST", body=body)
        request = request.replace(b"Connection: close\r\n", b"")
        answer = raw_exchange(base, request, 2)
        first = status_of(answer)
        answers = len(re.findall(rb"HTTP/1\.[01] \d{3}", answer))
        if answers > 1 and name not in ("a NUL",):
            failed.append(f"{name}: {answers} answers: {answer[:120]!r}")
        elif 200 <= first < 300:
            failed.append(f"{name}: {first}")
    assert not failed, "\n".join(failed)
    with wire.client(base, environment.api_key) as control:
        path = "/sandbox" if front == "api" else f"/{victim.id}/version"
        assert control.get(path).status_code == 200, "control: the front works after all that"


@pytest.mark.parametrize("front", ["api", "proxy"])
def test_heads_are_bounded(front: str, environment: Environment, victim: Any) -> None:
    base = environment.api_url if front == "api" else victim.toolbox_proxy_url
    target = urlsplit(base).path + ("/sandbox" if front == "api" else f"/{victim.id}/version")
    for extra in (["X-Big: " + "x" * 200_000], [f"X-{n}: {'y' * 50}" for n in range(3000)]):
        status = status_of(raw_exchange(base, request_bytes(environment, base, target, *extra), 5))
        assert status in (0, 400, 413, 431), status
    status = status_of(raw_exchange(base, request_bytes(environment, base, target + "?" + "q" * 200_000), 5))
    assert status in (0, 400, 414, 431), status
    assert status_of(raw_exchange(base, request_bytes(environment, base, target), 20)) == 200, "control"


@pytest.mark.parametrize("front", ["api", "toolbox"])
def test_json_bombs(front: str, environment: Environment, attacker: Any) -> None:
    base = environment.api_url if front == "api" else f"{attacker.toolbox_proxy_url}/{attacker.id}"
    path = "/sandbox" if front == "api" else "/process/execute"
    bombs = [
        b"[" * 100_000, b'{"a":' * 100_000, b"[" * 50_000 + b"]" * 50_000, b'{"command":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
        b'{"name":1e400}', b'{"cpu":' + b"9" * 100_000 + b"}", b'"' + b"\\u0000" * 100_000 + b'"', b'{"a":"\\ud800"}', b"\xef\xbb\xbf{}x",
        b'{"name":"a",' * 20_000,
    ]  # fmt: skip
    with wire.client(base, environment.api_key) as client:
        for bomb in bombs:
            answer = client.post(path, content=bomb, headers={"Content-Type": "application/json"})
            assert answer.status_code in (400, 413, 422), f"{bomb[:20]!r}: {answer.status_code} {answer.text[:100]}"
        # Whether the rest is read or the connection closed after the answer is the server's choice.
        try:
            huge = client.post("/sandbox" if front == "api" else path, content=b'{"command":"' + b"x" * 300_000_000 + b'"}')
            assert huge.status_code in (400, 413), huge.status_code
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            pass
        control = client.get("/health" if front == "api" else "/version")
        assert control.status_code == 200, "control"


@pytest.mark.deadline(150)
def test_slow_heads_are_ended_and_hold_up_nobody(environment: Environment, victim: Any) -> None:
    """At both fronts at once: each takes half a minute to lose patience."""
    fronts = [(environment.api_url, "/sandbox"), (victim.toolbox_proxy_url, f"/{victim.id}/version")]
    slow: list[socket.socket] = []
    try:
        for base, path in fronts:
            begin_slowly(slow, 300, base, path)
        for base, path in fronts:
            begun = time.monotonic()
            assert status_of(raw_exchange(base, request_bytes(environment, base, urlsplit(base).path + path), 20)) == 200
            assert time.monotonic() - begun < 5, "slow clients hold up a quick one"
        end = time.monotonic() + 75
        open_still = slow
        while open_still and time.monotonic() < end:
            time.sleep(3)
            open_still = [peer for peer in open_still if drip(peer)]
        assert not open_still, f"{len(open_still)} of {len(slow)} slow connections are open after 75 s"
    finally:
        for peer in slow:
            peer.close()


def begin_slowly(slow: list[socket.socket], count: int, base: str, path: str) -> None:
    """Opens so many connections, each with the beginning of a request's head."""
    parts = urlsplit(base)
    for _ in range(count):
        slow.append(socket.create_connection((parts.hostname, parts.port or 80), 5))
        slow[-1].sendall(f"GET {parts.path}{path} HTTP/1.1\r\nHost: x\r\nX-A: ".encode())


def drip(peer: socket.socket) -> bool:
    """Sends one more byte of the head; whether the connection is still open."""
    try:
        peer.setblocking(False)
        peer.send(b"a")
        return peer.recv(1000) == b"never"
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_special_files_are_not_read(attacker: Any, toolbox: httpx.Client) -> None:
    """Row F6: none of these hangs, streams for ever or answers with the host's memory."""
    attacker.process.exec("rm -f pipe sock; mkfifo pipe; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"")
    for path in ("pipe", "sock", "/dev/zero", "/dev/random", "/proc/kcore", "/dev/stdin", "/proc/kmsg", "/dev/tty", "/"):
        begun = time.monotonic()
        answer = toolbox.get("/files/download", params={"path": path}, timeout=30)
        assert answer.status_code in (400, 403, 404, 500), f"{path}: {answer.status_code}"
        assert time.monotonic() - begun < 20, path
        part = toolbox.post("/files/bulk-download", json={"paths": [path]}, timeout=30)
        assert part.status_code == 200 and b'name="error"' in part.content, f"{path}: {part.content[:200]!r}"
        assert toolbox.get("/files/info", params={"path": path}, timeout=30).status_code in (200, 400, 403, 404)
    for path in ("pipe", "/dev/full", "/proc/sys/kernel/hostname", "sock"):
        sent = toolbox.post(
            "/files/bulk-upload", data={"files[0].path": path}, files={"files[0].file": b"x" * 1000}, timeout=30
        )
        assert sent.status_code == 400, f"{path}: {sent.status_code} {sent.text}"
    assert toolbox.get("/files/download", params={"path": "/proc/self/status"}).status_code in (200, 400), "control"
    assert toolbox.get("/files/download", params={"path": "/etc/hostname"}).status_code == 200, "control"


def test_searches_of_endless_trees_end(toolbox: httpx.Client) -> None:
    for route, parameters in (
        ("/files/find", {"path": "/proc", "pattern": "no such text 1234"}), ("/files/search", {"path": "/", "pattern": "*"}),
        ("/files/find", {"path": "/dev", "pattern": "x"}), ("/files", {"path": "/proc", "depth": "50"}),
        ("/files/search", {"path": "/usr", "pattern": "*" * 30 + "z"}), ("/files/search", {"path": "/usr", "pattern": "[" * 500}),
    ):  # fmt: skip
        begun = time.monotonic()
        answer = toolbox.get(route, params=parameters, timeout=45)
        assert answer.status_code in (200, 400, 403, 408, 413), f"{route} {parameters}: {answer.status_code}"
        print(f"{route} {parameters['path']}: {time.monotonic() - begun:.1f} s, {len(answer.content)} bytes")


def test_secrets_are_not_in_the_logs(environment: Environment, victim: Any, database: Database, stranger: Tenant) -> None:
    victim.process.exec("true")
    tokens = database.row("SELECT toolbox_token, signing_key FROM sandbox WHERE id = :'id'", id=victim.id)
    secret = database.value("SELECT encode(ingress_secret, 'hex') AS s FROM runner_status LIMIT 1")
    password = urlsplit(environment.database_url).password or "no password"
    logs = list((environment.state / "log").glob("*.log"))
    assert {each.stem for each in logs} >= {"api", "runner", "proxy"}, "control: there are logs"
    for log in logs:
        text = log.read_text(errors="replace")
        for name, value in {"API key": environment.api_key, "another key": stranger.key, "ingress secret": secret, "password": password, **tokens}.items():
            assert value not in text, f"{log} holds the {name}"


def test_log_lines_cannot_be_forged(environment: Environment, api: httpx.Client, victim: Any) -> None:
    mark = f"forged-{time.time_ns()}"
    api.get(f"/sandbox/%0a{mark}%0d%0a%1b[31m", headers={"X-Daytona-Source": f"x {mark}"})
    api.post("/sandbox", json={"name": f"a\n{mark} level=info"})
    httpx.get(f"{victim.toolbox_proxy_url}/%0a{mark}")
    time.sleep(0.5)
    for log in (environment.state / "log").glob("*.log"):
        for line in log.read_text(errors="replace").splitlines():
            assert not line.startswith(mark) and "\x1b[31m" not in line, f"{log}: {line[:200]!r}"


@pytest.fixture
def thief(sandboxes: Any, busybox: str) -> Iterator[Any]:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    yield made
    sandboxes.remove([made.id])


def test_a_false_daemon_learns_no_key(thief: Any, environment: Environment, engine: Engine) -> None:
    """Root in a sandbox puts a program of his own on the daemon's port; what the proxy sends there is no user's key."""
    thief.process.exec(
        "setsid sh -c 'sleep 0.5; kill -9 $(pidof martlet-daemon); for n in 1 2 3 4 5 6 7 8; do "
        "printf \"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n\" | nc -l -p 2280 -w 3 >> /tmp/stolen; done' >/dev/null 2>&1 &"
    )
    for _ in range(12):
        try:
            httpx.get(
                f"{thief.toolbox_proxy_url}/{thief.id}/version", timeout=2,
                headers={"Authorization": f"Bearer {environment.api_key}", "X-Secret-Canary": "user-header"},
            )  # fmt: skip
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    answer = engine.request("GET", f"/containers/{engine.container(thief.id)['Id']}/archive", path="/tmp/stolen")
    print("the thief heard" if b"user-header" in answer.content else "the thief heard nothing")
    assert environment.api_key.encode() not in answer.content


def test_the_engine_is_reachable_by_socket_only(engine: Engine, host: Any) -> None:
    assert not {port for _, port in host.listening()} & {2375, 2376}
    import os
    import stat

    mode = os.stat(engine.socket)
    assert stat.S_ISSOCK(mode.st_mode) and not mode.st_mode & stat.S_IWOTH
