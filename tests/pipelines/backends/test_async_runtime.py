"""Async inference from end to end on this machine: the real boto3, emulated S3 and async API, and a container."""

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from mammopipe.inference.client.client import (
    REALTIME_BYTES,
    DeadlineError,
    Delivery,
    EndpointBusyError,
    EndpointFaultError,
    EndpointUnreachableError,
    MammographyClient,
    RequestRefusedError,
    Uploads,
)
from mammopipe.pipelines.backends import async_runtime
from mammopipe.pipelines.backends.async_runtime import AsyncRuntime, AsyncSettings
from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.processing.errors import ConfigError, StorageError
from tests.pipelines.conftest import BUCKET
from tests.support.standin import Answering, container

PGM = b"P5\n2 1\n255\n\x01\x02"
PLACES = {name: f"s3://{BUCKET}/async/{name}" for name in ("input", "output", "failures")}


@pytest.fixture
def behind() -> Iterator[Answering]:
    with container() as answering:
        yield answering


def settings(behind: Answering, **changes: Any) -> AsyncSettings:
    return AsyncSettings("films-async", behind.url, PLACES["output"], PLACES["failures"], **changes)


@pytest.fixture
def front(behind: Answering, services: LocalServices) -> Iterator[AsyncRuntime]:
    with AsyncRuntime(settings(behind), services.storage.client) as runtime:
        yield runtime
        behind.gate.set()


@pytest.fixture
def boto(front: AsyncRuntime) -> Any:
    return runtime_client(front.url)


def runtime_client(url: str) -> Any:
    return boto3.client(
        "sagemaker-runtime", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )


def client_of(front: AsyncRuntime, services: LocalServices, **options: Any) -> MammographyClient:
    given: dict[str, Any] = {"uploads": Uploads(PLACES["input"]), "storage": services.storage.client}
    return MammographyClient("films", endpoint_url=front.url, **given | {"delivery": Delivery.ASYNC} | options)


def names(services: LocalServices) -> list[str]:
    return [item.key for item in services.storage.list(f"s3://{BUCKET}/async/")]


def test_an_unchanged_boto3_is_told_where_the_answer_will_lie(
    boto: Any, behind: Answering, services: LocalServices, wait_for: Any
) -> None:
    services.storage.client.put_object(Bucket=BUCKET, Key="async/input/film", Body=PGM)
    reply = boto.invoke_endpoint_async(
        EndpointName="films-async",
        InputLocation=f"{PLACES['input']}/film",
        InferenceId="mine",
        ContentType="image/x-portable-graymap",
        Accept="application/json",
        CustomAttributes="laterality=R",
    )
    assert reply["ResponseMetadata"]["HTTPStatusCode"] == 202 and reply["InferenceId"] == "mine"
    assert reply["OutputLocation"].startswith(f"{PLACES['output']}/")
    assert reply["FailureLocation"].startswith(f"{PLACES['failures']}/")
    wait_for(lambda: services.storage.list(reply["OutputLocation"]))
    assert json.loads(services.storage.read(reply["OutputLocation"]))["malignancy_score"] == 70.0
    (path, headers, body) = behind.requests[0]
    assert (path, body) == ("/invocations", PGM)
    assert (headers["content-type"], headers["accept"]) == ("image/x-portable-graymap", "application/json")
    assert headers["x-amzn-sagemaker-custom-attributes"] == "laterality=R"


def test_the_client_waits_reads_and_leaves_nothing_behind(
    front: AsyncRuntime, behind: Answering, services: LocalServices
) -> None:
    answer = client_of(front, services).predict(PGM, laterality="R")
    assert (answer.malignancy_score, answer.decile) == (70.0, 9)
    assert behind.requests[0][1]["x-amzn-sagemaker-custom-attributes"] == "laterality=R"
    assert client_of(front, services).predict_exam([PGM, PGM]).exam.referral.refer
    assert client_of(front, services).overlay(PGM) == b"\x89PNG overlay"
    assert names(services) == []


def test_what_was_uploaded_stays_where_that_is_wanted(front: AsyncRuntime, services: LocalServices) -> None:
    client_of(front, services, uploads=Uploads(PLACES["input"], remove=False)).predict(PGM)
    body, result = names(services)
    assert body.startswith("async/input/") and result.startswith("async/output/")
    assert services.storage.read(f"s3://{BUCKET}/{body}") == PGM


def test_the_size_decides(front: AsyncRuntime, behind: Answering, services: LocalServices) -> None:
    large = PGM + bytes(REALTIME_BYTES)
    client = MammographyClient(
        "films",
        endpoint_url=behind.url,
        async_endpoint_url=front.url,
        uploads=Uploads(PLACES["input"]),
        storage=services.storage.client,
    )
    client.predict(PGM)
    client.predict(large)
    assert [path for path, _, _ in behind.requests] == ["/endpoints/films/invocations", "/invocations"]
    assert behind.requests[1][2] == large


