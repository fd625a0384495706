"""A terminal in a sandbox, as either flavour of the SDK has it."""

from __future__ import annotations

import queue
import threading
from typing import Any

from daytona import DaytonaError

from Rig.sandboxes import Client
from Rig.waiting import eventually

WAIT_SECONDS = 60


def create_terminal(process: Any, identifier: str, **more: Any) -> Any:
    """A new terminal, as the sync SDK has it.

    The SDK waits for the first message for a tenth of a second, after which it knows nothing better than an empty queue. On a
    busy machine that happens; the terminal is there all the same.
    """
    try:
        return process.create_pty_session(identifier, **more)
    except DaytonaError as error:
        if not isinstance(error.__cause__, queue.Empty):
            raise
    return connect_terminal(process, identifier)


def connect_terminal(process: Any, identifier: str) -> Any:
    """Another client of a terminal, as the sync SDK has it; asked for again where the SDK was impatient."""

    def attempt() -> Any:
        try:
            return process.connect_pty_session(identifier)
        except DaytonaError as error:
            if not isinstance(error.__cause__, queue.Empty):
                raise
            return None

    return eventually(attempt, WAIT_SECONDS, f"a connection to the terminal {identifier}")


class Terminal:
    """A terminal in either flavour of the SDK: what it wrote is collected, whoever must read it."""

    def __init__(self, client: Client, handle: Any, output: bytearray) -> None:
        self._client = client
        self.handle = handle
        self._output = output

    @classmethod
    def create(cls, client: Client, box: Any, identifier: str, **more: Any) -> Terminal:
        if client.flavor == "async":
            return cls._follow(client, box.process.create_pty_session, identifier, more)
        return cls._read_beside(client, create_terminal(box.process, identifier, **more))

    @classmethod
    def connect(cls, client: Client, box: Any, identifier: str) -> Terminal:
        if client.flavor == "async":
            return cls._follow(client, box.process.connect_pty_session, identifier, {})
        return cls._read_beside(client, connect_terminal(box.process, identifier))

    @classmethod
    def _follow(cls, client: Client, opener: Any, identifier: str, more: dict[str, Any]) -> Terminal:
        output = bytearray()
        return cls(client, client.wait(opener(identifier, output.extend, **more)), output)

    @classmethod
    def _read_beside(cls, client: Client, handle: Any) -> Terminal:
        terminal = cls(client, handle, bytearray())
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
