"""Getting and listing: by id, by name, by every filter, in every order, page by page."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, Iterator

import httpx
import pytest
from daytona import DaytonaNotFoundError, ListSandboxesQuery, SandboxListSortDirection, SandboxListSortField, SandboxState

from Rig.database import Database
from Rig.sandboxes import RUN_LABEL, Client, Sandboxes
from Rig.wire import check_error

COUNT = 12


@pytest.fixture(scope="module")
def dozen(sandboxes: Sandboxes, busybox: str, database: Database) -> Iterator[list[Any]]:
    """Twelve sandboxes `list-…-00` to `-11`; two are stopped, and their ages and activity are set apart in SQL."""

    def parameters(number: int) -> dict[str, Any]:
        return {
            "snapshot": busybox, "name": f"list-{sandboxes.run}-{number:02}", "public": number % 2 == 0,
            "labels": {"group": "even" if number % 2 == 0 else "odd", "n": str(number)}, "auto_stop_interval": 0,
            "ttl_minutes": 600 if number == 3 else None,
        }

    made = [sandboxes.create(**parameters(number)) for number in range(COUNT)]
    for each in made[:2]:
        each.stop(force=True)
    for number, each in enumerate(made):
        database.execute(
            """
            UPDATE sandbox SET created_at = now() - make_interval(hours => :n) WHERE id = :'id';
            UPDATE sandbox_activity SET last_activity_at = now() - make_interval(hours => 100 - :n) WHERE sandbox_id = :'id';
            """,
            id=each.id, n=number,
        )
    yield made
    sandboxes.remove([each.id for each in made])


def names(client: Client, sandboxes: Sandboxes, **query: Any) -> list[str]:
    """The numbers of the listed sandboxes of this run, in the order they came."""
    query["labels"] = {RUN_LABEL: sandboxes.run, **query.get("labels", {})}
    listed = client.collect(client.sdk.list(ListSandboxesQuery(**query)))
    return [each.name.rpartition("-")[2] for each in listed if each.name.startswith(f"list-{sandboxes.run}-")]


def numbers(*wanted: int) -> list[str]:
    return [f"{each:02}" for each in wanted]


def test_get_by_id_and_by_name(client: Client, dozen: list[Any]) -> None:
    by_id = client.wait(client.sdk.get(dozen[4].id))
    by_name = client.wait(client.sdk.get(dozen[4].name))
    assert by_id.id == by_name.id == dozen[4].id
    assert by_id.name == by_name.name == dozen[4].name


def test_get_of_nothing(client: Client) -> None:
    for nothing in ("no-such-sandbox", "00000000-0000-4000-8000-000000000000", "a/b", "%2e%2e", "ünïcödé"):
        with pytest.raises(DaytonaNotFoundError):
            client.wait(client.sdk.get(nothing))


def test_the_dto_has_what_the_client_requires(api: httpx.Client, dozen: list[Any]) -> None:
    one = api.get(f"/sandbox/{dozen[0].id}").json()
    required = (
        "id organizationId name user env labels public networkBlockAll kvm target cpu gpu memory disk toolboxProxyUrl state"
    ).split()
    assert [field for field in required if one.get(field) is None] == []
    assert not one["toolboxProxyUrl"].endswith("/") and one["id"] not in one["toolboxProxyUrl"]
    assert all(isinstance(one[field], int) for field in ("cpu", "gpu", "memory", "disk"))
    for field in ("createdAt", "updatedAt", "lastActivityAt"):
        datetime.fromisoformat(one[field].replace("Z", "+00:00"))
    listed = api.get("/sandbox", params={"name": dozen[0].name}).json()["items"][0]
    assert listed["id"] == one["id"] and "toolboxProxyUrl" in listed


def test_the_toolbox_address(api: httpx.Client, dozen: list[Any]) -> None:
    answer = api.get(f"/sandbox/{dozen[0].id}/toolbox-proxy-url")
    assert (answer.status_code, answer.json()) == (200, {"url": dozen[0].toolbox_proxy_url})


def test_all_pages(client: Client, sandboxes: Sandboxes, dozen: list[Any]) -> None:
    ascending = SandboxListSortDirection.ASC
    for limit in (1, 5, COUNT, 100):
        found = names(client, sandboxes, limit=limit, sort=SandboxListSortField.NAME, order=ascending)
        assert found == numbers(*range(COUNT)), f"limit {limit}"


@pytest.mark.parametrize("sort", ["name", "cpu", "memoryGib", "diskGib", "lastActivityAt", "createdAt"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_every_sort_pages_without_loss(
    sync_client: Client, sandboxes: Sandboxes, dozen: list[Any], sort: str, order: str
) -> None:
    found = names(
        sync_client, sandboxes, limit=5, sort=SandboxListSortField(sort), order=SandboxListSortDirection(order)
    )
    assert sorted(found) == numbers(*range(COUNT))
    rising = {"name": range(COUNT), "lastActivityAt": range(COUNT), "createdAt": reversed(range(COUNT))}.get(sort)
    if rising is not None:
        expected = numbers(*rising)
        assert found == (expected if order == "asc" else expected[::-1])


def test_the_default_order_is_last_activity_first(sync_client: Client, sandboxes: Sandboxes, dozen: list[Any]) -> None:
    assert names(sync_client, sandboxes) == numbers(*reversed(range(COUNT)))


def test_filters(client: Client, sandboxes: Sandboxes, dozen: list[Any], busybox: str, environment: Any) -> None:
    ascending = {"sort": SandboxListSortField.NAME, "order": SandboxListSortDirection.ASC}
    now = datetime.now(timezone.utc)

    def found(**query: Any) -> list[str]:
        return names(client, sandboxes, **ascending, **query)

    everything, even, odd = numbers(*range(COUNT)), numbers(*range(0, COUNT, 2)), numbers(*range(1, COUNT, 2))
    assert found(labels={"group": "even"}) == even
    assert found(labels={"group": "even", "n": "4"}) == numbers(4)
    assert found(labels={"group": "neither"}) == []
    assert found(is_public=True) == even
    assert found(is_public=False) == odd
    assert found(states=[SandboxState.STOPPED]) == numbers(0, 1)
    assert found(states=[SandboxState.STARTED]) == numbers(*range(2, COUNT))
    assert found(states=[SandboxState.STARTED, SandboxState.STOPPED]) == everything
    assert found(states=[SandboxState.ERROR]) == []
    assert found(name=f"list-{sandboxes.run}-1") == numbers(10, 11)
    assert found(name=f"LIST-{sandboxes.run.upper()}-0") == numbers(*range(10))
    assert found(name="%") == [] and found(name="_") == []
    assert found(id=dozen[7].id[:30]) == numbers(7)
    assert found(id=dozen[7].id[:30].upper()) == numbers(7)
    assert found(snapshots=[busybox]) == everything
    assert found(snapshots=["another"]) == []
    assert found(targets=[environment.target]) == everything
    assert found(targets=["elsewhere"]) == []
    assert found(min_cpu=1, max_cpu=1) == everything
    assert found(min_cpu=2) == [] and found(min_memory_gib=2) == []
    assert found(min_memory_gib=1, max_memory_gib=1, min_disk_gib=1, max_disk_gib=1) == everything
    assert found(min_disk_gib=2) == []
    assert found(is_recoverable=True) == []
    assert found(created_at_after=now - timedelta(hours=2, minutes=30)) == numbers(0, 1, 2)
    assert found(created_at_before=now - timedelta(hours=9, minutes=30)) == numbers(10, 11)
    assert found(last_activity_after=now - timedelta(hours=90, minutes=30)) == numbers(10, 11)
    assert found(last_activity_before=now - timedelta(hours=98, minutes=30)) == numbers(0, 1)
    assert found(auto_destroy_at_after=now) == numbers(3)
    assert found(auto_destroy_at_before=now) == []
    # A time without a zone, as datetime.now() gives it, is UTC.
    naive = (now - timedelta(hours=2, minutes=30)).replace(tzinfo=None)
    assert found(created_at_after=naive) == numbers(0, 1, 2)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"), ({"limit": "-1"}, "limit"), ({"limit": "x"}, "limit"), ({"limit": "100000"}, "limit"),
        ({"cursor": "garbage"}, "cursor"), ({"sort": "password"}, "sort"), ({"order": "sideways"}, "order"),
        ({"states": "asleep"}, "states"), ({"labels": "{"}, "labels"), ({"labels": "[]"}, "labels"),
        ({"minCpu": "x"}, "minCpu"), ({"createdAtAfter": "yesterday"}, "createdAtAfter"), ({"isPublic": "maybe"}, "isPublic"),
    ],
)  # fmt: skip
def test_bad_queries_are_named(api: httpx.Client, query: dict[str, str], field: str) -> None:
    check_error(api.get("/sandbox", params=query), 400, field)


def test_a_cursor_does_not_fit_another_order(api: httpx.Client, dozen: list[Any]) -> None:
    first = api.get("/sandbox", params={"limit": "2", "sort": "name", "order": "asc"}).json()
    assert first["nextCursor"]
    answer = api.get("/sandbox", params={"limit": "2", "sort": "cpu", "order": "desc", "cursor": first["nextCursor"]})
    check_error(answer, 400, "cursor")


def test_pages_stand_still_while_rows_come_and_go(
    api: httpx.Client, sandboxes: Sandboxes, dozen: list[Any], busybox: str
) -> None:
    query = {"limit": "5", "sort": "name", "order": "asc", "name": f"list-{sandboxes.run}-"}
    first = api.get("/sandbox", params=query).json()
    extra = sandboxes.create(snapshot=busybox, name=f"list-{sandboxes.run}-0000")
    second = api.get("/sandbox", params={**query, "cursor": first["nextCursor"]}).json()
    third = api.get("/sandbox", params={**query, "cursor": second["nextCursor"]}).json()
    seen = [each["name"][-2:] for page in (first, second, third) for each in page["items"]]
    assert seen == numbers(*range(COUNT)) and not third.get("nextCursor")
    sandboxes.remove([extra.id])


def test_deleted_ones_are_not_listed(api: httpx.Client, sandboxes: Sandboxes, busybox: str) -> None:
    made = sandboxes.create(snapshot=busybox)
    made.delete(wait=True)
    assert api.get("/sandbox", params={"id": made.id}).json()["items"] == []
    check_error(api.get(f"/sandbox/{made.id}"), 404)