def test_an_object_beside_the_uploads_is_sent_as_it_lies_there(
    front: AsyncRuntime, behind: Answering, services: LocalServices
) -> None:
    services.storage.client.put_object(Bucket=BUCKET, Key="films/a.pgm", Body=PGM)
    assert client_of(front, services).predict(f"s3://{BUCKET}/films/a.pgm").decile == 9
    assert behind.requests[0][1]["content-type"] == "image/x-portable-graymap"
    assert services.storage.read(f"s3://{BUCKET}/films/a.pgm") == PGM, "what the client did not upload must stay"
    with pytest.raises(EndpointUnreachableError, match="404"):
        client_of(front, services).predict(f"s3://{BUCKET}/films/missing.pgm")


@pytest.mark.parametrize(("status", "kind"), [(422, RequestRefusedError), (500, EndpointFaultError)])
def test_the_container_s_error_comes_through_the_failure_object(
    front: AsyncRuntime, behind: Answering, services: LocalServices, status: int, kind: type[Exception]
) -> None:
    behind.refuse(status, "not_a_mammogram", 'it is a "photograph"', image=1)
    with pytest.raises(kind) as caught:
        client_of(front, services).predict_exam([PGM, PGM])
    assert str(caught.value) == 'not_a_mammogram: it is a "photograph"'
    assert vars(caught.value)["status"] == status and vars(caught.value)["detail"] == {"image": 1}
    assert len(behind.requests) == 1 and names(services) == []


def test_a_busy_container_is_asked_again(front: AsyncRuntime, behind: Answering, services: LocalServices) -> None:
    behind.refuse(503, "busy", "try again")
    assert client_of(front, services, backoff_seconds=0.001).predict(PGM).decile == 9
    behind.refuse(503, "busy", "try again")
    with pytest.raises(EndpointBusyError):
        client_of(front, services, attempts=1).predict(PGM)
    assert names(services) == []


def test_the_deadline_ends_the_wait_and_takes_the_body_back(
    front: AsyncRuntime, behind: Answering, services: LocalServices, wait_for: Any
) -> None:
    behind.gate.clear()
    with pytest.raises(DeadlineError, match=r"no answer within 0\.5 seconds"):
        client_of(front, services, deadline_seconds=0.5).predict(PGM)
    wait_for(lambda: names(services) == [])


def test_a_container_that_takes_too_long_is_given_up(
    boto: Any, behind: Answering, services: LocalServices, wait_for: Any
) -> None:
    behind.gate.clear()
    services.storage.client.put_object(Bucket=BUCKET, Key="async/input/film", Body=PGM)
    reply = boto.invoke_endpoint_async(
        EndpointName="films-async", InputLocation=f"{PLACES['input']}/film", InvocationTimeoutSeconds=1
    )
    wait_for(lambda: services.storage.list(reply["FailureLocation"]))
    assert services.storage.read(reply["FailureLocation"]) == b"The container gave no answer within 1 seconds."
    assert services.storage.list(reply["OutputLocation"]) == []


def failure_of(boto: Any, services: LocalServices, wait_for: Any, key: str = "async/input/film") -> str:
    reply = boto.invoke_endpoint_async(EndpointName="films-async", InputLocation=f"s3://{BUCKET}/{key}")
    wait_for(lambda: services.storage.list(reply["FailureLocation"]))
    return services.storage.read(reply["FailureLocation"]).decode()


def test_an_input_that_is_missing_or_too_large_fails(
    boto: Any, services: LocalServices, wait_for: Any, monkeypatch: pytest.MonkeyPatch, behind: Answering
) -> None:
    assert "cannot be read: NoSuchKey" in failure_of(boto, services, wait_for)
    monkeypatch.setattr(async_runtime, "INPUT_BYTES", 10)
    services.storage.client.put_object(Bucket=BUCKET, Key="async/input/film", Body=PGM)
    assert "has 13 bytes, the limit is 10" in failure_of(boto, services, wait_for)
    assert behind.requests == []


def test_an_answer_without_its_length_fails_as_on_aws(
    boto: Any, services: LocalServices, wait_for: Any, behind: Answering
) -> None:
    behind.sized = False
    services.storage.client.put_object(Bucket=BUCKET, Key="async/input/film", Body=PGM)
    assert "Content-Length" in failure_of(boto, services, wait_for)


def test_a_failure_that_is_not_the_container_s_is_told_in_its_words(
    front: AsyncRuntime, behind: Answering, services: LocalServices
) -> None:
    behind.sized = False
    with pytest.raises(EndpointFaultError, match="async_failure: The response from container primary"):
        client_of(front, services).predict(PGM)


