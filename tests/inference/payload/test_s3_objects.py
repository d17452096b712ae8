"""S3 objects of requests: only below the allowed prefix, within the size limit, and with errors of their own."""

from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.payload import s3_objects

PREFIX = "s3://clinic/exams"


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    s3_objects._client.cache_clear()
    with mock_aws():
        client = boto3.client("s3")
        for name in ("clinic", "clinic2"):
            client.create_bucket(Bucket=name)
            for key in ("exams/1/left.dcm", "exams2/1.dcm", "other.dcm", "exams/a b+c.dcm"):
                client.put_object(Bucket=name, Key=key, Body=b"film")
        yield
    s3_objects._client.cache_clear()


def refused(uri: str, prefix: str = PREFIX, max_bytes: int = 100) -> RequestError:
    with pytest.raises(RequestError) as caught:
        s3_objects.fetch(uri, prefix=prefix, max_bytes=max_bytes)
    return caught.value


@pytest.mark.parametrize("prefix", [PREFIX, PREFIX + "/", "s3://clinic", "s3://clinic/"])
@pytest.mark.parametrize("key", ["exams/1/left.dcm", "exams/a b+c.dcm"])
def test_an_object_below_the_prefix_is_read(prefix: str, key: str) -> None:
    assert s3_objects.fetch(f"s3://clinic/{key}", prefix=prefix, max_bytes=4) == b"film"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://clinic/other.dcm",
        "s3://clinic/exams2/1.dcm",
        "s3://clinic2/exams/1/left.dcm",
        "s3://clinic/exams",
        "s3://clinic/exams/",
        "s3://clinic/",
        "s3://clinic",
        "clinic/exams/1/left.dcm",
        "https://clinic/exams/1/left.dcm",
        "S3://clinic/exams/1/left.dcm",
        "s3://clinic/exams/../other.dcm",
        "s3://clinic/exams/./1/left.dcm",
        "s3://clinic/exams//1/left.dcm",
        "s3://clinic/exams/%2e%2e/other.dcm",
        "s3://clinic/exams/%252e%252e/other.dcm",
        "s3://clinic/exams/%2525252e%2525252e/x",
        "s3://clinic/exams\\..\\other.dcm",
        "s3://clinic/exams/..\\other.dcm",
        "s3://clinic/exams/1\n",
        "s3://clinic/exams/\0",
        "s3://user@clinic/exams/1",
        "s3://clinic/exams/..",
        "s3:///clinic/exams/1/left.dcm",
        "",
    ],
)
def test_what_lies_outside_is_refused_unseen(uri: str) -> None:
    error = refused(uri)
    assert (error.status, error.code) == (403, "s3_outside_prefix")


def test_without_a_prefix_nothing_is_read() -> None:
    assert refused("s3://clinic/exams/1/left.dcm", prefix="").code == "s3_not_allowed"


def test_missing_object_is_404_and_a_large_one_is_not_fetched() -> None:
    assert (refused("s3://clinic/exams/2").status, refused("s3://clinic/exams/2").code) == (404, "s3_missing")
    assert refused("s3://clinic/exams/1/left.dcm", max_bytes=3).code == "too_large"


def test_s3_that_does_not_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    s3_objects._client.cache_clear()
    error = refused("s3://clinic/exams/1/left.dcm")
    assert (error.status, error.code) == (503, "s3_unavailable")
