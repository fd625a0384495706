"""A terminal in a sandbox, as either flavour of the SDK has it."""

from __future__ import annotations

import threading
from typing import Any

from Rig.sandboxes import Client
from Rig.waiting import eventually

WAIT_SECONDS = 60


class Terminal:
    """A terminal in either flavour of the SDK: what it wrote is collected, whoever must read it."""

    def __init__(self, client: Client, handle: Any, output: bytearray) -> None:
        self._client = client
        self.handle = handle
        self._output = output

    @classmethod
    def create(cls, client: Client, box: Any, identifier: str, **more: Any) -> Terminal:
        return cls._open(client, box.process.create_pty_session, identifier, more)

    @classmethod
    def connect(cls, client: Client, box: Any, identifier: str) -> Terminal:
        return cls._open(client, box.process.connect_pty_session, identifier, {})

    @classmethod
    def _open(cls, client: Client, opener: Any, identifier: str, more: dict[str, Any]) -> Terminal:
        output = bytearray()
        if client.flavor == "async":
            return cls(client, client.wait(opener(identifier, output.extend, **more)), output)
        terminal = cls(client, opener(identifier, **more), output)
        threading.Thread(target=terminal._read, daemon=True).start()
        return terminal

    def _read(self) -> None:
        for piece in self.handle:
            self._output.extend(piece)

    @property
    def output(self) -> bytes:
        return bytes(self._output)

    @property
    def text(self) -> str:
        return self._output.decode(errors="replace")

    def type(self, text: str | bytes) -> None:
        self._client.wait(self.handle.send_input(text))

    def expect(self, text: str, within: float = WAIT_SECONDS) -> None:
        eventually(lambda: text in self.text, within, f"{text!r} on the terminal")

    def end(self) -> tuple[int | None, str | None]:
        eventually(lambda: not self.handle.is_connected(), WAIT_SECONDS, "the terminal to end")
        eventually(lambda: self.handle.exit_code is not None, WAIT_SECONDS, "an exit code")
        return self.handle.exit_code, self.handle.error

    def leave(self) -> None:
        self._client.wait(self.handle.disconnect())
