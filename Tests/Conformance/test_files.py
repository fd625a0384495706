"""Files by the SDK: every method, both flavours, odd names, and errors with their codes."""

from __future__ import annotations

import secrets
from datetime import datetime, timezone
from typing import Any

import httpx
import pytest
from daytona import (
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaError,
    DaytonaFileAccessDeniedError,
    DaytonaFileNotFoundError,
    DaytonaInvalidFilePathError,
    DaytonaNotFoundError,
    FileDownloadRequest,
    FileUpload,
)

from Rig import wire
from Rig.environment import Environment
from Rig.sandboxes import Client

ODD_NAMES = [
    "plain.txt", "with space.txt", "ünï-漢字-🐦.txt", 'quo"te\'s.txt', "back\\slash.txt", "per%20cent%.txt", "plus+and&eq=.txt",
    "semi;colon,comma.txt", "-leading-dash", ".hidden", "trailing. ", "x" * 255,
]  # fmt: skip


@pytest.fixture
def folder(client: Client, box: Any) -> str:
    """A new folder, absolute."""
    made = f"{client.wait(box.get_work_dir())}/{client.flavor}-{secrets.token_hex(4)}"
    client.wait(box.fs.create_folder(made, "755"))
    return made


def test_upload_and_download(client: Client, box: Any, folder: str, tmp_path: Any) -> None:
    content = secrets.token_bytes(300_000)
    client.wait(box.fs.upload_file(content, f"{folder}/a/b/c.bin"))
    assert client.wait(box.fs.download_file(f"{folder}/a/b/c.bin")) == content
    local = tmp_path / "local.bin"
    local.write_bytes(content[::-1])
    client.wait(box.fs.upload_file(str(local), f"{folder}/a/b/c.bin"))
    client.wait(box.fs.download_file(f"{folder}/a/b/c.bin", str(tmp_path / "sub" / "back.bin")))
    assert (tmp_path / "sub" / "back.bin").read_bytes() == content[::-1]


