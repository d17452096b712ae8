"""Requests, retries and deadlines of the client, against a container that answers as each test sets it."""

import base64
import io
import json
import random
import time
import zipfile
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from mammopipe.inference.client import errors
from mammopipe.inference.client.body import JSON_TYPE, ZIP_TYPE
from mammopipe.inference.client.client import (
    DeadlineError,
    EndpointBusyError,
    EndpointFaultError,
    EndpointUnreachableError,
    ExamImage,
    MammographyClient,
    RequestRefusedError,
)
from mammopipe.inference.client.retry import Deadline
from mammopipe.inference.client.transport import read_answer
from mammopipe.inference.contract.task import ExamType
from mammopipe.processing.errors import ConfigError
from tests.inference.client.conftest import PGM
from tests.support.standin import Answering, container, image_json

PNG = b"\x89PNG\r\n\x1a\n rest"
DICOM = bytes(128) + b"DICM rest"


@pytest.fixture
def endpoint() -> Iterator[Answering]:
    with container() as answering:
        yield answering


def client_of(endpoint: Answering, **options: Any) -> MammographyClient:
    return MammographyClient("breast", endpoint_url=endpoint.url, **{"backoff_seconds": 0.001} | options)


def test_an_image_goes_out_with_its_type_its_options_and_an_inference_id(endpoint: Answering) -> None:
    client_of(endpoint).predict(PGM, laterality="R", operating_point="specificity", heatmap=True, target="benign")
    path, headers, body = endpoint.requests[0]
    assert (path, body) == ("/endpoints/breast/invocations", PGM)
    assert (headers["content-type"], headers["accept"]) == ("image/x-portable-graymap", "application/json")
    assert headers["x-amzn-sagemaker-custom-attributes"] == (
        "laterality=R,operating_point=specificity,heatmap=true,target=benign"
    )
    assert len(headers["x-amzn-sagemaker-inference-id"]) == 36


def test_an_exam_of_which_nothing_is_said_is_a_zip_in_its_order_without_names(
    endpoint: Answering, tmp_path: Path
) -> None:
    (tmp_path / "DOE^JANE.dcm").write_bytes(DICOM)
    client_of(endpoint).predict_exam([tmp_path / "DOE^JANE.dcm", PGM, PNG], operating_point="sensitivity")
    _, headers, body = endpoint.requests[0]
    assert headers["content-type"] == "application/zip"
    assert headers["x-amzn-sagemaker-custom-attributes"] == "operating_point=sensitivity"
    archive = zipfile.ZipFile(io.BytesIO(body))
    assert archive.namelist() == ["000.dcm", "001.pgm", "002.png"] == sorted(archive.namelist())
    assert [archive.read(name) for name in archive.namelist()] == [DICOM, PGM, PNG]
    client_of(endpoint).predict_exam([DICOM, PGM, PNG], operating_point="sensitivity")
    assert endpoint.requests[1][2] == body, "the same exam must give the same bytes"


def test_a_side_or_view_that_is_given_reaches_the_server(endpoint: Answering) -> None:
    client_of(endpoint).predict_exam([ExamImage(PGM, "L", "CC"), ExamImage(PNG, laterality="R"), DICOM])
    _, headers, body = endpoint.requests[0]
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {
        "images": [
            {"laterality": "L", "view": "CC", "data": base64.b64encode(PGM).decode()},
            {"laterality": "R", "data": base64.b64encode(PNG).decode()},
            {"data": base64.b64encode(DICOM).decode()},
        ]
    }


def test_both_forms_of_an_exam_are_what_the_server_reads() -> None:
    assert (ZIP_TYPE, JSON_TYPE) == (ExamType.ZIP, ExamType.JSON)


def test_s3_objects_are_named_to_a_container_that_may_fetch_them(endpoint: Answering) -> None:
    client_of(endpoint, container_reads_s3=True).predict_exam(["s3://films/a.dcm", PGM])
    images = json.loads(endpoint.requests[0][2])["images"]
    assert images == [{"s3_uri": "s3://films/a.dcm"}, {"data": base64.b64encode(PGM).decode()}]


def test_an_exam_needs_images_of_known_types(endpoint: Answering) -> None:
    with pytest.raises(RequestRefusedError, match="no_images"):
        client_of(endpoint).predict_exam([])
    for images in ([PGM, b"no film"], [PGM, ExamImage(b"no film", "L")]):
        with pytest.raises(RequestRefusedError, match="unsupported_type: image 1 is none of"):
            client_of(endpoint).predict_exam(images)
    assert endpoint.requests == []


