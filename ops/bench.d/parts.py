"""The parts that are measured, each reached in the most direct way: Martlet, Docker's engine, Postgres, nginx."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

RUN = secrets.token_hex(3)
CALL_SECONDS = 120


class Failed(Exception):
    """A measurement that could not be made, with the reason."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CALL_SECONDS)
        self.sock.connect(self._path)


class TCPConnection(http.client.HTTPConnection):
    """HTTP over TCP without Nagle's delay."""

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Caller:
    """JSON calls over one kept-alive connection."""

    def __init__(self, connection: http.client.HTTPConnection, prefix: str = "", headers: dict[str, str] | None = None) -> None:
        self._connection = connection
        self._prefix = prefix
        self._headers = headers or {}

    def call(self, method: str, path: str, body: object = None, expect: tuple[int, ...] = (200, 201, 204)) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = dict(self._headers)
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            self._connection.request(method, self._prefix + path, data, headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            raise Failed(f"{method} {path}: {error!r}") from error
        if answer.status not in expect:
            raise Failed(f"{method} {path}: {answer.status} {text[:300].decode(errors='replace')}")
        kind = answer.headers.get("Content-Type", "")
        return json.loads(text) if text and "json" in kind else text

    def close(self) -> None:
        self._connection.close()


def caller_for(url: str, headers: dict[str, str]) -> Caller:
    parts = urlsplit(url)
    if parts.scheme != "http":
        raise Failed(f"the bench speaks plain HTTP to this machine, not {url}")
    return Caller(TCPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=CALL_SECONDS), parts.path, headers)


class Martlet:
    """The Martlet of the environment."""

    def __init__(self) -> None:
        self.url = os.environ["DAYTONA_API_URL"].rstrip("/")
        self.key = os.environ["DAYTONA_API_KEY"]
        self.state = Path(os.environ["MARTLET_STATE"])
        self.bearer = {"Authorization": f"Bearer {self.key}"}

    def api(self, key: str | None = None) -> Caller:
        return caller_for(self.url, {"Authorization": f"Bearer {key}"} if key else self.bearer)

    def toolbox(self, sandbox: dict[str, Any]) -> Caller:
        return caller_for(f"{sandbox['toolboxProxyUrl']}/{sandbox['id']}", self.bearer)

    def create(self, api: Caller, **body: Any) -> dict[str, Any]:
        """POST, and if the answer is not `started` yet, GET until it is."""
        body.setdefault("autoStopInterval", 0)
        body["labels"] = {"martlet-bench": RUN}
        made = api.call("POST", "/sandbox", body)
        end = time.monotonic() + CALL_SECONDS
        while made["state"] != "started":
            if made["state"] in ("error", "build_failed", "destroyed") or time.monotonic() > end:
                raise Failed(f"sandbox {made['id']} is {made['state']}: {made.get('errorReason')}")
            time.sleep(0.01)
            made = api.call("GET", f"/sandbox/{made['id']}")
        return made

    def delete(self, api: Caller, identifier: str) -> None:
        """DELETE, and wait until it is gone, asking as often as the SDK does: each question costs the machine that is measured."""
        api.call("DELETE", f"/sandbox/{identifier}", expect=(200, 404))
        end = time.monotonic() + CALL_SECONDS
        while time.monotonic() < end:
            if isinstance(found := api.call("GET", f"/sandbox/{identifier}", expect=(200, 404)), dict) and found.get("statusCode") == 404:
                return
            time.sleep(0.1)
        raise Failed(f"sandbox {identifier} is not gone after {CALL_SECONDS} s")

    def pid(self, part: str) -> int:
        return int((self.state / "run" / f"{part}.pid").read_text().split()[0])