def test_an_empty_file(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.upload_file(b"", f"{folder}/empty"))
    assert client.wait(box.fs.download_file(f"{folder}/empty")) == b""
    assert client.wait(box.fs.get_file_info(f"{folder}/empty")).size == 0


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 65535, 65536, 65537, 2**20 + 1])
def test_sizes_around_buffers(client: Client, box: Any, folder: str, size: int) -> None:
    content = (b"\r\n--" + secrets.token_bytes(16)) * (size // 20 + 1)
    client.wait(box.fs.upload_file(content[:size], f"{folder}/sized"))
    assert client.wait(box.fs.download_file(f"{folder}/sized")) == content[:size]


def test_odd_names(client: Client, box: Any, folder: str) -> None:
    """All in one call, so that a name that breaks the framing breaks its neighbours too."""
    # aiohttp itself refuses to send control characters in a part's header.
    names = ODD_NAMES + (["tab\tand\nnewline"] if client.flavor == "sync" else [])
    uploads = [FileUpload(f"content of {name}".encode(), f"{folder}/{name}") for name in names]
    client.wait(box.fs.upload_files(uploads))
    listed = client.wait(box.fs.list_files(folder))
    assert sorted(each.name for each in listed) == sorted(names)
    requests = [FileDownloadRequest(source=f"{folder}/{name}") for name in names]
    for name, answer in zip(names, client.wait(box.fs.download_files(requests))):
        assert (answer.error, answer.result) == (None, f"content of {name}".encode()), name
    for name in names:
        assert client.wait(box.fs.get_file_info(f"{folder}/{name}")).name == name
        client.wait(box.fs.delete_file(f"{folder}/{name}"))
    assert client.wait(box.fs.list_files(folder)) == []


def test_relative_paths_are_from_the_working_directory(client: Client, box: Any) -> None:
    name = f"relative-{secrets.token_hex(4)}/file"
    client.wait(box.fs.upload_file(b"here", name))
    assert client.wait(box.process.exec(f"cat {name}")).result == "here"
    assert client.wait(box.fs.download_file(name)) == b"here"


def test_uploads_belong_to_the_user(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.upload_file(b"x", f"{folder}/mine"))
    who = client.wait(box.process.exec("id -un; id -gn")).result.split()
    info = client.wait(box.fs.get_file_info(f"{folder}/mine"))
    assert [info.owner, info.group] == who


def test_download_of_several_with_errors(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.upload_files([FileUpload(b"one", f"{folder}/1"), FileUpload(b"two", f"{folder}/2")]))
    sources = [f"{folder}/1", f"{folder}/missing", folder, "/etc/shadow", f"{folder}/2"]
    one, missing, directory, secret, two = client.wait(
        box.fs.download_files([FileDownloadRequest(source=each) for each in sources])
    )
    assert (one.result, two.result) == (b"one", b"two")
    assert (missing.error_details.status_code, missing.error_details.code) == (404, "FILE_NOT_FOUND")
    assert (directory.error_details.status_code, directory.error_details.code) == (400, "INVALID_FILE_PATH")
    assert (secret.error_details.status_code, secret.error_details.code) == (403, "FILE_ACCESS_DENIED")
    for failed in (missing, directory, secret):
        assert failed.result is None and failed.error_details.source == "DAYTONA_DAEMON"


def test_errors_of_one_file(client: Client, box: Any, folder: str) -> None:
    with pytest.raises(DaytonaFileNotFoundError):
        client.wait(box.fs.download_file(f"{folder}/missing"))
    with pytest.raises(DaytonaInvalidFilePathError):
        client.wait(box.fs.download_file(folder))
    with pytest.raises(DaytonaFileAccessDeniedError):
        client.wait(box.fs.download_file("/etc/shadow"))
    for call in (box.fs.get_file_info, box.fs.list_files, box.fs.delete_file):
        with pytest.raises(DaytonaNotFoundError):
            client.wait(call(f"{folder}/missing"))


def test_an_upload_that_cannot_be_written_says_which(client: Client, box: Any, folder: str) -> None:
    uploads = [FileUpload(b"fine", f"{folder}/fine"), FileUpload(b"x" * 100_000, "/proc/no/such"), FileUpload(b"too", f"{folder}/too")]
    with pytest.raises(DaytonaError, match="/proc/no") as raised:
        client.wait(box.fs.upload_files(uploads))
    assert raised.value.status_code == 400
    assert client.wait(box.fs.download_file(f"{folder}/fine")) == b"fine"
    with pytest.raises(DaytonaError, match=folder):
        client.wait(box.fs.upload_file(b"x", folder))


def test_streams(client: Client, box: Any, folder: str, tmp_path: Any) -> None:
    content = secrets.token_bytes(3_000_000)
    sent: list[int] = []
    got: list[Any] = []
    local = tmp_path / "streamed"
    local.write_bytes(content)
    client.wait(
        box.fs.upload_file_stream(str(local), f"{folder}/streamed", on_progress=lambda each: sent.append(each.bytes_sent))
    )
    assert sent[-1] == len(content)
    chunks = client.collect(box.fs.download_file_stream(f"{folder}/streamed", on_progress=got.append))
    assert b"".join(chunks) == content
    assert (got[-1].bytes_received, got[-1].total_bytes) == (len(content), len(content))
    client.wait(box.fs.upload_file_stream(content[:100], f"{folder}/bytes"))
    assert b"".join(client.collect(box.fs.download_file_stream(f"{folder}/bytes"))) == content[:100]
    with pytest.raises(DaytonaFileNotFoundError):
        client.collect(box.fs.download_file_stream(f"{folder}/missing"))


def test_folders(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.create_folder(f"{folder}/a/b/c", "700"))
    info = client.wait(box.fs.get_file_info(f"{folder}/a/b/c"))
    assert (info.is_dir, info.permissions, info.mode) == (True, "0700", "drwx------")
    for wrong in ("abc", "9999", "-1"):
        with pytest.raises(DaytonaBadRequestError):
            client.wait(box.fs.create_folder(f"{folder}/wrong", wrong))
    client.wait(box.fs.upload_file(b"x", f"{folder}/file"))
    with pytest.raises(DaytonaError) as raised:
        client.wait(box.fs.create_folder(f"{folder}/file", "755"))
    assert raised.value.status_code in (400, 409)


def test_info(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.upload_file(b"12345", f"{folder}/five"))
    info = client.wait(box.fs.get_file_info(f"{folder}/five"))
    assert (info.name, info.size, info.is_dir, info.mode[0]) == ("five", 5, False, "-")
    assert info.mod_time
    written = datetime.fromisoformat(info.modified_at.replace("Z", "+00:00"))
    assert abs((datetime.now(timezone.utc) - written).total_seconds()) < 120


def test_list_and_depth(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.upload_files([FileUpload(b"x", f"{folder}/{path}") for path in ("top", "a/one", "a/b/two", "a/b/c/three")]))

    def paths(depth: int | None) -> list[str]:
        listed = client.wait(box.fs.list_files(folder, depth=depth))
        return sorted((each.path or f"{folder}/{each.name}").removeprefix(folder + "/") for each in listed)

    assert paths(None) == ["a", "top"]
    assert paths(1) == ["a", "top"]
    assert paths(2) == ["a", "a/b", "a/one", "top"]
    assert paths(9) == ["a", "a/b", "a/b/c", "a/b/c/three", "a/b/two", "a/one", "top"]


def test_a_list_does_not_follow_links_in_circles(client: Client, box: Any, folder: str) -> None:
    client.wait(box.process.exec("mkdir d; ln -s .. d/up; ln -s /nowhere dangling; ln -s / root; mkfifo pipe", cwd=folder))
    listed = {each.name: each for each in client.wait(box.fs.list_files(folder, depth=8))}
    assert {"d", "up", "dangling", "root", "pipe"} == set(listed)


def test_delete(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.upload_file(b"x", f"{folder}/d/file"))
    with pytest.raises(DaytonaBadRequestError):
        client.wait(box.fs.delete_file(f"{folder}/d"))
    client.wait(box.process.exec("ln -s /usr/bin d/link", cwd=folder))
    client.wait(box.fs.delete_file(f"{folder}/d", recursive=True))
    assert client.wait(box.fs.list_files(folder)) == []
    assert client.wait(box.process.exec("ls /usr/bin | head -1")).result, "a link's target must stay"


def test_move(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.upload_file(b"moved", f"{folder}/from"))
    client.wait(box.fs.move_files(f"{folder}/from", f"{folder}/to"))
    assert client.wait(box.fs.download_file(f"{folder}/to")) == b"moved"
    client.wait(box.fs.upload_file(b"other", f"{folder}/from"))
    with pytest.raises(DaytonaConflictError):
        client.wait(box.fs.move_files(f"{folder}/from", f"{folder}/to"))
    for source, destination in ((f"{folder}/missing", f"{folder}/x"), (f"{folder}/from", f"{folder}/no/parent")):
        with pytest.raises(DaytonaNotFoundError):
            client.wait(box.fs.move_files(source, destination))
    client.wait(box.fs.create_folder(f"{folder}/d", "755"))
    client.wait(box.fs.move_files(f"{folder}/d", f"{folder}/e"))
    assert client.wait(box.fs.get_file_info(f"{folder}/e")).is_dir


def test_permissions(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.upload_file(b"x", f"{folder}/file"))
    client.wait(box.fs.set_file_permissions(f"{folder}/file", mode="640"))
    info = client.wait(box.fs.get_file_info(f"{folder}/file"))
    assert (info.permissions, info.mode) == ("0640", "-rw-r-----")
    user = client.wait(box.process.exec("id -un")).result.strip()
    client.wait(box.fs.set_file_permissions(f"{folder}/file", owner=user, group=user))
    for wrong in ({"mode": "rwx"}, {"mode": "99"}, {"owner": "nobody-by-this-name"}, {"group": "nobody-by-this-name"}):
        with pytest.raises(DaytonaBadRequestError):
            client.wait(box.fs.set_file_permissions(f"{folder}/file", **wrong))
    with pytest.raises(DaytonaFileAccessDeniedError):
        client.wait(box.fs.set_file_permissions("/etc/passwd", mode="666"))
    with pytest.raises(DaytonaNotFoundError):
        client.wait(box.fs.set_file_permissions(f"{folder}/missing", mode="644"))


def test_owner_as_root(client: Client, small: Any) -> None:
    box = client.wait(client.sdk.get(small.id))
    client.wait(box.fs.upload_file(b"x", "/root/owned"))
    client.wait(box.fs.set_file_permissions("/root/owned", owner="1234", group="2345", mode="0600"))
    assert client.wait(box.process.exec("stat -c '%u %g %a' /root/owned")).result == "1234 2345 600\n"


def test_find(client: Client, box: Any, folder: str) -> None:
    client.wait(
        box.fs.upload_files(
            [
                FileUpload(b"first\nneedle a.b here\nthird\n", f"{folder}/one.txt"),
                FileUpload("ünï needle a.b\r\nneedle axb\n".encode(), f"{folder}/deep/er/two.txt"),
                FileUpload(b"\0binary needle a.b\n", f"{folder}/binary"),
                FileUpload(b"nothing", f"{folder}/three.txt"),
            ]
        )
    )
    found = client.wait(box.fs.find_files(folder, "needle a.b"))
    seen = sorted((each.file.removeprefix(folder + "/"), each.line, each.content.strip()) for each in found)
    assert seen == [("deep/er/two.txt", 1, "ünï needle a.b"), ("one.txt", 2, "needle a.b here")]
    assert client.wait(box.fs.find_files(folder, "not there at all")) == []
    only = client.wait(box.fs.find_files(f"{folder}/one.txt", "needle"))
    assert [each.line for each in only] == [2]


def test_search(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.upload_files([FileUpload(b"x", f"{folder}/{path}") for path in ("a.py", "b.txt", "d/c.py", "d/e/[x].py")]))

    def search(pattern: str) -> list[str]:
        files = client.wait(box.fs.search_files(folder, pattern)).files
        return sorted(each.removeprefix(folder).lstrip("/") for each in files)

    assert search("*.py") == ["a.py", "d/c.py", "d/e/[x].py"]
    assert search("?.py") == ["a.py", "d/c.py"]
    assert search("[ab].*") == ["a.py", "b.txt"]
    assert search("nothing*") == []


def test_replace(client: Client, box: Any, folder: str) -> None:
    client.wait(box.fs.upload_files([FileUpload(b"a.c a.c abc", f"{folder}/1"), FileUpload(b"none", f"{folder}/2")]))
    client.wait(box.fs.set_file_permissions(f"{folder}/1", mode="750"))
    results = client.wait(box.fs.replace_in_files([f"{folder}/1", f"{folder}/2", f"{folder}/missing"], "a.c", "x$1"))
    assert [each.success for each in results] == [True, True, False]
    assert results[2].error and results[2].file == f"{folder}/missing"
    assert client.wait(box.fs.download_file(f"{folder}/1")) == b"x$1 x$1 abc"
    assert client.wait(box.fs.get_file_info(f"{folder}/1")).permissions == "0750"


def test_paths_that_are_none(box: Any, shared: Any, environment: Environment) -> None:
    with wire.client(f"{shared.toolbox_proxy_url}/{shared.id}", environment.api_key) as toolbox:
        for path in ("", "a\0b", "/" + "x" * 5000):
            for method, route in (("GET", "/files/info"), ("GET", "/files/download"), ("DELETE", "/files")):
                answer = toolbox.request(method, route, params={"path": path})
                assert answer.status_code in (400, 404), f"{route} {path[:9]!r}: {answer.status_code}"
                assert answer.json()["source"] == "DAYTONA_DAEMON" or answer.status_code == 400
        missing = toolbox.get("/files/info")
        wire.check_error(missing, 400, "path")