def test_dicom_results_are_asked_for(endpoint: Answering) -> None:
    client = client_of(endpoint)
    assert client.dicom_report(DICOM) == b"DICOM heatmap=true", "with regions, unless told otherwise"
    assert client.dicom_report([DICOM, DICOM], regions=False) == b"DICOM "
    assert client.dicom_cad_report([DICOM, DICOM]) == b"DICOM result=cad-sr"
    assert client.dicom_presentation_state(DICOM, target="benign") == b"DICOM target=benign,result=gsps"
    assert client.dicom_results([DICOM, DICOM], operating_point="specificity") == (
        b"ZIP operating_point=specificity,result=all"
    )
    assert client.dicom_overlay(DICOM, target="malignant") == b"DICOM target=malignant,result=overlay"
    assert client.overlay(PGM) == b"\x89PNG overlay"
    kinds = [headers["content-type"] for _, headers, _ in endpoint.requests]
    one, exam = "application/dicom", "application/zip"
    assert kinds == [one, exam, exam, one, exam, one, "image/x-portable-graymap"]


def test_the_image_that_is_the_reason_is_named(endpoint: Answering) -> None:
    endpoint.refuse(422, "not_a_mammogram", "it is a photograph", image=1)
    with pytest.raises(RequestRefusedError) as caught:
        client_of(endpoint).predict_exam([PGM, PGM])
    assert (caught.value.code, caught.value.status, caught.value.detail) == ("not_a_mammogram", 422, {"image": 1})
    assert len(endpoint.requests) == 1, "a refusal is not sent again"


def test_busy_is_tried_again(endpoint: Answering) -> None:
    for _ in range(3):
        endpoint.refuse(503, "worker_lost", "try again")
    assert client_of(endpoint, attempts=4).predict(PGM).malignancy_score == 70.0
    assert len(endpoint.requests) == 4
    assert len({headers["x-amzn-sagemaker-inference-id"] for _, headers, _ in endpoint.requests}) == 1


def test_busy_is_told_when_no_attempt_is_left(endpoint: Answering) -> None:
    for _ in range(2):
        endpoint.refuse(503, "busy", "try again")
    with pytest.raises(EndpointBusyError) as caught:
        client_of(endpoint, attempts=2).predict(PGM)
    assert (caught.value.code, caught.value.status) == ("busy", 503)


@pytest.mark.parametrize(("status", "code"), [(500, "internal"), (504, "time_limit")])
def test_a_fault_of_the_server_is_not_tried_again(endpoint: Answering, status: int, code: str) -> None:
    endpoint.refuse(status, code, "a fault")
    with pytest.raises(EndpointFaultError, match=code):
        client_of(endpoint).predict(PGM)
    assert len(endpoint.requests) == 1


def test_what_is_no_answer_of_this_server_is_a_fault(endpoint: Answering) -> None:
    endpoint.replies = [(200, b"<html>"), (200, b"[]"), (500, b"<html>")]
    for message in ("not JSON", "schema_version=None", "not an error of this server"):
        with pytest.raises(EndpointFaultError, match=message):
            client_of(endpoint).predict(PGM)


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_proxy_says_of_a_server_it_does_not_reach_is_tried_again(
    endpoint: Answering, status: int, wrapped: bool
) -> None:
    """From a proxy before the runtime, or wrapped by SageMaker from a proxy before the container."""
    (endpoint.replies if wrapped else endpoint.proxy).append((status, b"<html>Bad Gateway</html>"))
    assert client_of(endpoint, attempts=2).predict(PGM).malignancy_score == 70.0
    endpoint.proxy = [(status, b"<html>")] * 2
    with pytest.raises(EndpointBusyError):
        client_of(endpoint, attempts=2).predict(PGM)


def test_the_deadline_bounds_the_reading_of_an_answer_that_drips(endpoint: Answering) -> None:
    """Each byte restarts a socket's timeout, so a socket timeout alone would never end this answer."""
    endpoint.drips = True
    begun = time.monotonic()
    with pytest.raises(DeadlineError, match="no answer within 0.4 seconds"):
        client_of(endpoint, deadline_seconds=0.4).predict(PGM)
    assert time.monotonic() - begun < 2


