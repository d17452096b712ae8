"""Errors of AWS and of botocore, and arguments of the client that cannot work."""

import io
import random
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from mammopipe.inference.client import client as module
from mammopipe.inference.client.client import (
    EndpointUnreachableError,
    MammographyClient,
    RequestRefusedError,
)
from mammopipe.processing.errors import ConfigError
from tests.inference.client.conftest import PGM
from tests.support.standin import image_json


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ThrottlingException", 400),
        ("ServiceUnavailable", 503),
        ("ModelNotReadyException", 429),
        ("InternalFailure", 500),
    ],
)
def test_throttling_and_faults_of_aws_are_tried_again(
    stubbed: tuple[Stubber, MammographyClient], code: str, status: int
) -> None:
    stubber, client = stubbed
    stubber.add_client_error("invoke_endpoint", code, "Rate exceeded", http_status_code=status)
    body = {"Body": io.BytesIO(image_json()), "ContentType": "application/json"}
    stubber.add_response("invoke_endpoint", body)
    assert client.predict(PGM).decile == 9
    stubber.assert_no_pending_responses()


@pytest.mark.parametrize("code", ["ValidationError", "AccessDeniedException", "ExpiredTokenException"])
def test_what_trying_again_cannot_mend_is_told_at_once(stubbed: tuple[Stubber, MammographyClient], code: str) -> None:
    stubber, client = stubbed
    stubber.add_client_error("invoke_endpoint", code, "Endpoint breast of account 1\nnot found.", http_status_code=400)
    with pytest.raises(EndpointUnreachableError) as caught:
        client.predict(PGM)
    assert str(caught.value) == f"{code}: Endpoint breast of account 1 not found."


def test_no_connection_is_tried_again_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: waits.append(high) or 0)
    with pytest.raises(EndpointUnreachableError, match="unreachable"):
        MammographyClient("breast", endpoint_url="http://127.0.0.1:9", attempts=3).predict(PGM)
    assert len(waits) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"backoff_seconds": -1},
        {"deadline_seconds": 0},
        {"deadline_seconds": float("inf")},
        {"deadline_seconds": float("nan")},
        {"delivery": module.Delivery.ASYNC},
        {"async_endpoint": "a\nb"},
        {"async_endpoint": ""},
        {"region": "eu-west-1\n"},
        {"region": ""},
        {"endpoint_url": "http://127.0.0.1:9/\r\nX-Evil: 1"},
        {"endpoint_url": "127.0.0.1:9"},
        {"endpoint_url": ""},
        {"async_endpoint_url": "http://[::1"},
    ],
)
def test_a_client_that_could_not_work_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MammographyClient("breast", **options)


def test_an_async_name_that_sagemaker_does_not_allow_is_refused_where_it_is_used() -> None:
    MammographyClient("a" * 60)
    with pytest.raises(ConfigError, match="async_endpoint="):
        MammographyClient("a" * 60, uploads=module.Uploads("s3://bucket/in"))


@pytest.mark.parametrize(
    "options", [{"prefix": "s3://bucket/a\rb"}, {"prefix": "s3://bucket/\x00"}, {"kms_key": "k\n"}]
)
def test_uploads_that_no_header_can_carry_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"Uploads\."):
        module.Uploads(**{"prefix": "s3://bucket/in"} | options)


def test_a_large_body_needs_uploads() -> None:
    with pytest.raises(RequestRefusedError, match=r"26214400.*uploads") as caught:
        MammographyClient("breast", region="eu-west-1").predict(PGM + bytes(25 * 2**20))
    assert caught.value.status == 413


def test_a_serverless_endpoint_takes_smaller_bodies() -> None:
    with pytest.raises(RequestRefusedError, match="takes 4194304"):
        MammographyClient("breast", region="eu-west-1", serverless=True).predict(PGM + bytes(4 * 2**20))


def test_a_name_without_a_region_says_what_to_do_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(EndpointUnreachableError, match="no_region: .* set AWS_DEFAULT_REGION, or give") as caught:
        MammographyClient("mammopipe").predict(b"P5 2 1 255\n\x00\xff")
    assert "\n" not in str(caught.value)
