"""`mammopipe evaluate`: a served model judged on a labelled set that it has never seen, through the command itself."""

import csv
import json
import plistlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import sklearn.metrics as reference

from mammopipe.pipelines.cli import main
from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.phantoms.film import make_film
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.registry import build_model
from tests.points import image_point, level_figures

WOMEN = 12
BIRADS = {Label.NORMAL: "1", Label.BENIGN: "2", Label.MALIGNANT: "5"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, config = tmp_path_factory.mktemp("model"), PreprocessConfig(height=96, width=64)
    levels = {level: level_figures(sensitivity=0.2, specificity=0.5, f1=0.3) for level in ("breast", "patient")}
    model_directory.save(
        folder,
        build_model("modified_cnn", classes=3, seed=1),
        {
            "architecture": "modified_cnn",
            "classes": ["normal", "benign", "malignant"],
            "input": {"height": 96, "width": 64},
            "preprocess": config.to_json(),
            "initialisation": "scratch",
            "pretrained_weights": None,
            "calibration": Calibration(1.5, (0.4, 0.0, -0.4)).as_dict(["normal", "benign", "malignant"]),
            "operating_points": {"sensitivity": image_point(0.2), "specificity": image_point(0.5)},
            "training": {},
            "metrics": {"validation": levels},
            "versions": {},
        },
    )
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny INbreast of phantoms, with one file that is no image."""
    folder = tmp_path_factory.mktemp("inbreast")
    (folder / "ALL-IMGS").mkdir()
    (folder / "AllXML").mkdir()
    lines = ["Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"]
    for number in range(2 * WOMEN):
        label = list(BIRADS)[number % 3]
        side, image = "LR"[number % 2], f"{20000000 + number}"
        lines.append(f"removed;removed;{side};MLO;200801;{image};{1 + number % 4};{BIRADS[label]}")
        drawn = make_film(number, label=label, laterality=Laterality(side), height=256, width=256)
        cv2.imwrite(str(folder / "ALL-IMGS" / f"{image}_{number // 2:016x}_MG_{side}_ML_ANON.png"), drawn.pixels)
        if label is Label.MALIGNANT:
            square = [f"({x}, {y})" for x, y in ((100, 100), (140, 100), (140, 140), (100, 140))]
            outlines = {"Images": [{"ROIs": [{"Name": "Mass", "Point_px": square}]}]}
            (folder / "AllXML" / f"{image}.xml").write_bytes(plistlib.dumps(outlines))
    lines.append("removed;removed;L;CC;200801;30000000;1;1")
    (folder / "ALL-IMGS" / f"30000000_{99:016x}_MG_L_CC_ANON.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    (folder / "INbreast.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def evaluated(model: Path, release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("external")
    assert main(["evaluate", str(model), str(release), "-o", str(output), "--bootstrap", "100"]) == 0
    return output


def test_figures_are_those_of_the_rows(evaluated: Path) -> None:
    found = json.loads((evaluated / "external.json").read_text())
    rows = list(csv.DictReader((evaluated / "predictions.csv").read_text().splitlines()))
    truth = np.array([row["label"] == "malignant" for row in rows])
    scores = np.array([float(row["malignant"]) for row in rows])
    assert found["counts"] | {"images": 24, "patients": 12, "malignant": 8, "refused": 1} == found["counts"]
    assert found["malignant_auc"]["value"] == pytest.approx(reference.roc_auc_score(truth, scores))
    assert found["calibration"]["expected_over_observed"]["value"] == pytest.approx(scores.sum() / truth.sum())
    point = found["image"]["operating_points"]["sensitivity"]
    assert point["threshold"] == 0.2 and point["sensitivity"]["value"] == pytest.approx((scores[truth] >= 0.2).mean())
    assert found["breast"]["operating_points"]["specificity"]["threshold"] == 0.5
    assert found["pointing"]["malignant"]["images"] == 8 and 0 < found["pointing"]["malignant"]["chance"] < 1
    assert {row["value"] for row in found["subgroups"]["by"]["density"]} == {"1", "2", "3", "4"}
    assert [point["false_positives"] for point in found["froc"]] == [0.125, 0.25, 0.5, 1.0, 2.0]


def test_what_cannot_be_judged_is_named_and_the_rest_goes_on(evaluated: Path) -> None:
    [refused] = csv.DictReader((evaluated / "refused.csv").read_text().splitlines())
    assert refused["image_id"] == "30000000" and "30000000" in (evaluated / "report.html").read_text()


def test_the_report_is_one_file_that_says_whose_images_they_are(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text()
    assert page.count('<svg class="plot"') == 4 and "INbreast" in page and "Research use only" in page
    assert "http" not in page and "<script" not in page and 'data-path="calibration/calibration_slope"' in page


def test_a_folder_of_no_known_dataset_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(model), str(tmp_path)]) == 2
    assert "no label table of a known dataset" in capsys.readouterr().err
