"""Where files of builds are uploaded: S3's protocol over https, with credentials that reach one organization and soon end."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from datetime import datetime, timezone
from typing import Any, Iterator

import httpx
import pytest
from obstore.store import S3Store

KEY = "{organization}/{hash}/context.tar"


@pytest.fixture
def access(api: httpx.Client) -> dict[str, str]:
    answer = api.get("/object-storage/push-access")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def https() -> Iterator[httpx.Client]:
    """Trusts what this machine trusts, as the SDK's own client does."""
    with httpx.Client(verify=ssl.create_default_context(), timeout=30) as made:
        yield made


def store(access: dict[str, str], **changed: str) -> S3Store:
    its = {**access, **changed}
    return S3Store(
        bucket=its["bucket"], endpoint=its["storageUrl"], region=its["region"], access_key_id=its["accessKey"],
        secret_access_key=its["secret"], session_token=its["sessionToken"], retry_config={"max_retries": 0},
    )  # fmt: skip


def fresh_key(access: dict[str, str]) -> str:
    return KEY.format(organization=access["organizationId"], hash=hashlib.md5(str(time.time_ns()).encode()).hexdigest())


def signed(access: dict[str, str], method: str, path: str, body: bytes = b"", at: datetime | None = None, **changed: Any) -> dict[str, Any]:
    """A request signed by hand, by AWS' own description of Signature Version 4, and not by the code under test."""
    url = httpx.URL(access["storageUrl"])
    moment = at or datetime.now(timezone.utc)
    stamp, day = moment.strftime("%Y%m%dT%H%M%SZ"), moment.strftime("%Y%m%d")
    raw, _, query = f"{url.path}/{path}".partition("?")
    digest = changed.get("digest", hashlib.sha256(body).hexdigest())
    headers = {
        "host": url.netloc.decode(), "x-amz-content-sha256": digest, "x-amz-date": stamp,
        "x-amz-security-token": changed.get("token", access["sessionToken"]),
    }  # fmt: skip
    names = changed.get("names", sorted(headers))
    canonical = "\n".join(
        [method, raw, "&".join(sorted(each if "=" in each else f"{each}=" for each in query.split("&") if each))]
        + [f"{name}:{headers[name]}" for name in names] + ["", ";".join(names), digest]
    )  # fmt: skip
    scope = f"{day}/{access['region']}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{access['secret']}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access['accessKey']}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    del headers["host"]
    return {"method": method, "url": f"{access['storageUrl']}/{path}", "headers": headers, "content": body}


def test_an_object_is_uploaded_once_and_found(access: dict[str, str]) -> None:
    """By the SDK's own S3 library: several parts, then HEAD; again, and what was complete stays."""
    key, size = fresh_key(access), 12 << 20
    bucket = store(access)
    with pytest.raises(FileNotFoundError):
        bucket.head(key)
    pieces = (b"%07d\n" % number * (1 << 13) for number in range(size >> 16))
    bucket.put(key, pieces, chunk_size=5 << 20, max_concurrency=4)
    assert bucket.head(key)["size"] == size
    bucket.put(key, iter([b"another"]), use_multipart=True)
    assert bucket.head(key)["size"] == size


def test_credentials_reach_their_organization_only(access: dict[str, str], https: httpx.Client) -> None:
    base = f"{access['bucket']}/" + fresh_key(access)
    stranger = base.replace(access["organizationId"], "9b1c0000-0000-4000-8000-000000000001")
    assert https.request(**signed(access, "HEAD", base)).status_code == 404, "the control"
    assert https.request(**signed(access, "HEAD", stranger)).status_code == 403
    assert https.request(**signed(access, "POST", f"{stranger}?uploads=")).status_code == 403
    assert https.request(**signed(access, "HEAD", base.replace(access["bucket"], "other"))).status_code == 403
    assert https.get(f"{access['storageUrl']}/{base}").status_code == 405, "nothing is given back"
    assert https.get(f"{access['storageUrl']}/{access['bucket']}?list-type=2").status_code == 404


