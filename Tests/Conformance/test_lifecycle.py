"""Stop, start, resize, delete: from every state, twice, at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from daytona import DaytonaBadRequestError, DaytonaConflictError, DaytonaError, DaytonaNotFoundError, Resources, SandboxState

from Rig.engine import Engine
from Rig.sandboxes import RUN_LABEL, Client, Sandboxes
from Rig.waiting import eventually
from Rig.wire import check_error


@pytest.mark.deadline(240)
def test_stop_and_start_keep_the_files_and_end_the_processes(client: Client, sandboxes: Sandboxes) -> None:
    made = sandboxes.create(auto_stop_interval=0)
    box = client.wait(client.sdk.get(made.id))
    client.wait(box.process.exec("echo kept > kept.txt; nohup sleep 1234 >/dev/null 2>&1 &"))
    client.wait(box.stop())
    assert box.state == SandboxState.STOPPED
    with pytest.raises(DaytonaError) as refused:
        client.wait(box.process.exec("true"))
    assert refused.value.status_code in (400, 404, 409, 502, 503) and "stop" in str(refused.value).lower()
    client.wait(box.start())
    assert box.state == SandboxState.STARTED
    seen = client.wait(box.process.exec("cat kept.txt; pgrep -f 'sleep 123[4]' | wc -l"))
    assert seen.result.split() == ["kept", "0"]
    sandboxes.remove([box.id])


def test_stop_is_graceful_and_force_is_not(sandboxes: Sandboxes, busybox: str) -> None:
    import time

    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    made.process.exec(
        "printf '#!/bin/sh\\ntrap \"echo asked > /root/$1; exit 0\" TERM\\ntouch /root/$1.hears\\nwhile :; do sleep 0.1; done\\n' > /root/w; "
        "chmod +x /root/w"
    )

    def begin(word: str) -> None:
        made.process.exec(f"setsid /root/w {word} >/dev/null 2>&1 &")
        eventually(lambda: made.process.exec(f"test -e /root/{word}.hears").exit_code == 0, 60, "it to hear signals")

    begin("gentle")
    made.stop()
    made.start()
    assert made.process.exec("cat /root/gentle").result == "asked\n"
    begin("forced")
    begun = time.monotonic()
    made.stop(force=True)
    assert time.monotonic() - begun < 30
    made.start()
    assert made.process.exec("ls /root/forced").exit_code != 0
    sandboxes.remove([made.id])


def test_stopping_and_starting_twice_is_harmless(sandboxes: Sandboxes, busybox: str, api: httpx.Client) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    made.start()
    assert made.state == SandboxState.STARTED
    made.stop(force=True)
    answer = api.post(f"/sandbox/{made.id}/stop")
    assert answer.status_code in (200, 400), answer.text
    assert api.get(f"/sandbox/{made.id}").json()["state"] == "stopped"
    sandboxes.remove([made.id])


@pytest.mark.deadline(240)
def test_resize_while_running(sandboxes: Sandboxes, engine: Engine, client: Client) -> None:
    made = sandboxes.create(auto_stop_interval=0)
    box = client.wait(client.sdk.get(made.id))
    started = engine.container(made.id)["State"]["StartedAt"]
    cpu, memory, disk = box.cpu + 1, box.memory + 1, box.disk
    client.wait(box.resize(Resources(cpu=cpu, memory=memory)))
    client.wait(box.refresh_data())
    assert (box.cpu, box.memory, box.disk, box.state) == (cpu, memory, disk, SandboxState.STARTED)
    eventually(lambda: engine.container(made.id)["HostConfig"]["Memory"] == memory * 2**30, 60, "the limit in force")
    assert engine.container(made.id)["State"]["StartedAt"] == started, "a running resize must not restart"
    for wrong in (Resources(cpu=cpu - 1), Resources(memory=memory - 1), Resources(disk=disk + 1), Resources(disk=disk - 1)):
        with pytest.raises((DaytonaBadRequestError, DaytonaConflictError)):
            client.wait(box.resize(wrong))
    with pytest.raises(DaytonaBadRequestError):
        client.wait(box.resize(Resources(cpu=cpu, memory=memory)))
    sandboxes.remove([made.id])


@pytest.mark.deadline(240)
def test_resize_while_stopped(sandboxes: Sandboxes, busybox: str, api: httpx.Client) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    made.process.exec("echo kept > /root/kept")
    made.stop(force=True)
    made.resize(Resources(cpu=2, memory=2, disk=2))
    made.refresh_data()
    assert (made.cpu, made.memory, made.disk, made.state) == (2, 2, 2, SandboxState.STOPPED)
    with pytest.raises(DaytonaBadRequestError, match="(?i)disk"):
        made.resize(Resources(disk=1))
    made.resize(Resources(cpu=1, memory=1))
    made.start()
    made.refresh_data()
    assert (made.cpu, made.memory, made.disk) == (1, 1, 2)
    assert made.process.exec("cat /root/kept").result == "kept\n"
    assert made.process.exec("head -c 1500000000 /dev/zero > /root/large; echo $?; rm /root/large").result == "0\n", "the new disk is in force"
    for body, field in (({}, "cpu"), ({"cpu": 0}, "cpu"), ({"memory": "1"}, "memory"), ({"disk": 1.5}, "disk"),
                        ({"cpu": 10**6}, "cpu")):  # fmt: skip
        check_error(api.post(f"/sandbox/{made.id}/resize", json=body), 400, field)
    sandboxes.remove([made.id])


def test_delete_and_wait(client: Client, sandboxes: Sandboxes, busybox: str, engine: Engine) -> None:
    made = sandboxes.create(snapshot=busybox)
    box = client.wait(client.sdk.get(made.id))
    container = engine.container(made.id)["Id"]
    client.wait(client.sdk.delete(box, wait=True))
    assert box.state == SandboxState.DESTROYED
    assert engine.request("GET", f"/containers/{container}/json").status_code == 404
    with pytest.raises(DaytonaNotFoundError):
        client.wait(client.sdk.get(made.id))


def test_delete_twice(sandboxes: Sandboxes, busybox: str, api: httpx.Client) -> None:
    made = sandboxes.create(snapshot=busybox)
    first = api.delete(f"/sandbox/{made.id}")
    assert (first.status_code, first.json()["state"]) in ((200, "destroying"), (200, "destroyed")), first.text
    second = api.delete(f"/sandbox/{made.id}")
    assert second.status_code in (200, 404), second.text
    sandboxes.remove([made.id])
    check_error(api.delete(f"/sandbox/{made.id}"), 404)


def test_delete_while_creating(api: httpx.Client, sandboxes: Sandboxes, busybox: str, engine: Engine) -> None:
    """Three deletes at three moments of three creates: none is refused, nothing is left."""
    import threading
    import time

    identifiers: list[str] = []

    def create(name: str) -> None:
        answer = api.post("/sandbox", json={"snapshot": busybox, "name": name, "labels": {RUN_LABEL: sandboxes.run}})
        assert answer.status_code == 200, answer.text
        identifiers.append(answer.json()["id"])

    for number, pause in enumerate((0.0, 0.05, 0.2)):
        name = f"early-{sandboxes.run}-{number}"
        creator = threading.Thread(target=create, args=(name,))
        creator.start()
        time.sleep(pause)
        answer = eventually(
            lambda: found if (found := api.delete(f"/sandbox/{name}")).status_code != 404 else None, 30, "the row", 0.005
        )
        assert (answer.status_code, answer.json()["state"]) in ((200, "destroying"), (200, "destroyed")), answer.text
        creator.join()
    sandboxes.remove(identifiers)
    left = {each["Labels"]["martlet.sandbox"] for each in engine.sandboxes()}
    assert not left & set(identifiers)


def test_delete_in_every_state(api: httpx.Client, sandboxes: Sandboxes, busybox: str, database: Any) -> None:
    started, stopped, stopping, starting, resizing, broken = sandboxes.create_many(6, snapshot=busybox)
    for each in (stopped, starting):
        each.stop(force=True)
    api.post(f"/sandbox/{stopping.id}/stop")
    api.post(f"/sandbox/{starting.id}/start")
    api.post(f"/sandbox/{resizing.id}/resize", json={"cpu": 2})
    database.execute(
        """UPDATE sandbox_status t SET state = 'error', error_reason = 'by the test', observed_generation = s.generation
           FROM sandbox s WHERE s.id = t.sandbox_id AND s.id = :'id'""",
        id=broken.id,
    )
    for each in (started, stopped, stopping, starting, resizing, broken):
        answer = api.delete(f"/sandbox/{each.id}")
        assert (answer.status_code, answer.json()["state"]) in ((200, "destroying"), (200, "destroyed")), answer.text
    sandboxes.remove([each.id for each in (started, stopped, stopping, starting, resizing, broken)])


def test_nothing_can_be_done_to_what_is_being_deleted(api: httpx.Client, sandboxes: Sandboxes, busybox: str) -> None:
    made = sandboxes.create(snapshot=busybox)
    api.delete(f"/sandbox/{made.id}")
    for path in ("start", "stop", "autostop/5", "resize"):
        answer = api.post(f"/sandbox/{made.id}/{path}", json={"cpu": 2} if path == "resize" else None)
        assert answer.status_code in (400, 404, 409), f"{path}: {answer.status_code} {answer.text}"
        check_error(answer, answer.status_code)
    sandboxes.remove([made.id])


def test_orders_at_once_end_in_a_state_of_rest(api: httpx.Client, sandboxes: Sandboxes, busybox: str) -> None:
    made = sandboxes.create(snapshot=busybox, auto_stop_interval=0)
    with ThreadPoolExecutor(8) as workers:
        paths = ["stop", "start", "stop?force=true", "start"] * 4
        answers = list(workers.map(lambda path: api.post(f"/sandbox/{made.id}/{path}"), paths))
    assert {each.status_code for each in answers} <= {200, 400, 409}, [each.text for each in answers]
    eventually(
        lambda: api.get(f"/sandbox/{made.id}").json()["state"] in ("started", "stopped"), 90, "a state of rest"
    )
    made.refresh_data()
    made.start()
    assert made.process.exec("echo alive").result == "alive\n"
    sandboxes.remove([made.id])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "pause"), ("POST", "ssh-access"), ("GET", "ports/3000/preview-url"),
        ("GET", "ports/3000/signed-preview-url"), ("PUT", "secrets"),
    ],
)  # fmt: skip
def test_what_later_issues_bring_is_refused_clearly(api: httpx.Client, small: Any, method: str, path: str) -> None:
    """501 now; a later issue that builds one of these replaces its line here by tests."""
    answer = api.request(method, f"/sandbox/{small.id}/{path}", json={"name": "x"} if method != "GET" else None)
    assert answer.status_code in (200, 201, 400, 404, 409, 422, 501), answer.text
    if answer.status_code >= 400:
        check_error(answer, answer.status_code)
