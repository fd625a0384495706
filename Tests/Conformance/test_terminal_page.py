"""The web terminal on port 22222 of a sandbox, in Chromium: keys are pressed, and the screen is read."""

from __future__ import annotations

from typing import Any, Iterator

import pytest

from Rig.browser import Browser, Page
from Rig.database import Database
from Rig.engine import Engine
from Rig.preview import Preview
from Rig.waiting import eventually

PORT = 22222
WAIT_SECONDS = 60

# The lines of the terminal that is shown, as they are on the screen.
SCREEN = """(() => {
    if (!current) return '';
    const buffer = current.terminal._core.buffer, lines = [];
    for (let row = 0; row < current.terminal.rows; row++) lines.push(buffer.translateBufferLineToString(buffer.ydisp + row, true));
    return lines.join('\\n').trimEnd();
})()"""


class WebTerminal:
    """What a person sees and does."""

    def __init__(self, page: Page) -> None:
        self._page = page

    @property
    def screen(self) -> str:
        return str(self._page.evaluate(SCREEN))

    @property
    def tabs(self) -> list[str]:
        return list(self._page.evaluate("[...document.querySelectorAll('#tabs button')].map((tab) => tab.textContent)"))

    @property
    def status(self) -> str:
        return str(self._page.evaluate("document.getElementById('status').textContent"))

    def note_statuses(self) -> None:
        """From now on the page itself notes what it says."""
        self._page.evaluate(
            "(() => { const status = document.getElementById('status'); window.noted = [];"
            " new MutationObserver(() => noted.push(status.textContent))"
            ".observe(status, { childList: true, characterData: true, subtree: true }); })()"
        )

    @property
    def noted_statuses(self) -> list[str]:
        return list(self._page.evaluate("noted"))

    def await_connected(self) -> None:
        eventually(lambda: self.status == "connected", WAIT_SECONDS, "the page to say 'connected'")

    def expect(self, *lines: str) -> None:
        """Waits until these are lines of the screen."""

        def shown() -> bool:
            screen = self.screen
            assert set(lines) <= set(screen.split("\n")), screen
            return True

        eventually(shown, WAIT_SECONDS, f"{lines} on the screen")

    def run(self, command: str, *lines: str) -> None:
        self._page.type(command + "\n")
        self.expect(*lines)


@pytest.fixture(scope="module")
def preview(shared: Any, engine: Engine, database: Database) -> Iterator[Preview]:
    token = database.value("SELECT toolbox_token FROM sandbox WHERE id = :'id'", id=shared.id)
    with Preview(engine.container(shared.id)["State"]["Pid"], PORT, token) as made:
        yield made


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with Browser() as made:
        yield made


@pytest.fixture
def web(page: Page, preview: Preview, shared: Any) -> Iterator[WebTerminal]:
    page.resize(900, 600)
    page.visit(preview.url)
    web = WebTerminal(page)
    web.await_connected()
    yield web
    for each in shared.process.list_pty_sessions():
        shared.process.kill_pty_session(each.id)


def test_what_is_typed_runs_and_is_shown(web: WebTerminal) -> None:
    assert len(web.tabs) == 1
    web.run("echo $((6*7)) 'é漢'", "42 é漢")
    web.run("seq 1 300; echo e''nd", "300", "end")
    assert "1" not in web.screen.split("\n"), "older lines have moved off the screen"


def test_the_terminal_has_the_size_of_the_page(web: WebTerminal, page: Page) -> None:
    def size() -> str:
        return str(page.evaluate("`${current.terminal.rows} ${current.terminal.cols}`"))

    before = size()
    web.run("stty size", before)
    page.resize(1200, 400)
    eventually(lambda: size() != before, WAIT_SECONDS, "the terminal to fit the page again")
    rows, columns = map(int, size().split())
    assert rows < int(before.split()[0]) and columns > int(before.split()[1])
    web.run("until [ \"$(stty size)\" = '%d %d' ]; do :; done; echo fi''ts" % (rows, columns), "fits")


def test_two_terminals_stay_apart(web: WebTerminal, page: Page, shared: Any) -> None:
    web.run("mine=first; echo $mine", "first")
    page.click("#new")
    eventually(lambda: len(web.tabs) == 2, WAIT_SECONDS, "a second tab")
    web.await_connected()
    web.run("echo \"<$mine>\"", "<>")
    page.click("#tabs button:first-child")
    web.run("echo \"<$mine>\"", "<first>", "first")
    assert sorted(web.tabs) == sorted(each.id for each in shared.process.list_pty_sessions())
    page.click("#kill")
    eventually(lambda: len(web.tabs) == 1, WAIT_SECONDS, "the killed terminal's tab to be gone")
    web.expect("<>")


def test_a_reload_finds_the_terminals_that_run(web: WebTerminal, page: Page) -> None:
    web.run("kept=yes; echo be''fore", "before")
    page.click("#new")
    eventually(lambda: len(web.tabs) == 2, WAIT_SECONDS, "a second tab")
    tabs = web.tabs
    page.reload()
    eventually(lambda: web.tabs == tabs, WAIT_SECONDS, "both tabs")
    page.click("#tabs button:first-child")
    web.await_connected()
    web.expect("before")
    web.run("echo $kept", "yes")


def test_a_connection_that_breaks_is_made_again(web: WebTerminal, preview: Preview) -> None:
    web.run("kept=yes; echo be''fore", "before")
    web.note_statuses()
    preview.cut()
    # It connects again after half a second: whoever looks now and then may not see it.
    eventually(lambda: set(web.noted_statuses) - {"connected"}, WAIT_SECONDS, "the page to notice")
    web.await_connected()
    web.expect("before")
    web.run("echo $kept", "yes")


def test_a_shell_that_ends_says_so(web: WebTerminal) -> None:
    web.run("exit 3", "[exit code 3]")
    assert web.status == "ended" and web.tabs[0].endswith("(ended)")