class Engine:
    """Docker's own API: the peer of create, start and exec."""

    def __init__(self) -> None:
        self.host = os.environ["MARTLET_DOCKER_HOST"]
        self._path = self.host.removeprefix("unix://")
        self._network = f"martlet-bench-{RUN}"

    def caller(self) -> Caller:
        return Caller(UnixConnection(self._path), "/v1.41")

    def make_network(self) -> None:
        """A bridge of the bench's own, as the runner's is one: the engine's default bridge may be off."""
        body = {"Name": self._network, "Driver": "bridge", "Options": {"com.docker.network.bridge.enable_icc": "false"}}
        self.caller().call("POST", "/networks/create", body)

    def remove_network(self) -> None:
        self.caller().call("DELETE", f"/networks/{self._network}", expect=(204, 404))

    def container_of(self, sandbox: str) -> dict[str, Any]:
        caller = self.caller()
        found = caller.call("GET", '/containers/json?all=true&filters={"label":["martlet.sandbox=%s"]}' % sandbox)
        if len(found) != 1:
            raise Failed(f"sandbox {sandbox} has {len(found)} containers")
        return caller.call("GET", f"/containers/{found[0]['Id']}/json")

    def peer_of(self, sandbox: str) -> dict[str, Any]:
        """The same container without Martlet: image, limits, capabilities, init and disk quota as the sandbox's own."""
        inspected = self.container_of(sandbox)
        host = inspected["HostConfig"]
        same = (
            "Memory MemorySwap NanoCpus CpuQuota CpuPeriod CpuShares PidsLimit Init CapDrop CapAdd SecurityOpt StorageOpt Ulimits LogConfig "
            "Binds Mounts IpcMode ShmSize"
        ).split()
        return {
            "Image": inspected["Config"]["Image"], "Entrypoint": [], "Cmd": ["sleep", "3600"],
            "HostConfig": {name: host[name] for name in same if host.get(name) not in (None, [], {}, "")} | {"NetworkMode": self._network},
            "Labels": {"martlet-bench": RUN},
        }  # fmt: skip

    def run(self, caller: Caller, body: dict[str, Any]) -> str:
        identifier = caller.call("POST", "/containers/create", body)["Id"]
        caller.call("POST", f"/containers/{identifier}/start")
        return str(identifier)

    def exec_true(self, caller: Caller, container: str) -> None:
        """What `docker exec CONTAINER true` does, to its exit code."""
        made = caller.call("POST", f"/containers/{container}/exec", {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True})
        caller.call("POST", f"/exec/{made['Id']}/start", {"Detach": False, "Tty": False})
        done = caller.call("GET", f"/exec/{made['Id']}/json")
        if done["ExitCode"] != 0:
            raise Failed(f"docker exec of true gave {done['ExitCode']}")

    def remove(self, caller: Caller, container: str) -> None:
        caller.call("DELETE", f"/containers/{container}?force=true&v=true", expect=(204, 404))

    def clear(self) -> None:
        caller = self.caller()
        for each in caller.call("GET", '/containers/json?all=true&filters={"label":["martlet-bench=%s"]}' % RUN):
            if "martlet.sandbox" not in each["Labels"]:
                self.remove(caller, each["Id"])
        self.remove_network()


class Database:
    """psql with Martlet's database."""

    def __init__(self) -> None:
        parts = urlsplit(os.environ["MARTLET_DATABASE_URL"])
        self._environment = {
            **os.environ, "PGHOST": parts.hostname or "127.0.0.1", "PGPORT": str(parts.port or 5432),
            "PGUSER": unquote(parts.username or "postgres"), "PGPASSWORD": unquote(parts.password or ""),
            "PGDATABASE": parts.path.lstrip("/") or "postgres",
        }  # fmt: skip

    def run(self, text: str, **parameters: object) -> str:
        command = ["psql", "-XqAt", "--set", "ON_ERROR_STOP=1"]
        for name, value in parameters.items():
            command += ["--set", f"{name}={value}"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=self._environment, timeout=600)
        if done.returncode != 0:
            raise Failed(done.stderr.strip())
        return done.stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LooseDaemon:
    """A copy of the daemon on this machine's loopback: the upstream of nginx, and the subject of start times."""

    def __init__(self, martlet: Martlet) -> None:
        candidates = sorted((martlet.state / "daemon").glob("**/martlet-daemon"))
        if not candidates:
            raise Failed(f"no martlet-daemon below {martlet.state}/daemon")
        self.binary = candidates[0]
        self.port = free_port()
        self.token = secrets.token_hex(32)
        self.headers = {"X-Martlet-Token": self.token}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds from spawning it to its first answer."""
        environment = {
            "PATH": os.environ["PATH"], "HOME": "/tmp", "MARTLET_DAEMON_TOKEN": self.token, "MARTLET_DAEMON_PORT": str(self.port),
            "MARTLET_SANDBOX_ID": "00000000-0000-4000-8000-000000000000",
        }  # fmt: skip
        begun = time.monotonic()
        self._process = subprocess.Popen(
            [self.binary, "--", "sleep", "3600"], env=environment, cwd="/tmp", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            try:
                caller = caller_for(f"http://127.0.0.1:{self.port}", self.headers)
                caller.call("GET", "/version")
                caller.close()
                return time.monotonic() - begun
            except Failed:
                if time.monotonic() - begun > 10 or self._process.poll() is not None:
                    raise Failed("the daemon did not answer on this machine's loopback") from None
                time.sleep(0.0005)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes {workers};
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; keepalive_requests 1000000;
    upstream sandbox {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://sandbox; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
            proxy_set_header X-Martlet-Token {token}; proxy_set_header Authorization "";
        }}
    }}
}}
"""


class Nginx:
    """Debian's nginx as a reverse proxy, with its own configuration, port and folder."""

    def __init__(self, daemon: LooseDaemon) -> None:
        self._folder = tempfile.mkdtemp(prefix="martlet-bench-nginx.")
        os.chmod(self._folder, 0o755)
        self.port = free_port()
        configuration = NGINX.format(
            folder=self._folder, upstream=daemon.port, port=self.port, token=daemon.token, workers=os.cpu_count()
        )
        Path(self._folder, "nginx.conf").write_text(configuration)
        self._process = subprocess.Popen(["nginx", "-p", self._folder, "-c", f"{self._folder}/nginx.conf"], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise Failed(f"nginx did not start: {Path(self._folder, 'error.log').read_text()[-300:]}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)
