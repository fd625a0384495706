"""What may be changed on a sandbox that exists: labels, timers, visibility, activity."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from daytona import DaytonaBadRequestError

from Rig.database import Database
from Rig.sandboxes import Client, Sandboxes
from Rig.wire import check_error


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def test_labels_are_replaced_as_a_whole(client: Client, small: Any, sandboxes: Sandboxes) -> None:
    box = client.wait(client.sdk.get(small.id))
    wanted = sandboxes.labels(team="a", flavor=client.flavor, **{"code-toolbox-language": "python"})
    client.wait(box.set_labels(dict(wanted)))
    client.wait(box.refresh_data())
    assert box.labels == wanted
    client.wait(box.set_labels(sandboxes.labels()))
    client.wait(box.refresh_data())
    assert box.labels == sandboxes.labels()


def test_bad_labels_change_nothing(api: httpx.Client, small: Any) -> None:
    before = api.get(f"/sandbox/{small.id}").json()["labels"]
    for body in ({"labels": {"a": 1}}, {"labels": None}, {}, {"labels": {"code-toolbox-language": "cobol"}}):
        check_error(api.put(f"/sandbox/{small.id}/labels", json=body), 400, "labels")
    assert api.get(f"/sandbox/{small.id}").json()["labels"] == before


def test_timers_are_set(client: Client, small: Any) -> None:
    box = client.wait(client.sdk.get(small.id))
    client.wait(box.set_autostop_interval(77))
    client.wait(box.set_auto_archive_interval(88))
    client.wait(box.set_auto_delete_interval(99))
    client.wait(box.refresh_data())
    assert (box.auto_stop_interval, box.auto_archive_interval, box.auto_delete_interval) == (77, 88, 99)
    client.wait(box.set_autostop_interval(0))
    client.wait(box.set_auto_delete_interval(-1))
    client.wait(box.refresh_data())
    assert (box.auto_stop_interval, box.auto_delete_interval) == (0, -1)


@pytest.mark.parametrize("timer", ["autostop", "autoarchive", "ttl", "autodelete"])
@pytest.mark.parametrize("value", ["x", "1.5", "", "99999999999999999999", "+1", "0x10"])
def test_bad_timers_are_refused(api: httpx.Client, small: Any, timer: str, value: str) -> None:
    answer = api.post(f"/sandbox/{small.id}/{timer}/{value.replace('+', '%2B')}")
    assert answer.status_code in ((404,) if value == "" else (400, 404)), answer.text


def test_negative_timers(api: httpx.Client, small: Any) -> None:
    for timer in ("autostop", "autoarchive", "ttl"):
        check_error(api.post(f"/sandbox/{small.id}/{timer}/-1"), 400)
    assert api.post(f"/sandbox/{small.id}/autodelete/-1").json()["autoDeleteInterval"] == -1


def test_time_to_live_counts_from_now_and_zero_is_off(client: Client, small: Any) -> None:
    box = client.wait(client.sdk.get(small.id))
    client.wait(box.set_ttl(30))
    client.wait(box.refresh_data())
    left = moment(box.auto_destroy_at) - datetime.now(timezone.utc)
    assert timedelta(minutes=29) < left < timedelta(minutes=31)
    client.wait(box.set_ttl(0))
    client.wait(box.refresh_data())
    assert box.auto_destroy_at is None


def test_visibility(client: Client, small: Any) -> None:
    box = client.wait(client.sdk.get(small.id))
    for public in (True, False):
        client.wait(box.set_public(public))
        client.wait(box.refresh_data())
        assert box.public is public


def activity(database: Database, identifier: str) -> float:
    return float(
        database.value(
            "SELECT extract(epoch FROM now() - last_activity_at) FROM sandbox_activity WHERE sandbox_id = :'id'",
            id=identifier,
        )
    )


def rewind(database: Database, identifier: str) -> None:
    database.execute(
        "UPDATE sandbox_activity SET last_activity_at = now() - interval '1 hour' WHERE sandbox_id = :'id'", id=identifier
    )


def test_activity_is_refreshed_by_asking(client: Client, small: Any, database: Database) -> None:
    rewind(database, small.id)
    client.wait(client.wait(client.sdk.get(small.id)).refresh_activity())
    assert activity(database, small.id) < 60


@pytest.mark.deadline(150)
def test_activity_is_refreshed_by_use_but_not_by_looking(
    api: httpx.Client, small: Any, database: Database, environment: Any
) -> None:
    from Rig import wire
    from Rig.waiting import always, eventually

    rewind(database, small.id)
    with wire.client(f"{small.toolbox_proxy_url}/{small.id}", environment.api_key) as toolbox:
        quiet = toolbox.get("/version", headers={"X-Daytona-Skip-Last-Activity-Update": "true"})
        assert quiet.status_code == 200
        api.get(f"/sandbox/{small.id}")
        always(lambda: activity(database, small.id) > 60, 3, "no activity by looking")
        assert toolbox.get("/version").status_code == 200
    eventually(lambda: activity(database, small.id) < 60, 90, "the proxy's batch of activity to be written")


def test_the_client_checks_first(sync_client: Client, small: Any) -> None:
    for call in (small.set_autostop_interval, small.set_auto_archive_interval, small.set_ttl):
        with pytest.raises(DaytonaBadRequestError):
            call(-1)
