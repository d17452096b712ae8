"""Fetches S3 objects that a request names, if the deployment allows it: within one prefix, and within the size limit.

Network isolation is the default. A container then cannot reach S3, and without an allowed prefix it never tries.
"""

from contextlib import closing
from functools import cache
from typing import Any
from urllib.parse import unquote

from mammopipe.inference.contract.errors import (
    ForbiddenError,
    NotFoundError,
    RequestError,
    TooLargeError,
    UnavailableError,
)

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 3, 10, 2
_SCHEME = "s3://"
_MISSING = ("404", "NoSuchKey", "NoSuchBucket", "NotFound")
_DENIED = ("403", "AccessDenied", "Forbidden")
_CHANGED = ("412", "PreconditionFailed")


def fetch(uri: str, *, prefix: str, max_bytes: int) -> bytes:
    """Return the bytes of an S3 object; checks its size before fetching it.

    Args:
        uri: `s3://BUCKET/KEY` of the object.
        prefix: `s3://BUCKET/FOLDER` that must contain the object; empty allows none.
        max_bytes: Most bytes of the object.

    Raises:
        ForbiddenError: The object is outside `prefix`, or S3 denies access.
        NotFoundError: There is no such object.
        TooLargeError: The object has more than `max_bytes`.
        UnavailableError: S3 does not answer.
    """
    bucket, key = _place(uri, prefix)
    # Imported only if the deployment allows S3, because it takes a second to load.
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        head = _client().head_object(Bucket=bucket, Key=key)
        _check_size(int(head["ContentLength"]), max_bytes)
        # The ETag makes sure that the object is the one whose size was checked; it could be replaced in between.
        got = _client().get_object(Bucket=bucket, Key=key, IfMatch=head["ETag"])
        with closing(got["Body"]) as body:
            data = bytes(body.read(max_bytes + 1))
    except ClientError as error:
        raise _refusal(str(error.response.get("Error", {}).get("Code", ""))) from None
    except BotoCoreError:
        raise UnavailableError("s3_unavailable", "S3 did not answer; try again") from None
    _check_size(len(data), max_bytes)
    return data


def _place(uri: str, prefix: str) -> tuple[str, str]:
    """Return bucket and key; raises `ForbiddenError` unless every reading of the key is below the prefix."""
    if not prefix:
        raise ForbiddenError("s3_not_allowed", "this deployment fetches no s3_uri; send the image itself")
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    allowed_bucket, _, folder = prefix.removeprefix(_SCHEME).partition("/")
    folder = folder.rstrip("/") + "/" if folder.strip("/") else ""
    inside = uri.startswith(_SCHEME) and bucket == allowed_bucket and key.startswith(folder) and key != folder
    if not inside or not _is_plain(key):
        raise ForbiddenError("s3_outside_prefix", "s3_uri must lie within the prefix that this deployment allows")
    return bucket, key


def _is_plain(key: str) -> bool:
    """Return whether the key is unambiguous: no `..`, `.`, empty steps or controls that a store could rewrite."""
    # Repeated: "%252e" becomes "%2e" and then ".". A key that is still encoded after three rounds is refused.
    for _ in range(3):
        steps = key.replace("\\", "/").split("/")
        if {"", ".", ".."} & set(steps) or not key.isprintable():
            return False
        key, before = unquote(key), key
        if key == before:
            return True
    return False


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLargeError("too_large", f"the S3 object has {size} bytes; the limit is {max_bytes}")


def _refusal(code: str) -> RequestError:
    if code in _MISSING:
        return NotFoundError("s3_missing", "there is no such S3 object")
    if code in _DENIED:
        return ForbiddenError("s3_denied", "S3 does not let this deployment read the object")
    if code in _CHANGED:
        return UnavailableError("s3_changed", "the S3 object was replaced while it was read; try again")
    return UnavailableError("s3_unavailable", "S3 did not answer; try again")


@cache
def _client() -> Any:
    """Return the worker's S3 client; URL and region come from the environment."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        ),
    )
