"""The wire without the SDK: for what the SDK cannot say (bad fields, foreign keys, spoofed headers, raw paths)."""

from __future__ import annotations

import hashlib
import secrets
import socket
import ssl
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import urlsplit

import httpx

from Rig.database import Database

REQUEST_SECONDS = 60


def client(base: str, key: str | None) -> httpx.Client:
    """An HTTP client with a key (or none) and a base."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=base, headers=headers, timeout=REQUEST_SECONDS)


def check_error(answer: httpx.Response, status: int, *mentions: str, code: str | None = None) -> dict[str, Any]:
    """Asserts Martlet's one error shape and that the message names what it must."""
    assert answer.status_code == status, f"{answer.status_code} instead of {status}: {answer.text[:500]}"
    body = answer.json()
    missing = {"statusCode", "error", "code", "message", "path", "timestamp", "source"} - body.keys()
    assert not missing, f"the error body lacks {missing}: {body}"
    assert body["statusCode"] == status and isinstance(body["message"], str) and body["message"], body
    assert body["source"] in ("DAYTONA_API", "DAYTONA_PROXY", "DAYTONA_DAEMON"), body
    for each in mentions:
        assert each.lower() in body["message"].lower(), f"the message does not name {each!r}: {body['message']!r}"
    assert code is None or body["code"] == code, body
    return body


def raw_exchange(url: str, request: bytes, seconds: float = 10) -> bytes:
    """Sends bytes as they are to the host of `url` and returns what came until the peer closed or went quiet."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname, port), timeout=seconds) as plain:
        peer = plain
        if parts.scheme == "https":
            context = ssl.create_default_context()
            peer = context.wrap_socket(plain, server_hostname=parts.hostname)
        peer.sendall(request)
        peer.settimeout(seconds)
        answer = b""
        try:
            while chunk := peer.recv(65536):
                answer += chunk
        except (TimeoutError, ConnectionResetError):
            pass
        return answer


def status_of(answer: bytes) -> int:
    """The status of a raw answer; 0 when the peer closed without one."""
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/1.") else 0


class Tenant:
    """An organization of its own with a key, made by SQL and removed with everything in it."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self.name = name
        self.key = "mrt_" + urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        self.organization = self.user = ""

    def __enter__(self) -> Tenant:
        found = self._database.row(
            "SELECT gen_random_uuid() AS organization, gen_random_uuid() AS member"
        )
        self.organization, self.user = found["organization"], found["member"]
        self._database.execute(
            """
            INSERT INTO organization (id, name, default_region_id)
                SELECT :'organization', :'name', id FROM region ORDER BY created_at LIMIT 1;
            INSERT INTO app_user (id, email) VALUES (:'member', :'name' || '@example.invalid');
            INSERT INTO organization_member (organization_id, user_id, role) VALUES (:'organization', :'member', 'owner');
            INSERT INTO api_key (organization_id, user_id, name, hash, prefix, suffix, permissions)
                SELECT :'organization', :'member', 'test', decode(:'hash', 'hex'), left(:'key', 8), right(:'key', 4),
                    permissions FROM api_key ORDER BY created_at LIMIT 1;
            """,
            organization=self.organization, member=self.user, name=self.name, key=self.key,
            hash=hashlib.sha256(self.key.encode()).hexdigest(),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._database.execute(
            """
            UPDATE sandbox SET desired_state = 'destroyed' WHERE organization_id = :'organization';
            DELETE FROM api_key WHERE organization_id = :'organization';
            """,
            organization=self.organization,
        )
