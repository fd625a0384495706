"""Waiting with a deadline: for a condition, and for a test as a whole."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from contextlib import contextmanager
from typing import Callable, Iterator, TypeVar

Value = TypeVar("Value")

# After the deadline of a test the interpreter itself is ended, should not even a signal get it out.
HARD_STOP_SECONDS = 30


def eventually(probe: Callable[[], Value], within: float, what: str, every: float = 0.1) -> Value:
    """Returns the first truthy value of `probe`; fails after `within` seconds, showing the last value or error."""
    end = time.monotonic() + within
    seen: object = None
    while True:
        try:
            seen = probe()
            if seen:
                return seen  # type: ignore[return-value]
        except AssertionError as error:
            seen = error
        if time.monotonic() >= end:
            raise AssertionError(f"waited {within} s in vain for {what}; last seen: {seen!r}")
        time.sleep(every)


def always(probe: Callable[[], object], during: float, what: str, every: float = 0.1) -> None:
    """Fails as soon as `probe` is not truthy within `during` seconds."""
    end = time.monotonic() + during
    while time.monotonic() < end:
        seen = probe()
        assert seen, f"{what} did not hold: {seen!r}"
        time.sleep(every)


class DeadlineExceeded(Exception):
    """A test took longer than it may."""


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Raises `DeadlineExceeded` in the main thread when the block lasts too long.

    SIGUSR1 and not SIGALRM: the SDK uses SIGALRM for its own timeouts and clears it.
    """

    def expired(_signal: int, _frame: object) -> None:
        raise DeadlineExceeded(f"{what} took longer than {seconds} s")

    before = signal.signal(signal.SIGUSR1, expired)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(seconds, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(seconds + HARD_STOP_SECONDS, exit=True)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGUSR1, before)
