"""Images that are built, by the official SDK: files and folders, logs, sharing, failures, limits, and runners that die."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from daytona import CreateSandboxFromImageParams, CreateSnapshotParams, Image, Resources

from Rig.database import Database
from Rig.engine import Engine
from Rig.registry import UserRegistry
from Rig.sandboxes import Client, Sandboxes
from Rig.waiting import eventually
from Rig.wire import check_error

BASE = "martlet/busybox:test"
# A build is a matter of two seconds on an idle machine.
BUILT_SECONDS = 100

pytestmark = pytest.mark.usefixtures("busybox")


def from_image(sandboxes: Sandboxes, image: Image | str, **more: Any) -> CreateSandboxFromImageParams:
    return CreateSandboxFromImageParams(image=image, labels=sandboxes.labels(), auto_stop_interval=0, **more)


def ask(api: httpx.Client, sandboxes: Sandboxes, dockerfile: str, **more: Any) -> httpx.Response:
    body = {"buildInfo": {"dockerfileContent": dockerfile}, "labels": sandboxes.labels(), **more}
    return api.post("/sandbox", json=body)


def get(api: httpx.Client, identifier: str) -> dict[str, Any]:
    answer = api.get(f"/sandbox/{identifier}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def settled(api: httpx.Client, identifier: str, within: float = BUILT_SECONDS) -> dict[str, Any]:
    return eventually(
        lambda: (found := get(api, identifier))["state"] in ("started", "error", "build_failed") and found, within, "a build to end"
    )


@pytest.fixture(scope="module")
def unknown(api: httpx.Client, sandboxes: Sandboxes) -> str:
    """A sandbox of an image that there is not; its registry is asked a few times before that is final."""
    answer = ask(api, sandboxes, "FROM no-such-host.invalid/a:1\n")
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "ctx" / "deep").mkdir(parents=True)
    (tmp_path / "ctx" / "a.txt").write_text("a\n")
    (tmp_path / "ctx" / "deep" / "b.txt").write_text("b\n")
    (tmp_path / "ctx" / "link").symlink_to("a.txt")
    (tmp_path / "one.txt").write_text(f"one {time.time_ns()}\n")
    (tmp_path / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "run.sh").chmod(0o755)
    return tmp_path


@pytest.mark.deadline(400)
def test_a_sandbox_of_a_declared_image(client: Client, sandboxes: Sandboxes, files: Path, sync_client: Client) -> None:
    image = (
        Image.base(BASE)
        .env({"COLOUR": f"blue {client.flavor}"})
        .run_commands("mkdir -p /work", ["sh", "-c", "echo built-here > /work/made"], f"echo hello from {client.flavor}")
        .add_local_file(str(files / "one.txt"), "/work/one.txt")
        .add_local_file(str(files / "run.sh"), "/usr/bin/run-it")
        .add_local_dir(str(files / "ctx"), "/work/ctx")
        .workdir("/work")
        .entrypoint(["/bin/sh", "-c", "while :; do echo up >/tmp/up; sleep 1; done"])
    )
    lines: list[str] = []
    box = client.wait(
        client.sdk.create(
            from_image(sandboxes, image, resources=Resources(cpu=1, memory=1, disk=2)), timeout=120, on_snapshot_create_logs=lines.append
        )
    )
    said = "\n".join(lines)
    assert f"hello from {client.flavor}" in said and "Step " in said, said
    run = lambda command: client.wait(box.process.exec(command)).result  # noqa: E731
    assert run("pwd; cat made ctx/a.txt ctx/deep/b.txt ctx/link").split() == ["/work", "built-here", "a", "b", "a"]
    assert run("cat one.txt") == (files / "one.txt").read_text()
    assert run("run-it; echo $COLOUR").split("\n")[:2] == ["ran", f"blue {client.flavor}"]
    eventually(lambda: "up" in run("cat /tmp/up"), 60, "its entrypoint to run")
    assert (box.cpu, box.memory, box.disk) == (1, 1, 2)
    again = sync_client.sdk.create(from_image(sandboxes, image), timeout=120)
    assert again.process.exec("cat /work/made").result == "built-here\n", "the same definition, without another build"
    sandboxes.remove([box.id, again.id])


@pytest.mark.deadline(400)
def test_a_sandbox_of_an_image_as_it_is(sync_client: Client, sandboxes: Sandboxes, api: httpx.Client, unknown: str) -> None:
    box = sync_client.sdk.create(from_image(sandboxes, BASE), timeout=120)
    assert box.process.exec("echo $((6 * 7)); id -u").result == "42\n0\n"
    check_error(api.get(f"/sandbox/{box.id}/build-logs-url"), 404, "nothing was built")
    sandboxes.remove([box.id])


@pytest.mark.deadline(400)
def test_a_snapshot_of_a_declared_image(sync_client: Client, sandboxes: Sandboxes, api: httpx.Client) -> None:
    flavor = sync_client.flavor
    name, lines = f"martlet-test-build-{sandboxes.run}-{flavor}", []
    image = Image.base(BASE).run_commands(f"echo {flavor} says hello", "sleep 1; echo kept > /kept")
    parameters = CreateSnapshotParams(name=name, image=image, resources=Resources(cpu=1, memory=1, disk=1), entrypoint=["sleep", "1000"])
    snapshot = sync_client.sdk.snapshot.create(parameters, on_logs=lines.append)
    try:
        assert snapshot.state == "active" and snapshot.error_reason is None and snapshot.size
        assert snapshot.entrypoint == ["sleep", "1000"]
        assert f"{flavor} says hello" in "\n".join(lines), lines
        url = api.get(f"/snapshots/{snapshot.id}/build-logs-url").json()["url"]
        text = api.get(url).text
        assert "says hello" in text and text.startswith("Step 1/")
        assert api.get(url, params={"offset": len(text.encode()) - 5}).text == text[-5:]
        box = sandboxes.create(snapshot=name)
        assert box.process.exec("cat /kept").result == "kept\n"
        sandboxes.remove([box.id])
    finally:
        sync_client.sdk.snapshot.delete(name)


@pytest.mark.deadline(400)
def test_equal_builds_at_once_are_one(api: httpx.Client, sandboxes: Sandboxes, database: Database) -> None:
    dockerfile = f"FROM {BASE}\nRUN sleep 1; echo only once {time.time_ns()}\n"
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(api, sandboxes, dockerfile))) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [each.status_code for each in answers] == [200] * 20, [each.text for each in answers if each.status_code != 200]
    assert "pending_build" in {each.json()["state"] for each in answers}
    identifiers = [each.json()["id"] for each in answers]
    builders = database.rows("SELECT DISTINCT snapshot_id FROM sandbox WHERE id = ANY (:'ids')", ids="{" + ",".join(identifiers) + "}")
    assert len(builders) == 1
    for each in identifiers:
        assert settled(api, each)["state"] == "started"
    sandboxes.remove(identifiers)


@pytest.mark.deadline(400)
def test_failures_say_the_step_the_reason_and_the_last_lines(api: httpx.Client, sandboxes: Sandboxes, sync_client: Client) -> None:
    with pytest.raises(Exception, match="(?s)step build.*non-zero code: 3.*it last said.*about to fail"):
        sync_client.sdk.create(
            from_image(sandboxes, Image.base(BASE).run_commands("echo about to fail; exit 3")), timeout=120, on_snapshot_create_logs=print
        )
    missing = ask(api, sandboxes, f"FROM {BASE}\nCOPY nothing /x\n").json()["id"]
    found = settled(api, missing)
    assert found["state"] == "build_failed" and "nothing" in found["errorReason"], found
    assert "COPY nothing" in api.get(f"/sandbox/{missing}/build-logs", params={"follow": "true"}).text
    assert api.delete(f"/sandbox/{missing}").status_code == 200
    memory = ask(api, sandboxes, f"FROM {BASE}\nRUN tail -c 3000m /dev/zero\n").json()["id"]
    assert "out of memory" in settled(api, memory)["errorReason"]
    sandboxes.remove([missing, memory])


@pytest.mark.deadline(400)
def test_base_images_of_a_private_registry(
    api: httpx.Client, sandboxes: Sandboxes, registry: UserRegistry, login: str, engine: Engine
) -> None:
    """By the organization's login, of which nothing is in the log or the image; and under no name that the host keeps."""
    image = registry.push(BASE, f"team/base:{sandboxes.run}")
    asked = ask(
        api, sandboxes,
        f"ARG TAG={sandboxes.run}\nFROM {registry.host}/team/base:$TAG AS one\nRUN echo {time.time_ns()} >/one\n"
        f"FROM {BASE}\nCOPY --from=one /one /one\nCOPY --from={image} /bin/sh /other\n",
    ).json()["id"]  # fmt: skip
    found = settled(api, asked)
    text = api.get(f"/sandbox/{asked}/build-logs").text
    assert found["state"] == "started", (found, text)
    assert f"Fetching {image}" in text and f"FROM {registry.host}/team/base@sha256:" in text, text
    assert registry.password not in text
    assert not engine.has_image(image)
    built = engine.container(asked)["Image"]
    assert registry.password not in engine.request("GET", f"/images/{built}/history").text
    sandboxes.remove([asked])


