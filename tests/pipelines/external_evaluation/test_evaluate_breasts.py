"""`mammopipe evaluate` and `predict` with a model that judges a breast by all its views."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
import sklearn.metrics as reference
import torch

from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.pipelines.cli import main
from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.datasets.manifest import ImageRecord, Label, breast_id
from mammopipe.processing.datasets.vindr_mammo import DATASET
from mammopipe.processing.images.mammogram import ReadConfig, read_mammogram
from mammopipe.processing.phantoms.collection_trees import write_vindr_tree
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.registry import build_model
from tests.support.points import image_point, level_figures

IMAGES = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose breasts differ by all that a breast is judged by: its views, their weights, the other side."""
    network = build_model("modified_cnn", classes=3, seed=1, level=Level.BREAST, other_side=True)
    assert network.views is not None and network.views.other is not None
    with torch.no_grad():
        network.head.get_submodule("1").weight.mul_(60)
        torch.nn.init.normal_(network.views.score.weight, generator=torch.Generator().manual_seed(1))
        torch.nn.init.eye_(network.views.other.weight).mul_(-0.3)
    folder = tmp_path_factory.mktemp("model")
    point = image_point(0.2)
    described = {
        "architecture": "modified_cnn",
        "classes": ["normal", "benign", "malignant"],
        "level": "breast",
        "views": {"other_side": True, "mask": {"absent": 0, "own": 1, "other": 2}},
        "input": {"height": 96, "width": 64},
        "preprocess": PreprocessConfig(height=96, width=64).to_json(),
        "initialisation": "scratch",
        "pretrained_weights": None,
        "calibration": Calibration(1.5).as_dict(["normal", "benign", "malignant"])
        | {"prevalence": dict.fromkeys(("image", "breast", "patient"), point["prevalence"])},
        "operating_points": {"sensitivity": point, "specificity": image_point(0.5)},
        "training": {},
        "metrics": {
            "validation": {level: level_figures(sensitivity=0.2, specificity=0.5, f1=0.3) for level in _LEVELS}
        },
        "versions": {},
    }
    model_directory.save(folder, network, described)
    return folder


_LEVELS = ("breast", "patient")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exams of four views; one view of the first woman's left breast is damaged."""
    folder = tmp_path_factory.mktemp("vindr")
    write_vindr_tree(folder, IMAGES, size=(256, 208))
    (folder / DATASET.image_folder / _damaged(folder).path).write_bytes(b"no image")
    return folder


def _records(folder: Path) -> list[ImageRecord]:
    return list(DATASET.check(folder).records)


def _damaged(folder: Path) -> ImageRecord:
    """Return the first malignant image."""
    return next(record for record in _records(folder) if record.label is Label.MALIGNANT)


@pytest.fixture(scope="module")
def evaluated(model: Path, release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("external")
    assert main(["evaluate", str(model), str(release), "-o", str(output), "--bootstrap", "100"]) == 0
    return output


def _rows(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((output / "predictions.csv").read_text().splitlines()))


def test_each_breast_is_judged_as_in_an_exam_of_the_endpoint(model: Path, release: Path, evaluated: Path) -> None:
    found = {f"{row['patient_id']}-{row['laterality']}": row for row in _rows(evaluated)}
    exams = defaultdict(list)
    damaged = _damaged(release)
    for record in _records(release):
        if record != damaged:
            exams[record.patient_id].append(record)
    predictor, folder = Predictor(model), release / DATASET.image_folder
    for patient, records in exams.items():
        config = ReadConfig(jpeg_files=True)
        mammograms = [read_mammogram(folder / record.path, record=record, config=config) for record in records]
        exam = predictor.predict(mammograms)
        for breast in exam.combined.breasts:
            row = found[f"{patient}-{breast.laterality}"]
            assert float(row["malignant"]) == pytest.approx(breast.malignancy_score / 100, abs=1e-6)
            assert row["images"].split() == [records[index].image_id for index in breast.images]
            lacks_a_view = breast_id(damaged) == f"{patient}-{breast.laterality}"
            assert row["referred"] == str(breast.referral.refer or lacks_a_view)
    assert len(found) == len(_rows(evaluated)) == IMAGES // 2


def test_the_figures_are_of_breasts_and_patients(release: Path, evaluated: Path) -> None:
    found, rows = json.loads((evaluated / "external.json").read_text()), _rows(evaluated)
    truth = [row["label"] == "malignant" for row in rows]
    scores = [float(row["malignant"]) for row in rows]
    counts = {"images": IMAGES - 1, "breasts": IMAGES // 2, "patients": IMAGES // 4, "malignant": sum(truth)}
    assert found["level"] == "breast" and found["counts"] | counts == found["counts"]
    assert "image" not in found and found["breast"]["cases"] == IMAGES // 2
    assert found["patient"]["cases"] == IMAGES // 4
    for value in (found["malignant_auc"], found["breast"]["malignant_auc"]):
        assert value["value"] == pytest.approx(reference.roc_auc_score(truth, scores))
    damaged = _damaged(release)
    (row,) = [row for row in rows if breast_id(damaged) == f"{row['patient_id']}-{row['laterality']}"]
    assert row["label"] == "malignant" and damaged.image_id not in row["images"], "the truth is that of all its views"
    page = (evaluated / "report.html").read_text()
    assert "Malignant or not, by breast and patient" in page and "judges a breast by all its views" in page


def test_predict_writes_a_row_for_each_image_breast_and_patient(model: Path, release: Path, tmp_path: Path) -> None:
    output, folder = tmp_path / "found.csv", release / DATASET.image_folder
    study = folder / _records(release)[-1].path
    words = ["predict", str(model), str(study.parent), "-o", str(output), "--exams", "--processes", "1"]
    assert main(words) == 0
    rows = list(csv.DictReader((tmp_path / "found-exams.csv").read_text().splitlines()))
    assert [row["level"] for row in rows] == ["breast", "breast", "patient"]
    mammograms = [
        read_mammogram(folder / record.path, record=record)
        for record in _records(release)
        if (folder / record.path).parent == study.parent
    ]
    expected = [breast.malignancy_score / 100 for breast in Predictor(model).predict(mammograms).combined.breasts]
    assert [float(row["malignancy"]) for row in rows[:2]] == pytest.approx(expected, abs=1e-6)
