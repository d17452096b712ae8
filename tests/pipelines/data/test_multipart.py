"""Large files, whose entity tags are not digests: uploaded in parts, recognised later, continued after an error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.data import multipart, s3, staging
from mammopipe.pipelines.data.s3 import ExpiredAccessError, Storage
from mammopipe.processing.container.s3_uri import S3Uri
from mammopipe.processing.errors import StorageError
from tests.pipelines.conftest import BUCKET

PART = 5 * 2**20
"""The smallest part that S3 accepts."""
PLACE = S3Uri(BUCKET, "large/film.dcm")


def refusal(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": ""}}, operation)


class Client:
    """The emulator's client; counts parts, fails at one of them, and returns checksums of parts as S3 does."""

    def __init__(self, client: Any, fails_at: int = 0, error: Exception | None = None):
        self.client, self.fails_at, self.error = client, fails_at, error or refusal("ExpiredToken", "UploadPart")
        self.sent: list[int] = []
        self.sums: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def upload_part(self, **given: Any) -> Any:
        if given["PartNumber"] == self.fails_at:
            raise self.error
        self.sent.append(given["PartNumber"])
        self.sums[given["PartNumber"]] = given["ChecksumSHA256"]
        return self.client.upload_part(**given)

    def head_object(self, **given: Any) -> dict[str, Any]:
        found = dict(self.client.head_object(**given))
        if given.get("ChecksumMode"):
            found["ChecksumSHA256"] += f"-{len(self.sums)}"
        return found

    def get_paginator(self, name: str) -> Any:
        return self if name == "list_parts" else self.client.get_paginator(name)

    def paginate(self, **given: Any) -> Iterator[dict[str, Any]]:
        for page in self.client.get_paginator("list_parts").paginate(**given):
            parts = [{**part, "ChecksumSHA256": self.sums[part["PartNumber"]]} for part in page.get("Parts", [])]
            yield {**page, "Parts": parts}


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(s3, "SINGLE_PUT_BYTES", PART)
    monkeypatch.setattr(multipart, "PART_BYTES", PART)
    path = tmp_path / "film.dcm"
    path.write_bytes(np.random.default_rng(1).bytes(2 * PART + 1000))
    return path


def content(services: LocalServices) -> bytes:
    return services.storage.read(str(PLACE))


def test_a_large_file_is_known_again_and_its_change_is_seen(services: LocalServices, image: Path) -> None:
    client = Client(services.storage.client)
    storage = Storage(client)
    storage.put(image, str(PLACE))
    assert sorted(client.sent) == [1, 2, 3] and content(services) == image.read_bytes()
    assert storage.holds(PLACE, image)
    with image.open("r+b") as stream:
        stream.seek(PART + 7)
        stream.write(b"another pixel")
    assert not storage.holds(PLACE, image)
    storage.put(image, str(PLACE))
    assert content(services) == image.read_bytes()
    head = services.storage.client.head_object(Bucket=BUCKET, Key=PLACE.key)
    assert head["ContentType"] == "application/dicom"


@pytest.mark.parametrize("changed", [False, True])
def test_an_interrupted_upload_sends_only_the_parts_that_s3_lacks(
    services: LocalServices, image: Path, changed: bool
) -> None:
    client = Client(services.storage.client, fails_at=3)
    with pytest.raises(ExpiredAccessError, match="the credentials have expired"):
        Storage(client).put(image, str(PLACE))
    assert sorted(client.sent) == [1, 2]
    if changed:
        image.write_bytes(b"x" + image.read_bytes()[1:])
    client.fails_at, client.sent = 0, []
    Storage(client).put(image, str(PLACE))
    assert sorted(client.sent) == ([1, 3] if changed else [3])
    assert content(services) == image.read_bytes()


def test_an_upload_that_another_command_ended_is_told_so(services: LocalServices, image: Path) -> None:
    client = Client(services.storage.client, fails_at=3, error=refusal("NoSuchUpload", "UploadPart"))
    with pytest.raises(StorageError, match="another command has finished or cancelled this upload; run this"):
        Storage(client).put(image, str(PLACE))


@pytest.mark.parametrize(
    ("code", "operation", "expired"),
    [
        ("ExpiredToken", "PutObject", True),
        ("RequestExpired", "PutObject", True),
        ("ExpiredTokenException", "ListObjectsV2", True),
        ("TokenRefreshRequired", "GetObject", True),
        ("400", "HeadObject", True),
        ("400", "GetObject", False),
        ("AccessDenied", "PutObject", False),
        ("SlowDown", "PutObject", False),
    ],
)
def test_expired_credentials_are_told_from_other_refusals(
    services: LocalServices, code: str, operation: str, expired: bool
) -> None:
    with pytest.raises(StorageError) as caught, Storage(services.storage.client)._errors("s3://b/k"):
        raise refusal(code, operation)
    assert isinstance(caught.value, ExpiredAccessError) is expired
    assert getattr(caught.value, "exit_code", 2) == (4 if expired else 2)
    assert ("the credentials have expired" in str(caught.value)) is expired


def test_credentials_that_expire_while_staging_leave_what_was_sent(
    services: LocalServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for number in range(30):
        files.append(tmp_path / f"{number:02}.pgm")
        files[-1].write_bytes(bytes([number]))
    put, uri = Storage.put, f"s3://{BUCKET}/half"

    def expire(self: Storage, path: Path, uri: str) -> None:
        if path.name == "10.pgm":
            raise ExpiredAccessError("s3://b/k: the credentials have expired")
        put(self, path, uri)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", expire)
        with pytest.raises(
            ExpiredAccessError, match="run the command again: it uploads what S3 still lacks of 30 files"
        ):
            staging._send(tmp_path, files, uri, services.storage, title="")
    there = {item.key.rpartition("/")[2] for item in services.storage.list(f"{uri}/")}
    assert "10.pgm" not in there and len(there) < 30
    rest = staging._send(tmp_path, files, uri, services.storage, title="")
    assert {path.name for path in rest} == {path.name for path in files} - there
