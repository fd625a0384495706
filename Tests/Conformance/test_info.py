"""What a sandbox says of itself: directories, environment, version, ports, metrics."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any, Iterator

import httpx
import pytest

from Rig import wire
from Rig.environment import Environment
from Rig.sandboxes import Client
from Rig.waiting import eventually
from Rig.wire import check_error


@pytest.fixture(scope="module")
def toolbox(shared: Any, environment: Environment) -> Iterator[httpx.Client]:
    with wire.client(f"{shared.toolbox_proxy_url}/{shared.id}", environment.api_key) as made:
        yield made


def test_directories(client: Client, box: Any) -> None:
    assert client.wait(box.get_user_home_dir()) == client.wait(box.process.exec("echo ~")).result.strip()
    assert client.wait(box.get_work_dir()).startswith("/")
    assert client.wait(box.get_user_root_dir()) == client.wait(box.get_user_home_dir())


def test_metrics(client: Client, box: Any) -> None:
    seen = client.wait(box.get_metrics_latest())
    assert seen.cpu_count == box.cpu
    assert seen.mem_total == box.memory * 2**30
    assert 0 < seen.mem_used < seen.mem_total
    assert not seen.disk_used or seen.disk_used <= seen.disk_total  # btrfs does not tell what of a quota is used
    assert seen.disk_total <= (box.disk + 1) * 2**30, "the sandbox's own disk, not the host's"
    assert abs((datetime.now(timezone.utc) - seen.timestamp).total_seconds()) < 60


@pytest.mark.deadline(90)
def test_cpu_use_is_the_sandboxs_own(box: Any, client: Client) -> None:
    loop = client.wait(box.process.exec("timeout 60 sh -c 'while :; do :; done' >/dev/null 2>&1 & echo $!")).result.strip()
    idle_share = 5  # of one core, on a machine that may be busy with everything else

    def is_busy() -> bool:
        used = client.wait(box.get_metrics_latest()).cpu_used_pct
        assert used > idle_share, used
        return True

    eventually(is_busy, 40, "the loop in the numbers", every=1)
    client.wait(box.process.exec(f"kill {loop}"))


def test_environment_of_later_processes(client: Client, box: Any) -> None:
    client.wait(box.update_env({"LATER": "one two", "OTHER": "x"}))
    assert client.wait(box.process.exec('echo "$LATER/$OTHER"')).result == "one two/x\n"
    assert client.wait(box.process.code_run("import os; print(os.environ['LATER'])")).result == "one two\n"
    client.wait(box.update_env({"LATER": "changed"}, unset=["OTHER", "NEVER_SET"]))
    assert client.wait(box.process.exec('echo "$LATER/${OTHER-gone}"')).result == "changed/gone\n"
    assert client.wait(box.process.exec('echo "$LATER"', env={"LATER": "mine"})).result == "mine\n"


def test_environment_by_value(toolbox: httpx.Client, shared: Any) -> None:
    """The body comes without a content type, and `unsetValuePrefix` is applied before the rest."""
    content = b'{"set":{"P_A":"ph-1","P_B":"ph-2","P_C":"other"}}'
    assert toolbox.post("/env", content=content).status_code == 200
    answer = toolbox.post("/env", content=b'{"unsetValuePrefix":"ph-","set":{"P_B":"ph-3"}}')
    assert answer.status_code == 200 and isinstance(answer.json(), dict)
    assert shared.process.exec('echo "${P_A-gone} $P_B $P_C"').result == "gone ph-3 other\n"
    for body in (b"", b"[]", b'{"set":{"1A":"x"}}', b'{"set":{"A":1}}'):
        check_error(toolbox.post("/env", content=body), 400)


def test_version(toolbox: httpx.Client, shared: Any) -> None:
    answer = toolbox.get("/version")
    assert (answer.status_code, list(answer.json())) == (200, ["version"])
    shared.refresh_data()
    assert shared.daemon_version == answer.json()["version"]


def test_ports(toolbox: httpx.Client, shared: Any) -> None:
    assert toolbox.get("/port/3456/in-use").json() == {"isInUse": False}
    shared.process.exec("python3 -m http.server 3456 --bind 127.0.0.1 >/dev/null 2>&1 &")
    eventually(lambda: toolbox.get("/port/3456/in-use").json() == {"isInUse": True}, 60, "the port to be in use")
    assert 3456 in toolbox.get("/port").json()["ports"]
    for wrong in ("0", "65536", "x", "2999999", "03456", "%2B3456"):
        answer = toolbox.get(f"/port/{wrong}/in-use")
        assert answer.status_code in (400, 404), f"{wrong}: {answer.status_code}"
    shared.process.exec("pkill -f http.server")


def test_unknown_routes(toolbox: httpx.Client) -> None:
    for method, path in (("GET", "/nothing"), ("POST", "/version"), ("GET", "/files/nothing"), ("GET", "//version")):
        answer = toolbox.request(method, path)
        assert answer.status_code in (404, 405, 501), f"{method} {path}: {answer.status_code}"
        check_error(answer, answer.status_code)


@pytest.mark.parametrize("path", ["/computeruse/status", "/computeruse/display/info"])
def test_rooms_not_built_yet_say_so(toolbox: httpx.Client, path: str) -> None:
    answer = toolbox.get(path)
    if answer.status_code >= 400:
        check_error(answer, answer.status_code)
        assert answer.status_code in (400, 404, 501, 503)


def test_the_environment_cannot_grow_beyond_what_starts(toolbox: httpx.Client, shared: Any) -> None:
    """The kernel starts no program whose environment is too large: then no command would work any more."""
    check_error(toolbox.post("/env", json={"set": {"HUGE": "x" * 200_000}}), 400, "HUGE", "limit")
    answers = [toolbox.post("/env", json={"set": {f"BIG{n}": "big-" + "x" * 100_000}}).status_code for n in range(15)]
    assert answers[0] == 200 and answers[-1] == 400
    assert shared.process.exec("echo well").result == "well\n"
    assert toolbox.post("/env", json={"unsetValuePrefix": "big-"}).status_code == 200
    assert "BIG0" not in shared.process.exec("env").result


@pytest.mark.deadline(180)
def test_ports_are_followed(toolbox: httpx.Client, shared: Any) -> None:
    server = "setsid python3 -m http.server {port} --bind {host} >/dev/null 2>&1 </dev/null &"
    shared.process.exec(server.format(port=4567, host="127.0.0.1"))
    with toolbox.stream("GET", "/port", params={"follow": "true"}) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-ndjson"
        changes = (json.loads(line) for line in answer.iter_lines() if line)
        assert next(changes)["closed"] == []
        eventually(lambda: 4567 in toolbox.get("/port").json()["ports"], 60, "the first server")
        shared.process.exec(server.format(port=4568, host="0.0.0.0"))
        assert any(4568 in change["opened"] for change in changes)
        shared.process.exec("pkill -f 'http.serve[r] 456[78]'")
        closed: set[int] = set()
        while closed < {4567, 4568}:
            closed.update(next(changes)["closed"])
    check_error(toolbox.get("/port", params={"follow": "perhaps"}), 400, "follow")
