"""`mammopipe invoke` against a container whose answers each test sets."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mammopipe.pipelines import cli
from mammopipe.pipelines.backends import local_endpoint
from mammopipe.pipelines.backends.async_runtime import AsyncRuntime, AsyncSettings
from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.runs.folder import RunFolder
from tests.pipelines.conftest import BUCKET
from tests.support.standin import Answering, container, image_json

ROOT = Path(__file__).resolve().parents[3]
Capture = pytest.CaptureFixture[str]
PGM, DICOM = b"P5\n2 1\n255\n\x01\x02", bytes(128) + b"DICM rest"


@pytest.fixture
def endpoint() -> Iterator[Answering]:
    with container() as answering:
        yield answering


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, data in {"left.pgm": PGM, "right.pgm": PGM, "left.dcm": DICOM, "right.dcm": DICOM}.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def invoke(endpoint: Answering, images: Path, names: str, *options: str) -> int:
    files = [str(images / name) for name in names.split()]
    return cli.main(["invoke", *files, "--endpoint", endpoint.url, "--output", str(images / "out"), *options])


def test_an_image_s_answer_is_a_table(endpoint: Answering, images: Path, capsys: Capture) -> None:
    assert invoke(endpoint, images, "left.pgm") == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "left.pgm (R MLO)",
        "malignancy score 70.0 of 100, decile 9 of 10",
        "malignant 0.70, benign 0.20, normal 0.10",
        "entropy 0.80 nats",
        "suspicious at sensitivity (threshold 0.310; on validation sensitivity 0.92 (0.71 to 0.98), specificity 0.40, "
        "recall rate 0.25, 52 cases, 8 of them malignant)",
        "referral none",
        "laterality-inferred: the side was found in the image",
        "x 10 to 60, y 20 to 90; peak at x 30, y 40, strength 0.75",
        "model-1",
        "Research use only",
    ):
        assert words in said
    assert (images / "out" / "left-overlay.png").read_bytes() == b"\x89PNG overlay"


def test_an_exam_s_answer_shows_images_breasts_exam_and_why_a_reader_must_judge(
    endpoint: Answering, images: Path, capsys: Capture
) -> None:
    assert invoke(endpoint, images, "left.pgm right.pgm", "--laterality", "L,R", "--view", "MLO") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "0 left.pgm L MLO 70.0 9 suspicious none" in lines
    assert "1 right.pgm R MLO 70.0 9 suspicious refer to reader" in lines
    assert "breast L (mean) 0 70.0 - none" in lines
    assert "breast R (mean) 1 71.0 suspicious refer to reader" in lines
    assert "exam all 71.0 suspicious refer to reader" in lines
    assert "referral uncertain: entropy 1.05, limit 0.90" in lines
    assert "warning one-view: the left breast has one view" in lines
    sent = json.loads(endpoint.requests[0][2])["images"]
    assert [(image["laterality"], image["view"]) for image in sent] == [("L", "MLO"), ("R", "MLO")]
    assert sorted(path.name for path in (images / "out").iterdir()) == ["0-left-overlay.png", "1-right-overlay.png"]


def test_the_tables_fit_a_pipe(endpoint: Answering, images: Path) -> None:
    name = "a-film-with-quite-a-long-name-of-more-than-forty-letters.pgm"
    (images / name).write_bytes(PGM)
    command = [sys.executable, "-m", "mammopipe.pipelines.cli", "invoke", name, "right.pgm", "--endpoint", endpoint.url]
    done = subprocess.run(
        command,
        cwd=images,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(images)},
    )
    assert done.stderr == "" and max(map(len, done.stdout.splitlines())) <= 100 and "\x1b" not in done.stdout
    assert (images / "1-right-overlay.png").is_file(), "overlays go to the folder of the caller"


def test_json_is_the_answer_alone(endpoint: Answering, images: Path, capsys: Capture) -> None:
    assert invoke(endpoint, images, "left.pgm", "--json", "--operating-point", "specificity") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(image_json())
    assert "operating_point=specificity" in endpoint.requests[0][1]["x-amzn-sagemaker-custom-attributes"]
    assert (images / "out" / "left-overlay.png").is_file()


def test_dicom_results_are_saved(endpoint: Answering, images: Path, capsys: Capture) -> None:
    assert invoke(endpoint, images, "left.dcm right.dcm", "--dicom") == 0
    out = images / "out"
    assert sorted(path.name for path in out.glob("*.dcm")) == [
        "0-left-overlay.dcm",
        "1-right-overlay.dcm",
        "left-report.dcm",
    ]
    assert (out / "1-right-overlay.dcm").read_bytes() == b"DICOM result=overlay"
    assert f"saved {out / 'left-report.dcm'}" in capsys.readouterr().out


def failed(capsys: Capture) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_the_server_s_refusal_is_one_line_with_its_code(endpoint: Answering, images: Path, capsys: Capture) -> None:
    endpoint.refuse(422, "not_a_mammogram", "it is a photograph")
    assert invoke(endpoint, images, "left.pgm") == 2
    assert failed(capsys) == "error: not_a_mammogram: it is a photograph"
    assert not (images / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--laterality", "X"], "--laterality X: 'X' is none of L, R"),
        (["--view", "MLO,CC,CC"], "--view MLO,CC,CC: 3 values for 2 files"),
        (["--async"], "delivery=async needs uploads"),
        (["--uploads", "films"], "Uploads.prefix='films' must be s3://"),
    ],
)
def test_arguments_that_cannot_be_meant(
    endpoint: Answering, images: Path, capsys: Capture, options: list[str], message: str
) -> None:
    assert invoke(endpoint, images, "left.pgm right.pgm", *options) == 2
    assert message in failed(capsys) and endpoint.requests == []


def test_a_file_that_is_missing_and_a_folder_that_cannot_be_written(
    endpoint: Answering, images: Path, capsys: Capture
) -> None:
    assert invoke(endpoint, images, "missing.pgm") == 2
    assert "unreadable_file" in failed(capsys)
    (images / "out").write_text("a file, no folder")
    assert invoke(endpoint, images, "left.pgm") == 2
    assert str(images / "out") in failed(capsys)


def test_a_run_s_kept_endpoints_are_asked_by_size(
    endpoint: Answering, images: Path, services: LocalServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services.environment.items():
        monkeypatch.setenv(name, value)
    folder = RunFolder(images / "runs", "20260101-000000-aaaa")
    folder.write({"id": folder.id, "status": "Succeeded"})
    folder.become_latest()
    (images / "large.pgm").write_bytes(PGM + bytes(25 * 2**20))
    names = {name: f"s3://{BUCKET}/async/{name}" for name in ("input", "output", "failures")}
    settings = AsyncSettings("films-async", endpoint.url, names["output"], names["failures"])
    with AsyncRuntime(settings, services.storage.client) as front:
        kept = {"name": "films", "url": endpoint.url, "pid": 1}
        (folder.path / local_endpoint.FILE).write_text(json.dumps(kept))
        queue = {"name": "films-async", "url": front.url, "pid": 1, "front_pid": 2, "uploads": names["input"]}
        (folder.path / local_endpoint.ASYNC_FILE).write_text(json.dumps(queue))
        words = ["--runs", str(images / "runs"), "--output", str(images / "out")]
        assert cli.main(["invoke", str(images / "left.pgm"), *words]) == 0
        assert {path for path, _, _ in endpoint.requests} == {"/endpoints/films/invocations"}
        endpoint.requests.clear()
        assert cli.main(["invoke", str(images / "large.pgm"), *words]) == 0
        assert {path for path, _, _ in endpoint.requests} == {"/invocations"}
        (folder.path / local_endpoint.FILE).unlink()
        endpoint.requests.clear()
        assert cli.main(["invoke", str(images / "left.pgm"), *words]) == 0
        assert {path for path, _, _ in endpoint.requests} == {"/invocations"}
