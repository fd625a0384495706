"""Language servers: symbols and completions from the servers of the default image, and what happens when they die."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterator
from urllib.parse import unquote

import httpx
import pytest
from daytona import (
    DaytonaBadRequestError,
    DaytonaError,
    DaytonaFileNotFoundError,
    DaytonaLspServerNotInitializedError,
    LspCompletionPosition,
    LspLanguageId,
)

from Rig import wire
from Rig.environment import Environment
from Rig.sandboxes import Client
from Rig.waiting import eventually
from Rig.wire import check_error

PYTHON = '''import math


class Martlet:
    """A bird."""

    legs = 0

    def fly(self, height: int) -> str:
        return "up" * height


bird = Martlet()
bird.
'''
TYPESCRIPT = """import { feather } from "./feather";

export class Martlet {
  fly(height: number): string { return feather(height); }
}
const bird = new Martlet();
bird.
"""
SOURCES = {
    "python": {"a.py": PYTHON, "feather.py": "def feather(count):\n    return count\n", "é ü%41.py": "def odd(): pass\n"},
    "typescript": {"a.ts": TYPESCRIPT, "feather.ts": "export function feather(n: number) { return 'x'.repeat(n); }\n"},
    "javascript": {
        "a.js": "class Martlet {\n  fly() {}\n}\nconst bird = new Martlet();\n\n\nbird.\n",
        "feather.js": "export function feather() {}\n",
    },
}
FIRST = {"python": "a.py", "typescript": "a.ts", "javascript": "a.js"}
AFTER_DOT = {"python": (13, 5), "typescript": (6, 5), "javascript": (6, 5)}
CLASS, FUNCTION = 5, 12


@pytest.fixture
def toolbox(shared: Any, environment: Environment) -> Iterator[httpx.Client]:
    with wire.client(f"{shared.toolbox_proxy_url}/{shared.id}", environment.api_key) as made:
        yield made


@pytest.fixture
def project(shared: Any) -> Iterator[str]:
    """A folder of its own for each test, below the working directory."""
    name = f"lsp-{secrets.token_hex(4)}"
    yield name
    shared.process.exec(f"rm -rf {name}")


def fill(shared: Any, project: str, language: str) -> None:
    for name, text in SOURCES[language].items():
        shared.fs.upload_file(text.encode(), f"{project}/{name}")


def server_processes(shared: Any) -> int:
    return int(shared.process.exec("pgrep -fc 'langserve[r].index|tsserve[r].js' || true").result)


@pytest.mark.deadline(400)
@pytest.mark.parametrize("language", ["python", "typescript", "javascript"])
def test_a_whole_life(client: Client, box: Any, shared: Any, project: str, language: str) -> None:
    fill(shared, project, language)
    lsp = box.create_lsp_server(LspLanguageId(language), project)
    client.wait(lsp.start())
    client.wait(lsp.start())
    first = FIRST[language]
    client.wait(lsp.did_open(first))
    symbols = client.wait(lsp.document_symbols(first))
    found = {symbol.name: symbol for symbol in symbols}
    assert {"Martlet", "fly", "bird"} <= found.keys()
    assert found["Martlet"].kind == CLASS
    assert found["Martlet"].location.uri.endswith(f"/{project}/{first}")
    assert found["Martlet"].location.range.end.line > found["Martlet"].location.range.start.line
    names = [symbol.name for symbol in symbols]
    assert names.index("Martlet") < names.index("fly"), "what was nested comes after what it was in"
    line, character = AFTER_DOT[language]
    completions = client.wait(lsp.completions(first, LspCompletionPosition(line=line, character=character)))
    assert "fly" in [item.label for item in completions.items]
    assert all(item.documentation is None or isinstance(item.documentation, dict) for item in completions.items)

    def whole_project() -> bool:
        seen = client.wait(lsp.sandbox_symbols("feather"))
        assert [s.name for s in client.wait(lsp.workspace_symbols("feather"))] == [s.name for s in seen]
        return any(s.name == "feather" and s.kind == FUNCTION and "/feather." in s.location.uri for s in seen)

    eventually(whole_project, 120, "the project's symbols")
    client.wait(lsp.did_close(first))
    client.wait(lsp.did_close(first))
    client.wait(lsp.stop())
    with pytest.raises(DaytonaLspServerNotInitializedError):
        client.wait(lsp.document_symbols(first))
    with pytest.raises(DaytonaLspServerNotInitializedError):
        client.wait(lsp.stop())


def test_nothing_works_before_the_start(client: Client, box: Any, project: str) -> None:
    lsp = box.create_lsp_server("python", project)
    for call in (
        lambda: lsp.did_open("a.py"),
        lambda: lsp.did_close("a.py"),
        lambda: lsp.document_symbols("a.py"),
        lambda: lsp.sandbox_symbols("x"),
        lambda: lsp.completions("a.py", LspCompletionPosition(line=0, character=0)),
        lsp.stop,
    ):
        with pytest.raises(DaytonaLspServerNotInitializedError) as raised:
            client.wait(call())
        assert (raised.value.status_code, raised.value.source) == (400, "DAYTONA_DAEMON")


@pytest.mark.deadline(300)
def test_paths_as_the_sdk_sends_them(client: Client, box: Any, shared: Any, project: str) -> None:
    """`file://` and any path: from the project, from the working directory, absolute; not escaped."""
    fill(shared, project, "python")
    lsp = box.create_lsp_server("python", project)
    client.wait(lsp.start())
    root = client.wait(box.get_work_dir())
    for path in ("feather.py", f"{project}/feather.py", f"{root}/{project}/feather.py", "./x/../feather.py"):
        symbols = client.wait(lsp.document_symbols(path))
        assert symbols[0].name == "feather", path
        assert symbols[0].location.uri == f"file://{root}/{project}/feather.py"
    odd = client.wait(lsp.document_symbols("é ü%41.py"))
    assert [symbol.name for symbol in odd] == ["odd"]
    assert unquote(odd[0].location.uri).endswith("/é ü%41.py")
    with pytest.raises(DaytonaFileNotFoundError):
        client.wait(lsp.document_symbols("nowhere.py"))
    with pytest.raises(DaytonaFileNotFoundError):
        client.wait(lsp.did_open("nowhere.py"))
    with pytest.raises(DaytonaBadRequestError):
        client.wait(lsp.document_symbols("."))
    client.wait(lsp.stop())


@pytest.mark.deadline(300)
def test_files_that_change_are_seen(shared: Any, project: str) -> None:
    """Nobody says what was typed, so that what is on the disk counts."""
    fill(shared, project, "python")
    lsp = shared.create_lsp_server("python", project)
    lsp.start()
    lsp.did_open("feather.py")
    assert [symbol.name for symbol in lsp.document_symbols("feather.py")][0] == "feather"
    shared.fs.upload_file(b"def plume(): pass\n", f"{project}/feather.py")
    assert [symbol.name for symbol in lsp.document_symbols("feather.py")] == ["plume"]
    shared.process.exec(f"echo 'def quill(): pass' > {project}/quill.py")
    eventually(lambda: [s.name for s in lsp.sandbox_symbols("quill")] == ["quill"], 60, "a new file to be known")
    lsp.stop()


@pytest.mark.deadline(300)
def test_many_starts_make_one_server_and_stop_ends_it(shared: Any, project: str) -> None:
    fill(shared, project, "python")
    before = server_processes(shared)
    servers = [shared.create_lsp_server("python", project) for _ in range(12)]
    with ThreadPoolExecutor(12) as workers:
        list(workers.map(lambda each: each.start(), servers))
    # What a server is about to start bears the server's name for a moment.
    eventually(lambda: server_processes(shared) == before + 1, 20, "one server to run")
    with ThreadPoolExecutor(12) as workers:
        answers = list(workers.map(lambda each: [s.name for s in each.document_symbols("feather.py")], servers))
    assert all(names[0] == "feather" for names in answers)
    servers[0].stop()
    eventually(lambda: server_processes(shared) == before, 40, "the server to be gone")


@pytest.mark.deadline(300)
def test_a_killed_server_comes_back(client: Client, box: Any, shared: Any, project: str) -> None:
    fill(shared, project, "typescript")
    lsp = box.create_lsp_server("typescript", project)
    client.wait(lsp.start())
    client.wait(lsp.did_open("a.ts"))
    shared.process.exec("pkill -9 -f 'tsserve[r].js'")
    assert "Martlet" in [symbol.name for symbol in client.wait(lsp.document_symbols("a.ts"))]
    client.wait(lsp.stop())


@pytest.mark.parametrize("language", ["python", "typescript"])
def test_an_image_without_servers_says_what_to_install(small: Any, language: str) -> None:
    with pytest.raises(DaytonaError) as raised:
        small.create_lsp_server(language, "/root").start()
    assert raised.value.status_code == 501
    assert "basedpyright" in str(raised.value) or "typescript-language-server" in str(raised.value)


def test_bad_requests(toolbox: httpx.Client) -> None:
    for body, field in (
        ({"languageId": "cobol", "pathToProject": "."}, "cobol"),
        ({"languageId": "python"}, "pathToProject"),
        ({"pathToProject": "."}, "languageId"),
        ({"languageId": "python", "pathToProject": ""}, "path"),
        ({"languageId": "python", "pathToProject": "a\0b"}, "NUL"),
        ({"languageId": 7, "pathToProject": "."}, "languageId"),
    ):
        for route in ("start", "stop"):
            check_error(toolbox.post(f"/lsp/{route}", json=body), 400, field)
    check_error(toolbox.post("/lsp/start", json={"languageId": "python", "pathToProject": "/no/such"}), 404, "/no/such")
    check_error(toolbox.post("/lsp/start", json={"languageId": "python", "pathToProject": "/etc/passwd"}), 400, "/etc/passwd")
    good = {"languageId": "python", "pathToProject": ".", "uri": "file://x.py"}
    for position in ({"line": -1, "character": 0}, {"line": 0, "character": 2**31}):
        check_error(toolbox.post("/lsp/completions", json={**good, "position": position}), 400, "position")
    check_error(toolbox.post("/lsp/completions", json=good), 400, "position")
    check_error(toolbox.get("/lsp/document-symbols", params={"languageId": "python", "pathToProject": "."}), 400, "uri")
