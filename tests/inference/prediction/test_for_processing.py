"""Raw images are treated as in training by every way to apply a model; an endpoint may be stricter, never milder."""

import base64
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.contract.media_types import AnswerType, ImageType
from mammopipe.inference.contract.request import RequestOptions
from mammopipe.inference.contract.task import Task
from mammopipe.inference.monitoring.captures import Captures
from mammopipe.inference.prediction.handler import answer
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.inference.settings import from_environment
from mammopipe.pipelines.cli import main
from mammopipe.pipelines.external_evaluation.judging import Judgement, judge
from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.datasets.definition import LabelTable
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.errors import ConfigError, ImageError
from mammopipe.processing.files import write_bytes, write_json
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.images.mammogram import ReadConfig, read_mammogram
from mammopipe.processing.jobs.journal import Journal
from mammopipe.processing.read_config import ForProcessing
from mammopipe.training.networks import model_directory
from tests.processing.conftest import write_dicom
from tests.support.clinical_phantoms import Kind, make_clinical_phantom

DICOM = ImageType.DICOM
REFUSE, CONVERT = ForProcessing.REFUSE, ForProcessing.CONVERT
Model = Callable[[ForProcessing], Path]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw 14-bit image: simulated detector counts behind a breast."""
    pixels = make_clinical_phantom(1, Kind.DARK_FAT, view=View.CC, bits=12).pixels
    attenuation = np.where(pixels > 0, 0.5 + 3.5 * pixels / 65535, 0)
    counts = np.random.default_rng(0).poisson(9000 * np.exp(-attenuation)).astype(np.uint16)
    path = tmp_path_factory.mktemp("raw") / "raw.dcm"
    values = {
        "PresentationIntentType": "FOR PROCESSING",
        "Modality": "MG",
        "ImageLaterality": "L",
        "ViewPosition": "CC",
    }
    path.write_bytes(write_dicom(counts, bits=14, **values))
    return path


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return a function that gives the directory of a model whose training treated raw images in this way."""

    def make(choice: ForProcessing) -> Path:
        folder = tmp_path_factory.mktemp(choice)
        write_bytes(folder / "weights.safetensors", (base / "model" / "weights.safetensors").read_bytes())
        described = model_directory.read_description(base / "model")
        config = PreprocessConfig.from_json(described["preprocess"]).replace(for_processing=choice)
        write_json(folder / "model.json", described | {"preprocess": config.to_json()})
        return folder

    return make


@pytest.fixture(scope="module")
def predictors(model: Model) -> dict[ForProcessing, Predictor]:
    return {choice: Predictor(model(choice)) for choice in ForProcessing}


@pytest.mark.parametrize(
    ("trained", "asked", "status"),
    [(REFUSE, "", 422), (CONVERT, "", 200), (CONVERT, "convert", 200), (CONVERT, "refuse", 422)],
)
def test_the_endpoint_does_as_training_did_or_refuses(
    predictors: dict[ForProcessing, Predictor], raw: Path, trained: ForProcessing, asked: str, status: int
) -> None:
    predictor = predictors[trained]
    reading = from_environment({"MAMMOPIPE_FOR_PROCESSING": asked}).reading(predictor.for_processing)
    task = Task("r1", raw.read_bytes(), RequestOptions(), AnswerType.JSON, content_type=DICOM)
    if status == 200:
        reply = json.loads(answer(predictor, task, reading).body)
        assert reply["referral"]["refer"] and str(ImageFlag.FOR_PROCESSING_CONVERTED) in str(reply)
    else:
        with pytest.raises(RequestError, match="PresentationIntentType|Presentation Intent Type") as error:
            answer(predictor, task, reading)
        assert error.value.status == status


def test_a_server_does_not_start_milder_than_its_model(model: Model) -> None:
    settings = from_environment({"MAMMOPIPE_FOR_PROCESSING": "convert"})
    with pytest.raises(ConfigError, match="MAMMOPIPE_FOR_PROCESSING=convert.*preprocess.for_processing=refuse"):
        settings.reading(REFUSE)


def test_the_predictor_refuses_converted_pixels_that_its_training_did_not_have(
    predictors: dict[ForProcessing, Predictor], raw: Path
) -> None:
    mammogram = read_mammogram(raw, config=ReadConfig(for_processing=CONVERT))
    assert predictors[CONVERT].predict(mammogram).probabilities
    with pytest.raises(ImageError, match=r"preprocess\.for_processing=refuse"):
        predictors[REFUSE].predict(mammogram)


@pytest.mark.parametrize("trained", list(ForProcessing))
def test_predict_does_as_training_did(model: Model, raw: Path, tmp_path: Path, trained: ForProcessing) -> None:
    output, heatmaps = tmp_path / "predictions.csv", tmp_path / "heat"
    words = ["predict", str(model(trained)), str(raw), "-o", str(output), "--processes", "1"]
    assert main([*words, "--heatmaps", str(heatmaps)]) == int(trained is REFUSE)
    (row,) = csv.DictReader(output.read_text().splitlines())
    if trained is CONVERT:
        assert row["malignancy"] and not row["error"] and row["referred"] == "True"
        assert [path.name for path in heatmaps.iterdir()] == ["raw.png"]
    else:
        assert not row["malignancy"] and "FOR PROCESSING" in row["error"]


@pytest.mark.parametrize("trained", list(ForProcessing))
def test_evaluate_does_as_training_did(
    model: Model, predictors: dict[ForProcessing, Predictor], raw: Path, tmp_path: Path, trained: ForProcessing
) -> None:
    record = ImageRecord("1", "1", "own", Laterality.LEFT, View.CC, Label.NORMAL, path=raw.name)
    config = PreprocessConfig(height=96, width=64, for_processing=trained)
    journal = Journal(tmp_path / "judged.jsonl", "model and data")
    try:
        found: Judgement = judge(predictors[trained], config, LabelTable([record]), raw.parent, journal)
    finally:
        journal.close()
    assert (len(found.images), len(found.refused)) == ((1, 0) if trained is CONVERT else (0, 1))


@pytest.mark.parametrize("trained", list(ForProcessing))
def test_the_monitor_measures_as_training_did(raw: Path, tmp_path: Path, trained: ForProcessing) -> None:
    body = {"encoding": "BASE64", "data": base64.b64encode(raw.read_bytes()).decode(), "observedContentType": DICOM}
    line = {"captureData": {"endpointInput": body}, "eventMetadata": {"inferenceTime": "2026-01-05T09:00:00Z"}}
    (tmp_path / "captured.jsonl").write_text(json.dumps(line) + "\n")
    captures = Captures(tmp_path, PreprocessConfig(height=96, width=64, for_processing=trained))
    exams: Iterator[object] = captures.exams()
    assert (len(list(exams)), captures.unreadable.total()) == ((1, 0) if trained is CONVERT else (0, 1))
