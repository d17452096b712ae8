"""Transport of the client to AWS or a compatible server: boto3 clients, request members, answer bodies."""

import ipaddress
import json
import re
import threading
import uuid
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config

from mammopipe.inference.client.errors import EndpointFaultError, calling
from mammopipe.inference.client.retry import Deadline
from mammopipe.inference.contract.media_types import AnswerType, pack_attributes
from mammopipe.processing.errors import ConfigError

CONNECT_SECONDS = 5.0
CHUNK_BYTES = 16 * 2**10
"""Bytes of an answer that are read between two checks of the deadline."""
Options = Mapping[str, str | None]
_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
"""EndpointName (SageMaker API Reference, InvokeEndpoint)."""
_VALUE = re.compile(r"[\x21-\x2b\x2d-\x3a\x3c-\x7e]+")
"""An option's value: visible ASCII without comma and semicolon, which separate the custom attributes."""
_URL = re.compile(r"https?://[\x21-\x7e]+")
"""A URL in visible ASCII: the first line of an HTTP request cannot carry other characters."""
_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# boto3's default session is not thread-safe while it creates a client ("Session", boto3 Developer Guide).
_CREATING = threading.Lock()


def checked_name(name: str, argument: str = "endpoint_name") -> str:
    """Return the name of an endpoint; raises `ConfigError` if SageMaker does not allow the name."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f"{argument}={name!r}: must be 1 to 63 letters, digits and hyphens, no hyphen at an end")
    return name


def checked_url(url: str | None, argument: str = "endpoint_url") -> str | None:
    """Return the URL of a server; raises `ConfigError` if it is invalid."""
    if url is None:
        return None
    try:
        found = urlsplit(url)
        usable = _URL.fullmatch(url) is not None and bool(found.hostname) and found.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{argument}={url!r}: must be the http:// or https:// URL of a server, in visible ASCII")
    return url


def checked_region(region: str | None) -> str | None:
    """Return the name of an AWS region; raises `ConfigError` if it is invalid."""
    if region is not None and _REGION.fullmatch(region) is None:
        raise ConfigError(f"region={region!r}: must be the name of an AWS region, such as eu-central-1")
    return region


def runtime(url: str | None, region: str | None, read_seconds: float) -> Any:
    """Return a boto3 `sagemaker-runtime` client without retries; a loopback URL needs neither keys nor region."""
    # `Retry` makes and counts the attempts. Retries by botocore would multiply them and ignore the deadline.
    settings: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "connect_timeout": min(CONNECT_SECONDS, read_seconds),
        "read_timeout": read_seconds,
    }
    if url is None or not _is_loopback(url):
        return service("sagemaker-runtime", region_name=region, endpoint_url=url, config=Config(**settings))
    # Placeholder keys keep botocore from searching the machine and its network for real ones.
    return service(
        "sagemaker-runtime",
        region_name=region or "us-east-1",
        endpoint_url=url,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(signature_version=UNSIGNED, proxies={}, **settings),
    )


def service(name: str, **settings: Any) -> Any:
    """Return a boto3 client; only one thread at a time creates one."""
    with _CREATING:
        return calling(lambda: boto3.client(name, **settings))


def request_members(content_type: str, form: AnswerType, options: Options) -> dict[str, str]:
    """Return the request members that real-time and async calls share.

    The InferenceId is a new UUID, which also appears in SageMaker's logs.

    Raises:
        ConfigError: The header cannot carry the value of an option.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if _VALUE.fullmatch(value) is None:
            raise ConfigError(f"option {name}={value!r}: must be visible ASCII without spaces, commas and semicolons")
    request = {"ContentType": content_type, "Accept": str(form), "InferenceId": str(uuid.uuid4())}
    return request | ({"CustomAttributes": pack_attributes(given)} if given else {})


def read_answer(stream: Any, deadline: Deadline) -> bytes:
    """Return the whole body of an answer; raises `DeadlineError` if it is still arriving at the deadline.

    The stream is closed in any case: an answer that is not read to its end would keep its connection open.
    """

    def read() -> bytes:
        deadline.check()
        return bytes(stream.read(CHUNK_BYTES))

    with closing(stream):
        return b"".join(iter(read, b""))


def stored_object(storage: Any, uri: str, **options: str) -> bytes:
    """Return the bytes of an `s3://` object; the options are further arguments of GetObject."""
    with closing(storage.get_object(**object_place(uri), **options)["Body"]) as body:
        return bytes(body.read())


def json_object(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object of an answer; an empty mapping if the JSON is not an object."""
    try:
        values = json.loads(body)
    except ValueError as error:
        raise EndpointFaultError("unreadable_answer", f"the answer is not JSON: {error}") from None
    return values if isinstance(values, Mapping) else {}


def object_place(uri: str) -> dict[str, str]:
    """Return the bucket and the key of an `s3://` URI as boto3 arguments."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
