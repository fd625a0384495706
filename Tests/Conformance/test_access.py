"""Who may ask: API keys and their routes, organizations, health, and how errors reach the SDK's user."""

from __future__ import annotations

import secrets
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from daytona import (
    AsyncDaytona,
    Daytona,
    DaytonaAuthenticationError,
    DaytonaBadRequestError,
    DaytonaConfig,
    DaytonaNotFoundError,
)
from daytona_api_client import ApiClient, ApiKeysApi, Configuration, ConfigApi, CreateApiKey, OrganizationsApi

from Rig import wire
from Rig.environment import Environment
from Rig.sandboxes import Client
from Rig.waiting import eventually
from Rig.wire import check_error


@pytest.fixture(scope="module")
def generated(environment: Environment) -> ApiClient:
    """The generated client below the SDK, for routes that the SDK has no method for."""
    made = ApiClient(Configuration(host=environment.api_url))
    made.default_headers["Authorization"] = f"Bearer {environment.api_key}"
    return made


def test_health(environment: Environment) -> None:
    with wire.client(environment.api_url, None) as nobody:
        assert nobody.get("/health").status_code == 200
        assert nobody.get("/health/ready").status_code == 200


def test_config_is_public_and_whole(environment: Environment) -> None:
    config = ConfigApi(ApiClient(Configuration(host=environment.api_url))).config_controller_get_config()
    assert config.default_snapshot and config.proxy_toolbox_url and config.version
    assert config.analytics_api_url is None


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer x", "Basic eDp5", "Bearer mrt_" + "A" * 43, "Bearer " + "m" * 9000]
)
def test_nobody_gets_nothing(environment: Environment, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    with httpx.Client(base_url=environment.api_url, headers=headers, timeout=60) as nobody:
        for method, path in (("GET", "/sandbox"), ("POST", "/sandbox"), ("GET", "/api-keys"), ("GET", "/sandbox/x")):
            answer = nobody.request(method, path, json={} if method == "POST" else None)
            if len(header or "") > 8000:
                assert answer.status_code in (400, 401, 431)
            else:
                check_error(answer, 401)


def test_the_sdk_says_that_a_key_is_wrong(environment: Environment, async_client: Client) -> None:
    config = DaytonaConfig(api_key="mrt_" + "B" * 43, api_url=environment.api_url, target=environment.target)
    with pytest.raises(DaytonaAuthenticationError):
        Daytona(config).create()

    async def create() -> None:
        async with AsyncDaytona(config) as sdk:
            await sdk.create()

    with pytest.raises(DaytonaAuthenticationError):
        async_client.wait(create())


def test_a_key_from_birth_to_death(generated: ApiClient, environment: Environment, api: httpx.Client, small: Any) -> None:
    keys = ApiKeysApi(generated)
    name = f"key-{secrets.token_hex(4)}"
    made = keys.create_api_key(CreateApiKey(name=name, permissions=["write:sandboxes", "delete:sandboxes"]))
    assert made.name == name and made.value.startswith("mrt_") and len(made.value) == 47 and made.expires_at is None
    listed = {each.name: each for each in keys.list_api_keys()}
    assert made.value not in listed[name].value and listed[name].value.startswith("mrt_")
    assert keys.get_api_key(name).permissions == made.permissions
    with wire.client(environment.api_url, made.value) as holder:
        assert holder.get("/api-keys/current").json()["name"] == name
        assert holder.get(f"/sandbox/{small.id}").status_code == 200
        toolbox = wire.client(f"{small.toolbox_proxy_url}/{small.id}", made.value)
        assert toolbox.get("/version").status_code == 200
        check_error(api.post("/api-keys", json={"name": name, "permissions": []}), 409, name)
        keys.delete_api_key(name)
        check_error(holder.get(f"/sandbox/{small.id}"), 401)
        # A revoked key leaves the proxy's cache at once, open connection or not; by its age alone it would after a minute.
        eventually(lambda: toolbox.get("/version").status_code == 401, 20, "the proxy to forget the revoked key")
    check_error(api.get(f"/api-keys/{name}"), 404)
    check_error(api.delete(f"/api-keys/{name}"), 404)


def test_a_key_expires(generated: ApiClient, environment: Environment, small: Any) -> None:
    name = f"key-{secrets.token_hex(4)}"
    soon = datetime.now(timezone.utc) + timedelta(seconds=8)
    made = ApiKeysApi(generated).create_api_key(CreateApiKey(name=name, permissions=[], expires_at=soon))
    with wire.client(environment.api_url, made.value) as holder:
        toolbox = wire.client(f"{small.toolbox_proxy_url}/{small.id}", made.value)
        assert holder.get("/api-keys/current").status_code == 200
        assert toolbox.get("/version").status_code == 200
        time.sleep(max(0.0, (soon - datetime.now(timezone.utc)).total_seconds()) + 0.5)
        check_error(holder.get("/api-keys/current"), 401)
        assert toolbox.get("/version").status_code == 401
    ApiKeysApi(generated).delete_api_key(name)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"), ({"name": "", "permissions": []}, "name"), ({"name": "x" * 200, "permissions": []}, "name"),
        ({"name": "a", "permissions": ["rule:world"]}, "permissions"), ({"name": "a", "permissions": "all"}, "permissions"),
        ({"name": "a", "permissions": [], "expiresAt": "tomorrow"}, "expiresAt"),
        ({"name": "a", "permissions": [], "expiresAt": "2001-01-01T00:00:00Z"}, "expiresAt"),
    ],
)  # fmt: skip
def test_bad_keys_are_refused_by_field(api: httpx.Client, body: dict[str, Any], field: str) -> None:
    check_error(api.post("/api-keys", json=body), 400, field)