def test_an_answer_that_is_not_read_to_its_end_is_closed() -> None:
    stream = io.BytesIO(image_json())
    with pytest.raises(DeadlineError):
        read_answer(stream, Deadline(0))
    assert stream.closed


def test_the_deadline_bounds_the_loading_of_an_exam(endpoint: Answering) -> None:
    class Slow:
        def get_object(self, **_: Any) -> Any:
            assert endpoint.closed.wait(30)
            raise AssertionError("the client has long gone")

    with pytest.raises(DeadlineError):
        client_of(endpoint, deadline_seconds=0.2, storage=Slow()).predict_exam(["s3://films/a.dcm"])


@pytest.mark.parametrize("value", ["L\n", "L\r\nX-Evil: 1", "a,b=c", "a;b", "", "é"])
def test_an_option_that_no_header_can_carry_is_a_usage_error(endpoint: Answering, value: str) -> None:
    client = client_of(endpoint)
    with pytest.raises(ConfigError, match="option laterality="):
        client.predict(PGM, laterality=value)
    with pytest.raises(ConfigError, match="option target="):
        client.dicom_report([DICOM], target=value)
    assert endpoint.requests == []


@pytest.mark.parametrize("name", ["", "a\nb", "a b", "-a", "a/b", "a" * 64])
def test_a_name_that_no_endpoint_can_have_is_a_usage_error(name: str) -> None:
    with pytest.raises(ConfigError, match="endpoint_name="):
        MammographyClient(name)


def test_the_deadline_ends_a_request_that_hangs(endpoint: Answering) -> None:
    endpoint.gate.clear()
    with pytest.raises((DeadlineError, EndpointUnreachableError)):
        client_of(endpoint, deadline_seconds=0.3).predict(PGM)


def test_the_deadline_ends_the_waiting_between_attempts(endpoint: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.refuse(503, "busy", "try again")
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    with pytest.raises(DeadlineError, match="no answer within 5 seconds; the last error: busy: try again"):
        client_of(endpoint, deadline_seconds=5, backoff_seconds=20).predict(PGM)
    assert len(endpoint.requests) == 1


def test_the_waits_are_random_and_their_bound_doubles(endpoint: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: bounds.append(high) or low)
    for _ in range(4):
        endpoint.refuse(503, "busy", "try again")
    client_of(endpoint, backoff_seconds=0.5).predict(PGM)
    assert bounds == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("given", "wait"),
    [("3", 3.0), ("0", 0.5), ("soon", 0.5), ("-1", 0.5), (None, 0.5), ("Mon, 30 Nov 2026 06:00:07 GMT", 7.0)],
)
def test_a_server_s_retry_after_is_waited_for(
    stubbed: tuple[Stubber, MammographyClient], monkeypatch: pytest.MonkeyPatch, given: str | None, wait: float
) -> None:
    stubber, client = stubbed
    waits: list[float] = []
    monkeypatch.setattr(Deadline, "sleep", lambda _, seconds: waits.append(seconds))
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.5)
    monkeypatch.setattr(errors, "datetime", Noon)
    meta = {"HTTPHeaders": {} if given is None else {"retry-after": given}}
    stubber.add_client_error("invoke_endpoint", "429", "", http_status_code=429, response_meta=meta)
    body = {"Body": io.BytesIO(image_json()), "ContentType": "application/json"}
    stubber.add_response("invoke_endpoint", body)
    assert client.predict(PGM).decile == 9
    assert waits == [wait]


class Noon(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "Noon":
        return cls(2026, 11, 30, 6, 0, 0, tzinfo=tz)


def test_a_wait_beyond_the_deadline_ends_the_call_at_once(
    stubbed: tuple[Stubber, MammographyClient],
) -> None:
    stubber, client = stubbed
    stubber.add_client_error(
        "invoke_endpoint",
        "429",
        "slow down",
        http_status_code=429,
        response_meta={"HTTPHeaders": {"retry-after": "86400"}},
    )
    with pytest.raises(DeadlineError, match="the last error: 429: slow down"):
        client.predict(PGM)


def test_a_name_that_no_file_can_have_is_refused(endpoint: Answering) -> None:
    with pytest.raises(RequestRefusedError, match="null byte"):
        client_of(endpoint).predict(Path("a\0b"))
