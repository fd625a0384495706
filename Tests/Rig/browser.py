"""Debian's Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import httpx
import httpx_ws

from Rig.waiting import eventually

START_SECONDS = 90
COMMAND_SECONDS = 60
MESSAGE_BYTES_LIMIT = 16 << 20

# Only this machine's loopback is asked for anything; root has no sandbox of Chromium's, and a container little /dev/shm.
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-extensions", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", "--window-size=900,600",
)  # fmt: skip


class Page:
    """One tab."""

    def __init__(self, session: httpx_ws.WebSocketSession) -> None:
        self._session = session
        self._numbers = itertools.count(1)
        self.do("Page.enable")
        self.do("Runtime.enable")

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol and its result; events that come meanwhile are dropped."""
        number = next(self._numbers)
        self._session.send_text(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._session.receive_text(timeout=COMMAND_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def visit(self, url: str) -> None:
        failure = self.do("Page.navigate", url=url).get("errorText")
        assert not failure, f"{url}: {failure}"
        self._await_loaded()

    def reload(self) -> None:
        self.evaluate("document.stale = true")
        self.do("Page.reload", ignoreCache=True)
        self._await_loaded()

    def _await_loaded(self) -> None:
        eventually(
            lambda: self.evaluate("!document.stale && document.readyState === 'complete'"), COMMAND_SECONDS, "the page to load"
        )

    def type(self, text: str) -> None:
        """Presses keys, one after the other, in whatever has the focus."""
        for each in text:
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"} if each == "\n" else {"key": each, "text": each}
            self.do("Input.dispatchKeyEvent", type="keyDown", **key)
            self.do("Input.dispatchKeyEvent", type="keyUp", **{name: value for name, value in key.items() if name != "text"})

    def click(self, selector: str) -> None:
        """Presses the mouse button in the middle of an element."""
        x, y = self.evaluate(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int) -> None:
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)


class Browser:
    """One Chromium with a profile of its own, which ends with the block: `with Browser() as page`."""

    def __enter__(self) -> Page:
        self._profile = Path(tempfile.mkdtemp(prefix="martlet-chromium."))
        program = shutil.which("chromium")
        assert program, "chromium is not installed; run ops/stack/packages"
        self._process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={self._profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._http = httpx.Client()
            self._connection = httpx_ws.connect_ws(
                self._first_page(), self._http, max_message_size_bytes=MESSAGE_BYTES_LIMIT, keepalive_ping_interval_seconds=None
            )
            return Page(self._connection.__enter__())
        except BaseException:
            self._end()
            raise

    def _first_page(self) -> str:
        port_file = self._profile / "DevToolsActivePort"
        port = eventually(lambda: port_file.exists() and port_file.read_text().split("\n")[0], START_SECONDS, "Chromium to start")

        def address() -> str:
            tabs = self._http.get(f"http://127.0.0.1:{port}/json/list").json()
            return next((each["webSocketDebuggerUrl"] for each in tabs if each["type"] == "page"), "")

        return eventually(address, START_SECONDS, "Chromium's first page")

    def __exit__(self, *error: Any) -> None:
        try:
            self._connection.__exit__(None, None, None)
        finally:
            self._end()

    def _end(self) -> None:
        self._http.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)