def test_a_key_can_do_only_what_it_says(generated: ApiClient, environment: Environment, small: Any) -> None:
    """A key without `delete:sandboxes` does not delete, and no key makes one that is mightier than itself."""
    name = f"key-{secrets.token_hex(4)}"
    made = ApiKeysApi(generated).create_api_key(CreateApiKey(name=name, permissions=["write:sandboxes"]))
    with wire.client(environment.api_url, made.value) as holder:
        check_error(holder.delete(f"/sandbox/{small.id}"), 403, "delete:sandboxes")
        wider = holder.post("/api-keys", json={"name": name + "-2", "permissions": ["delete:sandboxes"]})
        check_error(wider, 403)
        assert holder.get(f"/sandbox/{small.id}").status_code == 200
    ApiKeysApi(generated).delete_api_key(name)


def test_organizations_are_readable(generated: ApiClient, small: Any) -> None:
    organizations = OrganizationsApi(generated)
    mine = [each for each in organizations.list_organizations() if each.id == small.organization_id]
    assert len(mine) == 1
    assert organizations.get_organization(small.organization_id).name == mine[0].name


def test_errors_name_their_source_and_reach_the_user(client: Client, shared: Any, api: httpx.Client) -> None:
    with pytest.raises(DaytonaNotFoundError) as missing:
        client.wait(client.sdk.get("no-such-sandbox"))
    assert (missing.value.status_code, missing.value.source) == (404, "DAYTONA_API")
    assert "no-such-sandbox" in str(missing.value)
    box = client.wait(client.sdk.get(shared.id))
    with pytest.raises(DaytonaBadRequestError) as empty:
        client.wait(box.process.exec(""))
    assert (empty.value.status_code, empty.value.source) == (400, "DAYTONA_DAEMON")
    check_error(api.get("/no-such-route"), 404)
    answer = api.patch("/sandbox")
    assert answer.status_code in (404, 405)
    check_error(answer, answer.status_code)


def test_an_unknown_upgrade_is_refused_at_once(environment: Environment) -> None:
    """The SDK tries an event socket with every client; without one it must hear so quickly."""
    begun = time.monotonic()
    answer = httpx.get(
        f"{environment.api_url}/socket.io/?EIO=4&transport=websocket",
        headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                 "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}, timeout=30,
    )  # fmt: skip
    assert answer.status_code in (101, 404) and time.monotonic() - begun < 5