@pytest.mark.deadline(400)
def test_steps_that_are_no_part_of_an_image_go_with_their_build(api: httpx.Client, sandboxes: Sandboxes, engine: Engine) -> None:
    mark = f"of-{time.time_ns()}"
    build = f"FROM {BASE}\nRUN echo {mark} >/a\nRUN echo b >/b\nRUN sleep 5; exit 3\n"
    fails = ask(api, sandboxes, build).json()["id"]
    eventually(lambda: len(engine.unnamed_steps(mark)) >= 2, 60, "the steps to be made", every=0.1)
    assert settled(api, fails)["state"] == "build_failed"
    stages = ask(
        api, sandboxes, f"FROM {BASE} AS one\nRUN echo {mark}-one >/a; echo \" ---> 0123456789ab\"\nFROM {BASE}\nCOPY --from=one /a /a\n"
    ).json()["id"]  # fmt: skip
    assert settled(api, stages)["state"] == "started"
    eventually(lambda: not engine.unnamed_steps(mark), 60, "the steps to be gone")
    sandboxes.remove([fails, stages])


@pytest.mark.deadline(400)
def test_an_image_that_there_is_not_is_an_error(api: httpx.Client, sandboxes: Sandboxes, unknown: str) -> None:
    found = settled(api, unknown)
    assert found["state"] == "error" and "step pull" in found["errorReason"] and "no-such-host.invalid" in found["errorReason"], found
    sandboxes.remove()