@pytest.mark.parametrize("wrong", ["secret", "accessKey", "token", "path", "body", "unsigned token", "old", "future", "region", "none"])
def test_what_is_not_signed_as_it_must_be_is_refused(wrong: str, access: dict[str, str], https: httpx.Client) -> None:
    base = f"{access['bucket']}/" + fresh_key(access)
    start = f"{base}?uploads="
    now = datetime.now(timezone.utc).timestamp()
    request = {
        "secret": lambda: signed({**access, "secret": "0" * 64}, "POST", start),
        "accessKey": lambda: signed({**access, "accessKey": "9b1c0000-0000-4000-8000-000000000001"}, "POST", start),
        "token": lambda: signed(access, "POST", start, token=str(int(access["sessionToken"]) + 3600)),
        "path": lambda: {**signed(access, "POST", start), "url": f"{access['storageUrl']}/{base}?uploads=&x=1"},
        "body": lambda: {**signed(access, "POST", start), "content": b"x"},
        "unsigned token": lambda: signed(access, "POST", start, names=["host", "x-amz-content-sha256", "x-amz-date"]),
        "old": lambda: signed(access, "POST", start, at=datetime.fromtimestamp(now - 1000, timezone.utc)),
        "future": lambda: signed(access, "POST", start, at=datetime.fromtimestamp(now + 1000, timezone.utc)),
        "region": lambda: signed({**access, "region": "eu-west-1"}, "POST", start),
        "none": lambda: {"method": "POST", "url": f"{access['storageUrl']}/{start}"},
    }[wrong]()
    answer = https.request(**request)
    assert answer.status_code in (400, 403, 413), (wrong, answer.status_code, answer.text)
    assert access["secret"] not in answer.text


def test_a_part_must_be_what_was_signed_and_fit(access: dict[str, str], https: httpx.Client) -> None:
    base = f"{access['bucket']}/" + fresh_key(access)
    begun = https.request(**signed(access, "POST", f"{base}?uploads=")).text
    upload = begun.partition("<UploadId>")[2].partition("<")[0]
    part = f"{base}?partNumber=1&uploadId={upload}"
    assert https.request(**signed(access, "PUT", part, b"good", digest=hashlib.sha256(b"evil").hexdigest())).status_code == 400
    assert https.request(**signed(access, "PUT", part, b"x" * ((8 << 20) + 1))).status_code == 413
    assert https.request(**signed(access, "PUT", f"{base}?partNumber=0&uploadId={upload}", b"x")).status_code == 400
    assert https.request(**signed(access, "PUT", f"{base}?partNumber=1&uploadId={'0' * 36}", b"x")).status_code == 404
    assert https.request(**signed(access, "PUT", part, b"good")).status_code == 200
    assert https.request(**signed(access, "POST", f"{base}?uploadId={upload}", b"<CompleteMultipartUpload/>")).status_code == 400
    assert https.request(**signed(access, "DELETE", f"{base}?uploadId={upload}")).status_code == 204
    assert https.request(**signed(access, "PUT", part, b"good")).status_code == 404, "aborted"


def test_a_revoked_key_takes_its_credentials_with_it(api: httpx.Client, environment: Any, https: httpx.Client) -> None:
    made = api.post("/api-keys", json={"name": f"storage-{time.time_ns()}", "permissions": ["write:sandboxes"]})
    assert made.status_code in (200, 201), made.text
    headers = {"Authorization": f"Bearer {made.json()['value']}"}
    access = api.get("/object-storage/push-access", headers=headers).json()
    path = f"{access['bucket']}/" + fresh_key(access)
    assert https.request(**signed(access, "HEAD", path)).status_code == 404
    assert api.delete(f"/api-keys/{made.json()['name']}").status_code in (200, 204)
    assert https.request(**signed(access, "HEAD", path)).status_code == 403
