"""WebSockets through proxy and runner that are idle, or flooded with output: both ends ask, and both are answered.

For 25 seconds, or with MARTLET_LONG=1 for ten minutes.
"""

from __future__ import annotations

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from daytona import SessionExecuteRequest
from wsproto.events import BytesMessage, CloseConnection, Pong

from Rig.environment import Environment
from Rig.frames import FrameSocket
from Rig.processes import MemoryWatch
from Rig.stack import Stack

SECONDS = 600 if os.environ.get("MARTLET_LONG") == "1" else 25
# The daemon asks each 20 s.
PINGS = SECONDS // 20 * 3 // 4
PING_SECONDS = 5
# Generous, for machines that do other work: nothing must cut a connection whose other end is slow.
ANSWER_SECONDS = 20
MEBIBYTE = 2**20


class Conversation:
    """One connection: takes what comes until the time is up, and asks every few seconds."""

    def __init__(self, socket: FrameSocket) -> None:
        self.socket = socket
        self.bytes = 0
        self.asked = 0
        self.slowest = 0.0

    def hold(self, seconds: float) -> Conversation:
        end, due, waiting = time.monotonic() + seconds, 0.0, {}
        while (now := time.monotonic()) < end or waiting:
            if now >= due and now < end:
                payload = str(self.asked).encode()
                self.asked += 1
                waiting[payload] = now
                self.socket.ping(payload)
                due = now + PING_SECONDS
            late = [name for name, asked in waiting.items() if now - asked > ANSWER_SECONDS]
            assert not late, f"no answer to {late} after {ANSWER_SECONDS} s"
            event = self.socket.next(0.5)
            assert not isinstance(event, CloseConnection), f"closed: {event}"
            if isinstance(event, Pong):
                self.slowest = max(self.slowest, time.monotonic() - waiting.pop(bytes(event.payload)))
            elif isinstance(event, BytesMessage):
                self.bytes += len(event.data)
        return self

    def __repr__(self) -> str:
        return (
            f"{self.bytes / MEBIBYTE:.1f} MiB came, {self.asked} pings were answered within {self.slowest:.2f} s, "
            f"{self.socket.pings} were asked by the daemon"
        )


@pytest.mark.deadline(SECONDS + 120)
def test_idle_and_flooded_sockets_stay(sync_client: Any, shared: Any, environment: Environment, stack: Stack) -> None:
    """A terminal and a log that are idle, a terminal and a log that are flooded, at the same time."""
    headers = {"Authorization": f"Bearer {environment.api_key}"}
    base = f"{shared.toolbox_proxy_url}/{shared.id}/process"
    names = {kind: f"long-{kind}-{uuid.uuid4().hex[:6]}" for kind in ("idle", "flood")}
    commands = {"idle": "read line; echo $line", "flood": "while :; do echo 0123456789abcdef0123456789abcdef; done"}
    urls = {}
    for kind, name in names.items():
        shared.process.create_session(name)
        made = shared.process.execute_session_command(name, SessionExecuteRequest(command=commands[kind], run_async=True))
        urls[f"{kind} log"] = f"{base}/session/{name}/command/{made.cmd_id}/logs?follow=true"
        urls[f"{kind} terminal"] = f"{base}/pty/create-connect?id={name}&cols=80&rows=24"
    sockets = {kind: FrameSocket(url, headers) for kind, url in urls.items()}
    sockets["flood terminal"].send(b"yes 0123456789abcdef\n")
    watched = {"proxy": stack.pid("proxy"), "runner": stack.pid("runner")}
    try:
        with MemoryWatch(watched) as watch, ThreadPoolExecutor(4) as workers:
            conversations = {kind: workers.submit(Conversation(socket).hold, SECONDS) for kind, socket in sockets.items()}
            held = {kind: each.result(SECONDS + 60) for kind, each in conversations.items()}
        for kind, each in held.items():
            print(f"{kind}: {each}")
            assert each.socket.pings >= PINGS, f"{kind}: the daemon asked {each.socket.pings} times, not {PINGS}"
            assert each.bytes > 4 * MEBIBYTE if kind.startswith("flood") else each.bytes < MEBIBYTE, kind
        grown = {name: round(value / MEBIBYTE, 1) for name, value in watch.growth().items()}
        print(f"growth in MiB: {grown}")
        assert max(grown.values()) < 64, grown

        sockets["idle terminal"].send(b"echo still h''ere\n")
        sockets["idle terminal"].read_until(b"still here", 20)
        shared.process.send_session_command_input(names["idle"], urls["idle log"].split("/")[-2], "still there")
        sockets["idle log"].read_until(b"still there", 20)
        sockets["flood terminal"].send(b"\x03")
        sockets["flood terminal"].send(b"echo calm a''gain\n")
        sockets["flood terminal"].read_until(b"calm again", 60)
    finally:
        for socket in sockets.values():
            socket.close()
        for name in names.values():
            shared.process.delete_session(name)
            shared.process.kill_pty_session(name)
