"""Signed file URLs: made by the SDK without a call, good for one path and one operation, until they are not."""

from __future__ import annotations

import secrets
import time
from typing import Any

import httpx
import pytest

from Rig.environment import Environment
from Rig.sandboxes import Client
from Rig.stack import Stack
from Rig.wire import check_error


@pytest.fixture
def path(client: Client, box: Any) -> str:
    made = f"/tmp/signed {secrets.token_hex(4)} ü+&%.txt"
    client.wait(box.fs.upload_file(b"signed content", made))
    return made


def test_download_and_upload(client: Client, box: Any, path: str) -> None:
    answer = httpx.get(client.wait(box.download_url(path)))
    assert (answer.status_code, answer.content) == (200, b"signed content")
    url = client.wait(box.upload_url(path))
    sent = httpx.post(url, files={"file": ("ignored.bin", b"new content")})
    assert sent.status_code == 200, sent.text
    assert sent.json()["path"] == path and sent.json()["name"]
    assert client.wait(box.fs.download_file(path)) == b"new content"


def test_a_url_is_good_for_what_it_says_only(client: Client, box: Any, path: str) -> None:
    download, upload = client.wait(box.download_url(path)), client.wait(box.upload_url(path))
    wrong = [
        httpx.post(download, files={"file": b"x"}),
        httpx.get(upload),
        httpx.get(upload.replace("/files/upload-v2", "/files/download")),
        httpx.post(download.replace("/files/download", "/files/upload-v2"), files={"file": b"x"}),
        httpx.get(download.replace("signed+", "other+")),
        httpx.get(download.replace("/files/download", "/files/info")),
        httpx.get(download.replace("/files/download", "/files")),
        httpx.get(download.replace("/files/download", "/files/../files/info")),
        httpx.delete(download.replace("/files/download", "/files")),
        httpx.get(download.replace("signature=v1_", "signature=v1_A")),
        httpx.get(download.replace("signature=v1_", "signature=v2_")),
        httpx.get(download.rpartition("&signature")[0]),
        httpx.get(download + "&path=/etc/passwd"),
        httpx.get(download.replace("path=", "path=/etc/passwd&path=")),
        httpx.get(download.replace("expires=", "expires=9")),
    ]
    for answer in wrong:
        assert answer.status_code in (400, 401, 403, 404), f"{answer.request.method} {answer.url}: {answer.status_code}"
    assert httpx.get(download).content == b"signed content", "the control: the untouched URL works"


def test_a_url_expires(client: Client, box: Any, path: str) -> None:
    url = client.wait(box.download_url(path, ttl_seconds=6))
    assert httpx.get(url).status_code == 200
    time.sleep(7)
    check_error(httpx.get(url), 401)
    forever = client.wait(box.download_url(path, ttl_seconds=0))
    assert "expires=0" in forever and httpx.get(forever).status_code == 200


def test_rotation_ends_all_urls(client: Client, box: Any, path: str) -> None:
    before = client.wait(box.download_url(path, ttl_seconds=0))
    assert httpx.get(before).status_code == 200
    client.wait(box.rotate_signing_key())
    deadline = time.monotonic() + 20
    while (answer := httpx.get(before)).status_code != 401 and time.monotonic() < deadline:
        time.sleep(0.1)
    check_error(answer, 401)
    assert httpx.get(client.wait(box.download_url(path))).content == b"signed content"


def test_a_url_survives_a_restart_of_the_proxy(sync_client: Client, shared: Any, stack: Stack) -> None:
    shared.fs.upload_file(b"still here", "/tmp/restart")
    url = shared.download_url("/tmp/restart")
    stack.restart("proxy")
    assert httpx.get(url).content == b"still here"


def test_the_key_of_one_sandbox_does_not_open_another(shared: Any, small: Any, environment: Environment) -> None:
    shared.fs.upload_file(b"x", "/tmp/mine")
    small.fs.upload_file(b"y", "/tmp/mine")
    check_error(httpx.get(shared.download_url("/tmp/mine").replace(shared.id, small.id)), 401)
    assert httpx.get(small.download_url("/tmp/mine")).content == b"y"


def test_the_signing_key_is_a_string(api: httpx.Client, shared: Any) -> None:
    answer = api.get(f"/sandbox/{shared.id}/signing-key")
    assert answer.status_code == 200 and isinstance(answer.json(), str) and len(answer.json()) >= 32
