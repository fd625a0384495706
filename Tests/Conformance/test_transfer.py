"""Half a gigabyte up and down: the same bytes, and flat memory in every process on the way."""

from __future__ import annotations

import hashlib
import io
import time
from typing import Any

import pytest

from Rig.engine import Engine
from Rig.processes import MemoryWatch, daemon_of
from Rig.sandboxes import Client, Sandboxes, add_snapshot
from Rig.stack import Stack
from Rig.waiting import eventually

MEBIBYTE = 2**20
SIZE = 500 * MEBIBYTE
# "Flat" is independent of the size; what is allowed here are buffers, an eighth of the file.
GROWTH_LIMIT_BYTES = 64 * MEBIBYTE


class Pattern(io.RawIOBase):
    """A file of `SIZE` bytes that is nowhere: block n is 1 MiB that depends on n. Hashes what was read of it."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._sent = 0
        self._block = hashlib.shake_256(b"martlet").digest(MEBIBYTE)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        number, offset = divmod(self._sent, MEBIBYTE)
        if self._sent >= SIZE:
            return b""
        turn = number % 251
        chunk = (self._block[turn:] + self._block[:turn])[offset:]
        chunk = chunk[: size if size > 0 else MEBIBYTE]
        self._sent += len(chunk)
        self.hash.update(chunk)
        return chunk


@pytest.mark.deadline(400)
def test_half_a_gigabyte_up_and_down(
    client: Client, sandboxes: Sandboxes, busybox: str, stack: Stack, engine: Engine, database: Any
) -> None:
    add_snapshot(database, f"{busybox}-3g", "martlet/busybox:test", disk_gib=3)
    made = sandboxes.create(snapshot=f"{busybox}-3g", auto_stop_interval=0)
    box = client.wait(client.sdk.get(made.id))
    daemon = daemon_of(engine.container(made.id)["State"]["Pid"])
    watched = {"proxy": stack.pid("proxy"), "runner": stack.pid("runner"), "daemon": daemon}
    pattern, received = Pattern(), hashlib.sha256()
    with MemoryWatch(watched) as watch:
        begun = time.monotonic()
        client.wait(box.fs.upload_file_stream(pattern, "/root/big"))
        up = time.monotonic() - begun
        assert client.wait(box.fs.get_file_info("/root/big")).size == SIZE
        begun = time.monotonic()
        if client.flavor == "sync":
            for chunk in box.fs.download_file_stream("/root/big"):
                received.update(chunk)
        else:
            client.wait(hash_stream(box, received))
        down = time.monotonic() - begun
    assert received.hexdigest() == pattern.hash.hexdigest()
    growth = {name: f"{value / MEBIBYTE:.1f}" for name, value in watch.growth().items()}
    print(f"up {SIZE / MEBIBYTE / up:.0f} MiB/s, down {SIZE / MEBIBYTE / down:.0f} MiB/s, growth in MiB: {growth}")
    assert all(value < GROWTH_LIMIT_BYTES for value in watch.growth().values()), growth
    sandboxes.remove([made.id])


async def hash_stream(box: Any, received: Any) -> None:
    async for chunk in await box.fs.download_file_stream("/root/big"):
        received.update(chunk)


@pytest.mark.deadline(240)
def test_a_slow_reader_slows_the_writer_down(shared: Any, environment: Any, stack: Stack, engine: Engine) -> None:
    """Back-pressure: a reader that stops must stop the daemon, not fill the memory of anything between."""
    import httpx

    shared.process.exec("head -c 300000000 /dev/zero > slow")
    daemon = daemon_of(engine.container(shared.id)["State"]["Pid"])
    watched = {"proxy": stack.pid("proxy"), "runner": stack.pid("runner"), "daemon": daemon}
    url = f"{shared.toolbox_proxy_url}/{shared.id}/files/bulk-download"
    headers = {"Authorization": f"Bearer {environment.api_key}"}
    with MemoryWatch(watched) as watch, httpx.stream("POST", url, json={"paths": ["slow"]}, headers=headers, timeout=60) as answer:
        chunks = answer.iter_raw()
        next(chunks)
        time.sleep(4)
        seen = sum(map(len, chunks))
    assert seen > 290_000_000
    growth = watch.growth()
    assert all(value < GROWTH_LIMIT_BYTES for value in growth.values()), growth
    shared.process.exec("rm slow")


def test_an_upload_broken_off_leaves_nothing_behind(shared: Any, environment: Any) -> None:
    import socket
    from urllib.parse import urlsplit

    shared.fs.upload_file(b"the old content", "target")
    parts = urlsplit(shared.toolbox_proxy_url)
    with socket.create_connection((parts.hostname, parts.port or 80)) as peer:
        peer.sendall(
            f"POST {parts.path}/{shared.id}/files/bulk-upload HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Authorization: Bearer {environment.api_key}\r\nContent-Type: multipart/form-data; boundary=B\r\n"
            "Content-Length: 1000000\r\n\r\n--B\r\nContent-Disposition: form-data; name=\"files[0].path\"\r\n\r\ntarget\r\n"
            "--B\r\nContent-Disposition: form-data; name=\"files[0].file\"; filename=\"x\"\r\n\r\n".encode() + b"y" * 100_000
        )
        time.sleep(0.5)

    def is_tidy() -> bool:
        left = shared.process.exec("ls -A | grep -v -x -e target | grep -i -e target -e upload -e tmp -e partial; true").result
        assert left == "", f"a broken upload left {left!r}"
        return True

    eventually(is_tidy, 30, "what a broken upload had begun to be removed")
    assert shared.fs.download_file("target") in (b"the old content", b"y" * 100_000)
