"""A model that asks the binary question, negative or malignant, in every form of answer, and at the monitor."""

import io
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest

from mammopipe.inference.contract.errors import BadOptionError
from mammopipe.inference.contract.media_types import AnswerType
from mammopipe.inference.monitor import examine
from mammopipe.inference.monitoring.captures import Captures
from mammopipe.inference.monitoring.drift import DriftConfig
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.inference.server import capture
from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.classes import TWO
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.training.model.drift_features import fit_drift_reference
from tests.inference.conftest import save_model
from tests.inference.dicom.cad_templates import TID_4000, breaches
from tests.inference.dicom.dicom_examples import items, name_of, phantom_exams
from tests.inference.prediction.handler.handler_requests import JSON, exam, run, validate

DICOM, CONFIG = "application/dicom", PreprocessConfig(height=96, width=64)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("two")
    save_model(folder, TWO)
    return Predictor(folder)


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [with_view(data) for data in phantom_exams()[0]]


def with_view(data: bytes) -> bytes:
    dataset, stream = pydicom.dcmread(io.BytesIO(data)), io.BytesIO()
    dataset.ViewPosition = "MLO"
    dataset.save_as(stream)
    return stream.getvalue()


def test_the_answer_has_two_probabilities_and_a_heatmap_of_either(predictor: Predictor, files: list[bytes]) -> None:
    for target in TWO:
        body = run(predictor, DICOM, files[0], heatmap="true", target=target).body
        validate("Answer", body)
        answer = json.loads(body)
        assert list(answer["probabilities"]) == ["negative", "malignant"]
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["malignancy_score"] == pytest.approx(100 * answer["probabilities"]["malignant"])
        assert answer["heatmap"]["target"] == target and answer["decision"]["finding"] == "suspicious"
    with pytest.raises(BadOptionError, match="this model's classes are negative, malignant"):
        run(predictor, DICOM, files[0], target="benign")
    assert cv2.imdecode(np.frombuffer(run(predictor, DICOM, files[0], form=AnswerType.OVERLAY).body, np.uint8), 1).any()


def test_the_results_of_an_exam_name_the_two_classes(predictor: Predictor, files: list[bytes]) -> None:
    reply = run(predictor, JSON, exam(files), form=AnswerType.ZIP)
    with zipfile.ZipFile(io.BytesIO(reply.body)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    validate("ExamAnswer", members["answer.json"])
    report, cad, state = (
        pydicom.dcmread(io.BytesIO(members[name]))
        for name in ("report.dcm", "cad-report.dcm", "presentation-state-0.dcm")
    )
    names = {name_of(item) for item in items(report)}
    assert {"P-NEGATIVE", "P-MALIGNANT"} <= names and not {"P-NORMAL", "P-BENIGN"} & names
    assert breaches(cad, TID_4000) == []
    assert state.Modality == "PR" and sum(name.startswith("overlay") for name in members) == len(files)


def test_the_monitor_reads_its_answers(predictor: Predictor, files: list[bytes], tmp_path: Path) -> None:
    answer = run(predictor, DICOM, files[0]).body
    quality = json.loads(answer)["image"]["quality"]
    records = [
        ImageRecord(str(n), str(n), "own", Laterality.LEFT, View.MLO, Label.NEGATIVE, quality=quality) for n in range(8)
    ]
    shares = np.linspace((0.9, 0.1), (0.2, 0.8), 8)
    description: dict[str, Any] = {
        "architecture": "modified_cnn",
        "weights_sha256": "ab" * 32,
        "reference": {"distributions": fit_drift_reference(records, records, shares, malignant=1)},
    }
    headers = {"content-type": DICOM}, {"content-type": "application/json"}
    for minute in range(30):
        moment = datetime(2026, 1, 5, 9, minute, tzinfo=UTC)
        capture.append(tmp_path, capture.captured(files[0], headers[0], answer, headers[1], moment))
    report, _ = examine(Captures(tmp_path, CONFIG), description, {}, DriftConfig())
    assert report["exams"] == 30 and report["unreadable"] == {}
    assert "malignancy" in report["groups"]["all"]["figures"]
