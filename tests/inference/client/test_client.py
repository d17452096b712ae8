"""The client against the real server."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import cv2
import numpy as np
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from mammopipe.inference.client.client import (
    Answer,
    EndpointBusyError,
    EndpointUnreachableError,
    ExamImage,
    Finding,
    InferenceError,
    MammographyClient,
    RequestRefusedError,
)
from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.errors import MammopipeError
from mammopipe.processing.files import write_bytes
from mammopipe.processing.phantoms.film import make_film


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove credentials, region and configuration, as on a machine without an AWS set-up."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def client(server: Any) -> MammographyClient:
    return MammographyClient("breast", endpoint_url=server.url, attempts=1)


def test_predict_is_typed(client: MammographyClient, phantom: Any) -> None:
    answer = client.predict(phantom.pgm, laterality="R", view="MLO")
    assert isinstance(answer, Answer)
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.malignancy_score == pytest.approx(100 * answer.probabilities["malignant"])
    assert answer.decision is not None and answer.decision.finding is Finding.SUSPICIOUS
    assert answer.decision.sensitivity == 0.92
    assert answer.model == answer.raw["model"]["id"] != "" and answer.raw["schema_version"] == 2
    assert 0 <= answer.entropy <= 1.1 and answer.decile is None, "this model has no reference"
    assert "no-reference" in {warning.code for warning in answer.warnings}
    assert (answer.laterality, answer.view) == ("R", "MLO")
    assert answer.heatmap_png is None and answer.regions == ()


def test_path_bytes_and_format_give_the_same_answer(client: MammographyClient, phantom: Any, tmp_path: Path) -> None:
    write_bytes(tmp_path / "film.pgm", phantom.pgm)
    path = tmp_path / "film.pgm"
    answers = [client.predict(source) for source in (path, str(path), phantom.pgm, phantom.png)]
    assert len({tuple(answer.probabilities.values()) for answer in answers}) == 1


def test_options_reach_the_model(client: MammographyClient, phantom: Any) -> None:
    answer = client.predict(phantom.pgm, laterality="R", view="CC", operating_point="specificity", heatmap=True)
    assert answer.decision is not None and answer.decision.finding is Finding.NOT_SUSPICIOUS
    assert (answer.raw["image"]["laterality"], answer.raw["image"]["view"]) == ("R", "CC")
    assert answer.heatmap_png is not None and answer.heatmap_png.startswith(b"\x89PNG")
    assert all(0 <= region.peak_x < phantom.pixels.shape[1] for region in answer.regions)


def test_side_is_named_as_a_guess_until_it_is_told(client: MammographyClient, phantom: Any) -> None:
    assert "laterality-inferred" in {warning.code for warning in client.predict(phantom.pgm).warnings}
    answered = client.predict(phantom.pgm, laterality="L")
    assert answered.raw["image"]["laterality"] == "L"
    assert "laterality-inferred" not in {warning.code for warning in answered.warnings}


def test_overlay_has_the_image_s_size(client: MammographyClient, phantom: Any) -> None:
    overlay = cv2.imdecode(np.frombuffer(client.overlay(phantom.png), np.uint8), cv2.IMREAD_UNCHANGED)
    assert overlay.shape == (*phantom.pixels.shape, 3)


@pytest.mark.parametrize(
    ("source", "code", "status"),
    [
        (b"P5\n10 10\n255\n", "corrupt_image", 422),
        (b"P5\n9000 9000\n255\n", "image_too_large", 413),
        (b"P5\n1 1\n255\n" + bytes(2_000_001), "too_large", 413),
        (b"no film", "unsupported_type", None),
        (Path("/nowhere/film.pgm"), "unreadable_file", None),
    ],
)
def test_refusals_carry_code_and_message(client: MammographyClient, source: Any, code: str, status: int | None) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        client.predict(source)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert caught.value.message and "\n" not in str(caught.value) and isinstance(caught.value, MammopipeError)


def other_view(images: Any) -> bytes:
    """Return an image of another exposure: the same one twice is refused."""
    rows, columns = images.pixels.shape
    made = make_film(5, label=Label.NORMAL, laterality=Laterality.RIGHT, height=rows, width=columns)
    return b"P5\n%d %d\n255\n" % (columns, rows) + (made.pixels >> 8).astype("uint8").tobytes()


def test_an_exam_is_judged_by_image_by_breast_and_as_a_whole(client: MammographyClient, phantom: Any) -> None:
    other = other_view(phantom)
    answer = client.predict_exam([phantom.pgm, other], heatmap=True)
    alone = [client.predict(mammogram) for mammogram in (phantom.pgm, other)]
    assert [image.index for image in answer.images] == [0, 1]
    assert [image.probabilities for image in answer.images] == [image.probabilities for image in alone]
    assert all(image.heatmap_png is not None for image in answer.images)
    assert [breast.images for breast in answer.breasts] == [(0, 1)]
    scores = [image.malignancy_score for image in alone]
    assert min(scores) - 1e-6 <= answer.exam.malignancy_score <= max(scores) + 1e-6
    assert (answer.model, len(answer.request_id)) == (alone[0].model, 36)


def test_what_is_said_of_an_exam_s_images_survives(client: MammographyClient, phantom: Any) -> None:
    answer = client.predict_exam([ExamImage(phantom.pgm, "R", "CC"), ExamImage(other_view(phantom), "R", "MLO")])
    assert [(image.laterality, image.view) for image in answer.images] == [("R", "CC"), ("R", "MLO")]
    assert [(breast.laterality, breast.images) for breast in answer.breasts] == [("R", (0, 1))]


def test_the_image_of_an_exam_that_is_refused_is_named(client: MammographyClient, phantom: Any) -> None:
    for second in (b"P5\n10 10\n255\n", ExamImage(b"P5\n10 10\n255\n", "L")):
        with pytest.raises(RequestRefusedError) as caught:
            client.predict_exam([phantom.pgm, second])
        assert (caught.value.code, caught.value.status, caught.value.detail) == ("corrupt_image", 422, {"image": 1})


def test_an_image_without_identity_gives_no_dicom_result(client: MammographyClient, phantom: Any) -> None:
    for ask in (client.dicom_report, client.dicom_overlay):
        with pytest.raises(RequestRefusedError, match="no_source_identity"):
            ask(phantom.pgm)


def test_bad_option_is_refused_by_the_server(client: MammographyClient, phantom: Any) -> None:
    with pytest.raises(RequestRefusedError, match="view='XX'") as caught:
        client.predict(phantom.pgm, view="XX")
    assert (caught.value.code, caught.value.status) == ("bad_option", 400)


def test_a_plain_boto3_client_gets_what_aws_would_send(server: Any, phantom: Any) -> None:
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=server.url,
        region_name="eu-west-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    reply = runtime.invoke_endpoint(
        EndpointName="breast", Body=phantom.pgm, ContentType="image/x-portable-graymap", CustomAttributes="laterality=R"
    )
    assert reply["ContentType"] == "application/json" and b'"probabilities"' in reply["Body"].read()
    assert "malignancy_score=" in reply["CustomAttributes"] and reply["ResponseMetadata"]["RequestId"]
    with pytest.raises(ClientError) as caught:
        runtime.invoke_endpoint(EndpointName="breast", Body=b"P5", ContentType="image/x-portable-graymap")
    assert caught.value.response["Error"]["Code"] == "ModelError"
    assert caught.value.response["OriginalStatusCode"] == 422


def test_busy_is_tried_again_and_then_told(narrow_server: Any, phantom: Any, wait_for: Callable[..., Any]) -> None:
    server, before = narrow_server, len(narrow_server.lines())

    def refusals() -> int:
        return sum(line.get("code") == "busy" for line in server.lines()[before:])

    with server.unfinished(phantom.pgm) as finish, ThreadPoolExecutor(1) as pool:
        with pytest.raises(EndpointBusyError) as caught:
            MammographyClient("breast", endpoint_url=server.url, attempts=2, backoff_seconds=0.01).predict(phantom.pgm)
        assert (caught.value.code, caught.value.status, refusals()) == ("busy", 503, 2)
        patient = MammographyClient("breast", endpoint_url=server.url, attempts=50, backoff_seconds=0.001)
        answer = pool.submit(patient.predict, phantom.pgm)
        wait_for(lambda: refusals() > 2)
        assert finish().status == 200
        assert answer.result().malignancy_score >= 0


def test_nobody_there(phantom: Any) -> None:
    with pytest.raises(EndpointUnreachableError):
        MammographyClient("breast", endpoint_url="http://127.0.0.1:9", attempts=1).predict(phantom.pgm)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    emulator = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    emulator.start()
    host, port = emulator.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    yield boto3.client("s3", region_name="us-east-1")
    emulator.stop()


def test_s3_uri_is_fetched_by_the_caller(server: Any, phantom: Any, storage: Any) -> None:
    storage.create_bucket(Bucket="films")
    storage.put_object(Bucket="films", Key="left/film.pgm", Body=phantom.pgm)
    client = MammographyClient("breast", endpoint_url=server.url, region="us-east-1")
    assert client.predict("s3://films/left/film.pgm").probabilities == client.predict(phantom.pgm).probabilities
    with pytest.raises(InferenceError, match="NoSuchKey"):
        client.predict("s3://films/missing.pgm")


def test_importing_the_client_needs_boto3_alone() -> None:
    program = """
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {"torch", "starlette", "uvicorn", "pydantic", "cv2", "sagemaker", "pandas"}:
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Missing())
        import mammopipe.inference.client.client
        assert not {"training", "numpy"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", inspect.cleandoc(program)], cwd=Path(__file__).parents[3], check=True)
