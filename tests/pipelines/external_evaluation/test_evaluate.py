"""`mammopipe evaluate`: a served model judged on a labelled set that it has never seen, through the command itself."""

import csv
import html
import json
import plistlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import sklearn.metrics as reference

from mammopipe.inference.prediction.image_prediction import Prediction
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.pipelines.cli import main
from mammopipe.pipelines.external_evaluation import figures
from mammopipe.pipelines.external_evaluation.judging import Detection, Judged
from mammopipe.pipelines.external_evaluation.run import JOURNAL
from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms import collection_trees
from mammopipe.processing.phantoms.film import make_film
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.registry import build_model
from tests.support.points import image_point, level_figures

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
    """A tiny INbreast of phantoms, with a file that is no image, an image without a row, and a lesion outside."""
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
            regions = [{"Name": "Mass", "Point_px": square}]
            if number == 2:
                regions.append({"Name": "Mass", "Point_px": ["(900, 900)", "(940, 900)", "(940, 940)"]})
            outlines = {"Images": [{"ROIs": regions}]}
            (folder / "AllXML" / f"{image}.xml").write_bytes(plistlib.dumps(outlines))
    lines.append("removed;removed;L;CC;200801;30000000;1;1")
    (folder / "ALL-IMGS" / f"30000000_{99:016x}_MG_L_CC_ANON.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    (folder / "ALL-IMGS" / f"30000001_{99:016x}_MG_R_CC_ANON.png").write_bytes(b"")
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
    rows = list(csv.DictReader((evaluated / "refused.csv").read_text().splitlines()))
    page, counts = (
        (evaluated / "report.html").read_text(),
        json.loads((evaluated / "external.json").read_text())["counts"],
    )
    assert [row["image_id"] for row in rows] == ["30000000", "30000001"] and "30000000" in page
    assert "no row of INbreast.csv names this image" in rows[1]["reason"]
    assert (counts["refused"], counts["unlabelled"], counts["unplaced_lesions"]) == (1, 1, 1)
    assert "further images have no row" in page and "outlined lesions are left out" in page


def test_the_report_is_one_file_that_says_whose_images_they_are(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text()
    assert page.count('<svg class="plot"') == 4 and "INbreast" in page and "Research use only" in page
    assert "http" not in page and "<script" not in page and 'data-path="calibration/calibration_slope"' in page


def test_a_folder_of_no_known_dataset_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(model), str(tmp_path)]) == 2
    assert "no label table of a known dataset" in capsys.readouterr().err


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The collections of phantoms in their released layouts, twelve small images each."""
    writers = {
        "inbreast": collection_trees.write_inbreast_tree,
        "cbis-ddsm": collection_trees.write_cbis_tree,
        "cmmd": collection_trees.write_cmmd_tree,
        "vindr-mammo": collection_trees.write_vindr_tree,
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in writers}
    for name, write in writers.items():
        write(folders[name], 20, size=(256, 208))
    return folders


@pytest.mark.parametrize("name", ["cbis-ddsm", "cmmd", "vindr-mammo"])
def test_every_collection_gives_the_figures_that_its_labels_allow(
    model: Path, collections: dict[str, Path], tmp_path: Path, name: str
) -> None:
    assert main(["evaluate", str(model), str(collections[name]), "-o", str(tmp_path), "--bootstrap", "100"]) == 0
    found = json.loads((tmp_path / "external.json").read_text())
    assert (found["dataset"], found["counts"]["images"], found["counts"]["refused"]) == (name, 20, 0)
    assert found["malignant_auc"]["value"] is not None and found["breast"]["malignant_auc"]["value"] is not None
    assert (found["macro_auc"]["value"] is None) == (name in ("cbis-ddsm", "cmmd"))
    assert (found["froc"] is None) == (name == "cmmd") == (found["counts"]["with_lesions"] == 0)
    page = (tmp_path / "report.html").read_text()
    assert ("No lesion of these images is outlined" in page) == (name == "cmmd")
    assert sum(found["referral_reasons"].values()) >= found["referred"]["value"] * 20
    assert all(f"{code} <" in page for code in found["referral_reasons"])
    assert ("excluded as secondary-capture" in found["referral_reasons"]) == (name == "cbis-ddsm")
    assert ("none is normal here, so false positive regions in healthy breasts" in page) == (name == "cbis-ddsm")
    assert found["synthetic"] and f"The images are synthetic, in the layout of {name}" in page
    assert ("readers' opinions, not pathology" in html.unescape(page)) == (name == "vindr-mammo")
    assert found["terms"] in html.unescape(page) and not (tmp_path / JOURNAL).exists()


def test_an_interrupted_evaluation_resumes_and_ends_as_an_uninterrupted_one(
    model: Path, collections: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, calls = Predictor.judge, []

    def counted(self: Predictor, mammogram: Mammogram, *arguments: Any, **settings: Any) -> Prediction:
        calls.append(mammogram)
        if len(calls) == 6:
            raise ConfigError("stopped")
        return judge(self, mammogram, *arguments, **settings)

    arguments = [str(model), str(collections["cbis-ddsm"]), "--bootstrap", "100"]
    assert main(["evaluate", *arguments, "-o", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(Predictor, "judge", counted)
    assert main(["evaluate", *arguments, "-o", str(tmp_path / "twice")]) == 2
    assert main(["evaluate", *arguments, "-o", str(tmp_path / "twice")]) == 0
    assert len(calls) == 6 + 15
    for name in ("external.json", "predictions.csv"):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_one_split_of_the_released_table_is_evaluated(
    model: Path, collections: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["evaluate", str(model), str(collections["vindr-mammo"]), "-o", str(tmp_path), "--bootstrap", "100"]
    assert main([*arguments, "--split", "test"]) == 0
    found = json.loads((tmp_path / "external.json").read_text())
    assert found["counts"]["images"] == 4 and found["split"] == "test"
    assert "those of the split <b>test</b> of the released table" in (tmp_path / "report.html").read_text()
    assert main([*arguments, "--split", "validation"]) == 2
    assert "no image of" in capsys.readouterr().err


def test_false_positives_of_normal_images_and_hits_of_benign_lesions_count_as_what_they_are() -> None:
    def judged(label: Label, lesions: tuple[Lesion, ...], *found: Detection) -> Judged:
        record = ImageRecord("a", "p", "own", None, None, label, lesions=lesions)
        return Judged(record, np.zeros(3), 0.0, None, False, {}, 0.1 if lesions else None, found)

    malignant, benign = (Lesion(5, 5, 2, label) for label in (Label.MALIGNANT, Label.BENIGN))
    images = [
        judged(Label.MALIGNANT, (malignant, benign), Detection(0.9, (1,)), Detection(0.4, (0,))),
        judged(Label.NORMAL, (), Detection(0.8, ())),
        judged(Label.BENIGN, (benign,), Detection(0.95, ())),
    ]
    froc = {point["false_positives"]: point["sensitivity"] for point in figures._froc(images) or []}
    assert froc[0.25] == 0.0 and froc[0.5] == 1.0
