"""A registry of the test's own: a user's, as opposed to Martlet's. It wants a login, and can be stopped and started."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import httpx

from Rig.children import LastWill, dying_with_us
from Rig.database import Database
from Rig.engine import Engine
from Rig.environment import REPOSITORY
from Rig.network import free_port

CONTROL = REPOSITORY / "ops" / "stack" / "registry"
CONTROL_SECONDS = 60
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def collect(folder: Path, before: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Gives back what no image has any more; `before` holds programs that are found before the system's."""
    path = os.environ["PATH"] if before is None else f"{before}:{os.environ['PATH']}"
    return subprocess.run(
        dying_with_us(CONTROL, "collect", folder), capture_output=True, text=True, timeout=CONTROL_SECONDS,
        env={**os.environ, "PATH": path}, start_new_session=True,
    )


class UserRegistry:
    """`ops/stack/registry` in a folder of its own, on a loopback port that an operator has opened for everybody."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self._engine = engine
        self._database = database
        self._folder = Path(tempfile.mkdtemp(prefix="martlet-test-registry-"))
        self.host = f"127.0.0.1:{free_port()}"
        self._will = LastWill(CONTROL, "purge", self._folder)
        self.start()
        self.username = (self._folder / "username").read_text().strip()
        self.password = (self._folder / "password").read_text().strip()
        database.execute("INSERT INTO docker_registry (name, host) VALUES (:'host', :'host');", host=self.host)

    def close(self) -> None:
        self._database.execute("DELETE FROM docker_registry WHERE organization_id IS NULL AND host = :'host';", host=self.host)
        assert self._will.execute(CONTROL_SECONDS) == 0, f"the registry in {self._folder} cannot be removed"

    def start(self) -> None:
        self._control("start", "--port", self.host.partition(":")[2])

    def stop(self) -> None:
        self._control("stop")

    def collect(self, before: Path | None = None) -> subprocess.CompletedProcess[str]:
        return collect(self._folder, before)

    def push(self, image: str, name: str) -> str:
        """Puts an image of the engine here as `name` (path:tag) and forgets that name there; returns the whole name."""
        repository, _, tag = name.partition(":")
        whole = f"{self.host}/{repository}"
        answer = self._engine.request("POST", f"/images/{image}/tag", repo=whole, tag=tag)
        assert answer.status_code == 201, answer.text
        login = base64.urlsafe_b64encode(json.dumps({"username": self.username, "password": self.password}).encode()).decode()
        pushed = self._engine.push(whole, tag, login)
        assert '"errorDetail"' not in pushed, pushed
        answer = self._engine.request("DELETE", f"/images/{whole}:{tag}")
        assert answer.status_code == 200, answer.text
        return f"{whole}:{tag}"

    def push_upon(self, base: str, name: str, content: bytes) -> str:
        """Puts an image here, without the engine: `base` (path:tag, which is here) and a layer more, whose only file has `content`."""
        (base_path, _, base_tag), (path, _, tag) = base.partition(":"), name.partition(":")
        with self.client() as wire:
            manifest = wire.get(f"/{base_path}/manifests/{base_tag}", headers={"Accept": MANIFEST}).json()
            config = wire.get(f"/{base_path}/blobs/{manifest['config']['digest']}", follow_redirects=True).json()
            for layer in manifest["layers"]:
                mounted = wire.post(f"/{path}/blobs/uploads/", params={"mount": layer["digest"], "from": base_path})
                assert mounted.status_code == 201, mounted.text
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as tar:
                entry = tarfile.TarInfo("content")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            layer, config["rootfs"]["diff_ids"] = gzip.compress(packed.getvalue(), 1), [*config["rootfs"]["diff_ids"], digest(packed.getvalue())]
            config["history"] = [*config.get("history", []), {"created_by": f"content of {name}"}]
            text = json.dumps(config).encode()
            manifest["config"].update(digest=self._put_blob(wire, path, text), size=len(text))
            manifest["layers"].append({**manifest["layers"][-1], "digest": self._put_blob(wire, path, layer), "size": len(layer)})
            put = wire.put(f"/{path}/manifests/{tag}", content=json.dumps(manifest), headers={"Content-Type": MANIFEST})
            assert put.status_code == 201, put.text
        return f"{self.host}/{path}:{tag}"

    def list_of(self, name: str, tag: str) -> str:
        """Puts a list of images here (under another tag of `name`'s path) of which that one is this machine's; the whole name."""
        path, _, of = name.removeprefix(f"{self.host}/").partition(":")
        with self.client() as wire:
            found = wire.get(f"/{path}/manifests/{of}", headers={"Accept": MANIFEST})
            entry = {"mediaType": MANIFEST, "size": len(found.content), "digest": digest(found.content)}
            machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
            other = {"platform": {"os": "windows", "architecture": machine}, **entry}
            manifests = [other, {"platform": {"os": "linux", "architecture": machine}, **entry}]
            put = wire.put(
                f"/{path}/manifests/{tag}", headers={"Content-Type": MANIFEST_LIST},
                content=json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_LIST, "manifests": manifests}),
            )  # fmt: skip
            assert put.status_code == 201, put.text
        return f"{self.host}/{path}:{tag}"

    @staticmethod
    def _put_blob(wire: httpx.Client, path: str, content: bytes) -> str:
        begun = wire.post(f"/{path}/blobs/uploads/")
        assert begun.status_code == 202, begun.text
        put = wire.put(httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest(content)}), content=content)
        assert put.status_code == 201, put.text
        return digest(content)

    def client(self) -> httpx.Client:
        """The registry's own interface."""
        return httpx.Client(base_url=f"http://{self.host}/v2", auth=(self.username, self.password), timeout=30)

    def _control(self, action: str, *arguments: str) -> None:
        done = subprocess.run(
            dying_with_us(CONTROL, action, self._folder, *arguments), capture_output=True, text=True, timeout=CONTROL_SECONDS
        )
        assert done.returncode == 0, f"registry {action}: {done.stdout}{done.stderr}"