def test_what_no_builder_may_have_is_refused_at_once(api: httpx.Client, sandboxes: Sandboxes) -> None:
    for dockerfile, words in {
        "": "FROM", "RUN true": "before the first FROM", f"FROM {BASE}\nADD http://169.254.169.254/ /x": "ADD",
        f"FROM {BASE}\nRUN --mount=type=secret,id=a true": "BuildKit", "FROM 169.254.169.254/a:1": "private network",
        "FROM localhost:5000/a:1\n": "private network", f"FROM {BASE}\nONBUILD RUN true": "ONBUILD", "FROM A/B": "image name",
    }.items():
        check_error(ask(api, sandboxes, dockerfile), 400, "buildInfo", words)
    unknown = {"buildInfo": {"dockerfileContent": f"FROM {BASE}\n", "contextHashes": ["0" * 32]}}
    check_error(api.post("/sandbox", json=unknown), 400, "0" * 32, "not uploaded")
    check_error(api.post("/sandbox", json={**unknown, "snapshot": "default"}), 400, "snapshot", "buildInfo")
    check_error(api.post("/snapshots", json={**unknown, "name": "x", "imageName": "a:1"}), 400, "imageName", "buildInfo")


@pytest.mark.deadline(400)
def test_steps_reach_neither_host_nor_neighbours_nor_metadata(
    api: httpx.Client, sandboxes: Sandboxes, environment: Any, sync_client: Client
) -> None:
    """Also a control: what the step's own network is, and that the listener on the host is there."""
    port = environment.api_url.split(":")[2].split("/")[0]
    other = sandboxes.create(snapshot="martlet-test-busybox")
    address = other.process.exec("ip -4 addr show eth0 | awk '/inet/ { print $2 }' | cut -d/ -f1").result.strip()
    targets = ["169.254.169.254:80", "$gateway:" + port, f"{address}:22", "100.100.100.200:80"]
    tries = "; ".join(f"nc -w 2 {target.replace(':', ' ')} </dev/null >/dev/null 2>&1 && echo REACHED-{n} || echo blocked-{n}" for n, target in enumerate(targets))
    asked = ask(
        api, sandboxes,
        f"FROM {BASE}\nRUN gateway=$(ip route | awk '/default/ {{ print $3 }}'); test -n \"$gateway\" && echo network-is-up; {tries}\n",
    ).json()["id"]  # fmt: skip
    assert settled(api, asked)["state"] == "started"
    text = api.get(f"/sandbox/{asked}/build-logs").text
    lines = text.splitlines()
    assert "network-is-up" in lines, text
    assert [each for each in lines if each.startswith("blocked-")] == [f"blocked-{n}" for n in range(len(targets))], text
    assert not [each for each in lines if each.startswith("REACHED")]
    sandboxes.remove()


@pytest.mark.deadline(400)
def test_steps_are_limited_and_leave_nothing(api: httpx.Client, sandboxes: Sandboxes, engine: Any) -> None:
    asked = ask(
        api, sandboxes,
        f"FROM {BASE}\nRUN sleep 1; cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null; id -u; "
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true\n",
    ).json()["id"]  # fmt: skip
    assert settled(api, asked)["state"] == "started"
    lines = api.get(f"/sandbox/{asked}/build-logs").text.splitlines()
    assert "1024" in lines and str(2 << 30) in lines, lines

    def networks() -> list[Any]:
        return [each for each in engine.request("GET", "/networks").json() if "martlet.builds" in (each["Labels"] or {})]

    eventually(lambda: not networks(), 30, "no network of a build to be left")
    sandboxes.remove()


@pytest.mark.deadline(400)
def test_a_client_that_goes_away_stops_nothing(api: httpx.Client, sandboxes: Sandboxes) -> None:
    asked = ask(api, sandboxes, f"FROM {BASE}\nRUN echo first {time.time_ns()}; sleep 2; echo last\n").json()["id"]
    with api.stream("GET", f"/sandbox/{asked}/build-logs", params={"follow": "true"}, timeout=60) as stream:
        for text in stream.iter_text():
            if "first" in text:
                break
    assert settled(api, asked)["state"] == "started"
    assert "last" in api.get(f"/sandbox/{asked}/build-logs").text
    sandboxes.remove()


def test_what_is_not_there_has_no_log(api: httpx.Client, sandboxes: Sandboxes) -> None:
    for path in ("/sandbox/nothing/build-logs", "/sandbox/nothing/build-logs-url", "/snapshots/nothing/build-logs-url"):
        check_error(api.get(path), 404, "nothing")
