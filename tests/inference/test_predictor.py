import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.predictor import Predictor, tensor
from inference.schema import Finding, OperatingPoint
from processing.errors import ConfigError
from processing.files import write_bytes, write_json
from processing.imaging import read_mammogram, write_png
from processing.preprocess import PreprocessConfig, preprocess
from processing.records import Dataset, ImageRecord, Label, Laterality, View
from training import artifact
from training.dataset import FilmDataset

CONFIG = PreprocessConfig(height=96, width=64)


@pytest.fixture(scope="module")
def predictor(base: Path) -> Predictor:
    torch.set_num_threads(1)
    return Predictor(base / "model")


def film(films: Any) -> Any:
    return dataclasses.replace(read_mammogram(films.pgm), laterality=Laterality.RIGHT, view=View.MLO)


def test_input_is_bit_for_bit_what_training_reads(films: Any, tmp_path: Path, predictor: Predictor) -> None:
    """The film through the files that Prepare and Segment leave, and through training's dataset."""
    record = ImageRecord("p1", "p", Dataset.MIAS, Laterality.RIGHT, View.MLO, Label.MALIGNANT)
    source = tmp_path / "p1.pgm"
    write_bytes(source, films.pgm)
    write_png(tmp_path / "prepared" / "p1.png", read_mammogram(source, record=record).pixels)
    prepared = read_mammogram(tmp_path / "prepared" / "p1.png", record=record)
    write_png(tmp_path / "segmented" / "p1.png", preprocess(prepared, CONFIG).pixels)
    trained_on, _, _ = FilmDataset([record], tmp_path / "segmented", shape=(CONFIG.height, CONFIG.width))[0]
    served = tensor(predictor.prepare(film(films)))
    assert served.shape == (1, 1, 96, 64) and served.dtype == torch.float32
    assert torch.equal(trained_on, served[0])
    assert served.min() == 0 and served.max() == 1


def test_probabilities_are_the_calibrated_softmax(predictor: Predictor, base: Path, films: Any) -> None:
    prediction = predictor.predict(film(films))
    model = artifact.load(base / "model")
    expected = model.predict_probabilities(tensor(prediction.prepared))[0]
    assert list(prediction.probabilities) == list(Label)
    assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert prediction.malignancy_score == 100 * prediction.probabilities[Label.MALIGNANT]


def test_decision_follows_the_threshold(predictor: Predictor, films: Any) -> None:
    for point, finding in ((OperatingPoint.SENSITIVITY, Finding.SUSPICIOUS),
                           (OperatingPoint.SPECIFICITY, Finding.NOT_SUSPICIOUS)):
        decision = predictor.predict(film(films), operating_point=point).decision
        assert decision is not None and (decision.operating_point, decision.finding) == (point, finding)


def test_without_operating_points_there_is_a_warning_and_no_decision(base: Path, films: Any, tmp_path: Path) -> None:
    described = artifact.read_description(base / "model") | {"operating_points": {}}
    write_bytes(tmp_path / "weights.safetensors", (base / "model" / "weights.safetensors").read_bytes())
    write_json(tmp_path / "model.json", described)
    prediction = Predictor(tmp_path).predict(film(films))
    assert prediction.decision is None
    assert "no-operating-point" in {warning.code for warning in prediction.warnings}


@pytest.mark.parametrize("points", [
    {"sensitivity": {"threshold": 0.5}}, {"sensitivity": 3},
    {"speed": {"threshold": 0.5, "sensitivity": 1, "specificity": 1}},
])
def test_malformed_operating_points_are_refused(base: Path, tmp_path: Path, points: dict[str, Any]) -> None:
    write_bytes(tmp_path / "weights.safetensors", (base / "model" / "weights.safetensors").read_bytes())
    write_json(tmp_path / "model.json", artifact.read_description(base / "model") | {"operating_points": points})
    with pytest.raises(ConfigError, match="operating_points"):
        Predictor(tmp_path)


def test_flags_of_the_segmentation_become_warnings(predictor: Predictor, films: Any) -> None:
    against = dataclasses.replace(film(films), laterality=Laterality.LEFT)
    codes = {warning.code for warning in predictor.predict(against).warnings}
    assert "chest-side-against-laterality" in codes


def test_evidence_covers_the_film(predictor: Predictor, films: Any) -> None:
    mammogram = film(films)
    seen = predictor.explain(predictor.prepare(mammogram), mammogram, Label.NORMAL)
    assert seen.heat.shape == mammogram.pixels.shape and seen.heat.dtype == np.float32
    assert 0 <= seen.heat.min() and seen.heat.max() <= 1