def test_one_request_at_a_time_and_a_bounded_queue(
    boto: Any, behind: Answering, services: LocalServices, wait_for: Any
) -> None:
    services.storage.client.put_object(Bucket=BUCKET, Key="async/input/film", Body=PGM)
    behind.gate.clear()
    place = f"{PLACES['input']}/film"
    boto.invoke_endpoint_async(EndpointName="films-async", InputLocation=place)
    wait_for(lambda: len(behind.requests) == 1)
    for _ in range(async_runtime.QUEUED):
        boto.invoke_endpoint_async(EndpointName="films-async", InputLocation=place)
    one = MammographyClient(
        "films",
        attempts=1,
        backoff_seconds=0,
        delivery=Delivery.ASYNC,
        endpoint_url=boto.meta.endpoint_url,
        uploads=Uploads(PLACES["input"]),
        storage=services.storage.client,
    )
    with pytest.raises(EndpointBusyError, match="64 requests wait"):
        one.predict(PGM)
    assert len(behind.requests) == 1
    behind.gate.set()
    wait_for(lambda: len(services.storage.list(PLACES["output"])) == async_runtime.QUEUED + 1)


@pytest.mark.parametrize(
    ("operation", "request_", "message"),
    [
        ("invoke_endpoint_async", {"EndpointName": "other", "InputLocation": "s3://a/b"}, "Endpoint other not found"),
        ("invoke_endpoint_async", {"EndpointName": "films-async", "InputLocation": "https://a/b"}, "s3://BUCKET/KEY"),
        ("invoke_endpoint", {"EndpointName": "films-async", "Body": b"x"}, "use InvokeEndpointAsync"),
        ("invoke_endpoint", {"EndpointName": "films-async", "Body": bytes(200_000)}, "at most 128000 bytes"),
    ],
)
def test_what_the_api_refuses(boto: Any, operation: str, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message) as caught:
        getattr(boto, operation)(**request_)
    assert caught.value.response["Error"]["Code"] == "ValidationError"


def test_a_result_that_cannot_be_stored_costs_only_itself(
    front: AsyncRuntime,
    behind: Answering,
    services: LocalServices,
    wait_for: Any,
    boto: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    services.storage.client.put_object(Bucket=BUCKET, Key="async/input/film", Body=PGM)
    good, bad = front.settings.output, "s3://no-such-bucket/output"
    object.__setattr__(front.settings, "output", bad)
    boto.invoke_endpoint_async(EndpointName="films-async", InputLocation=f"{PLACES['input']}/film")
    wait_for(lambda: len(behind.requests) == 1)
    object.__setattr__(front.settings, "output", good)
    assert client_of(front, services).predict(PGM).decile == 9
    assert [json.loads(line)["outcome"] for line in capsys.readouterr().out.splitlines()] == [
        "lost: NoSuchBucket",
        "completed",
    ]


def test_a_body_that_cannot_be_removed_costs_no_answer(
    front: AsyncRuntime, services: LocalServices, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: str) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DeleteObject")

    monkeypatch.setattr(services.storage.client, "delete_object", refuse)
    with caplog.at_level(logging.WARNING, "mammopipe.inference.client.async_endpoint"):
        assert client_of(front, services).predict(PGM).decile == 9
    assert len(caplog.messages) == 2 and all("not removed from S3: AccessDenied" in line for line in caplog.messages)


def test_without_the_right_to_list_the_wait_is_not_in_vain(
    front: AsyncRuntime, services: LocalServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: str) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")

    client = client_of(front, services)
    monkeypatch.setattr(services.storage.client, "get_object", refuse)
    with pytest.raises(EndpointUnreachableError, match="s3:ListBucket"):
        client.predict(PGM)


def test_the_front_is_healthy_when_its_container_is(front: AsyncRuntime, behind: Answering) -> None:
    assert front.healthy()
    object.__setattr__(front.settings, "container", "http://127.0.0.1:9")
    assert not front.healthy()


@pytest.mark.parametrize("changes", [{"concurrent": 0}, {"output": "/tmp"}, {"failure": "s3://"}])
def test_settings_under_which_nothing_could_work_are_refused(changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {"name": "a", "container": "http://127.0.0.1:9", "output": "s3://a", "failure": "s3://a"}
    with pytest.raises((ConfigError, StorageError)):
        AsyncSettings(**values | changes)


@pytest.mark.parametrize("prefix", ["films", "s3://", "s3://Films/x"])
def test_uploads_need_a_bucket(prefix: str) -> None:
    with pytest.raises(ConfigError, match="Uploads.prefix"):
        Uploads(prefix)


@pytest.fixture
def wait_for() -> Any:
    def poll(condition: Any, seconds: float = 30) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, "this should have happened by now"
            time.sleep(0.01)
        return value

    return poll
