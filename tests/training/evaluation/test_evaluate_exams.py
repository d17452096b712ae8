"""The evaluation job on screening exams, through its entry point: breasts, patients, subgroups and their tables."""

import copy
import re
import shutil
import sys
from collections import defaultdict

import cv2
import numpy as np
import pytest
import sklearn.metrics as reference
import torch

from mammopipe.processing.classes import THREE
from mammopipe.processing.container import job
from mammopipe.processing.datasets.manifest import Split
from mammopipe.training.evaluate import main
from mammopipe.training.model.archive import unpack
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.networks import model_directory
from mammopipe.training.reporting.report import render
from tests.support.computed_once import forget
from tests.training.conftest import EvaluationBase

LEVELS = ("image", "breast", "patient")


def scored(tree, name: str, split: Split, folder):
    """Return rows, truth and calibrated malignancy of a split's images, computed without the job's own code."""
    unpack(tree.models / name / "model.tar.gz", folder)
    network = model_directory.load(folder).network
    rows = [record for record in tree.records() if record.split is split and not record.source_image_id]
    images = [cv2.imread(str(tree.data / row.path), cv2.IMREAD_UNCHANGED).astype(np.float32) / 65535 for row in rows]
    with torch.inference_mode():
        logits = torch.stack([network(torch.from_numpy(image)[None, None])[0].double() for image in images])
    calibration = Calibration.read(tree.evaluation["candidates"][name], THREE)
    return rows, np.array([row.label.rank == 2 for row in rows]), calibration.probabilities(logits.numpy())[:, 2]


def combined(rows, truth, scores, rule=np.mean):
    """Return truth and score of each image, breast and patient."""
    views, breasts = defaultdict(list), defaultdict(list)
    for row, malignant, score in zip(rows, truth, scores, strict=True):
        views[row.patient_id, row.laterality].append((malignant, score))
    for (patient, _), of_breast in views.items():
        breasts[patient].append((any(one for one, _ in of_breast), rule([one for _, one in of_breast])))
    patients = [(any(one for one, _ in both), max(one for _, one in both)) for both in breasts.values()]
    judged = [breast for both in breasts.values() for breast in both]
    return {
        "image": (truth, scores),
        "breast": tuple(map(np.array, zip(*judged, strict=True))),
        "patient": tuple(map(np.array, zip(*patients, strict=True))),
    }


@pytest.mark.parametrize("split", [Split.VALIDATION, Split.TEST])
def test_breasts_and_patients_are_those_of_the_model_on_the_files(screened, tmp_path, split):
    for name in ("first", "second"):
        expected = combined(*scored(screened, name, split, tmp_path / name))
        for level in LEVELS:
            found, (truth, scores) = screened.evaluation["candidates"][name][split][level], expected[level]
            assert (found["cases"], found["malignant"]) == (len(truth), truth.sum())
            assert found["malignant_auc"]["value"] == pytest.approx(reference.roc_auc_score(truth, scores), abs=1e-5)
            pf1 = 2 * scores[truth].sum() / (scores.sum() + truth.sum())
            assert found["pf1"]["value"] == pytest.approx(pf1, abs=1e-5)
            assert found["pf1_floor"]["value"] == pytest.approx(2 * truth.mean() / (1 + truth.mean()))
            for point in found["operating_points"].values():
                called = scores >= point["threshold"]
                assert point["sensitivity"]["value"] == pytest.approx(called[truth].mean())
                assert point["recall_rate"]["value"] == pytest.approx(called.mean())


def test_thresholds_of_a_level_are_the_best_of_validation(screened, tmp_path):
    candidate = screened.evaluation["candidates"]["first"]
    validation = combined(*scored(screened, "first", Split.VALIDATION, tmp_path))
    for level in LEVELS:
        truth, scores = validation[level]
        points = candidate["validation"][level]["operating_points"]
        best = max(reference.f1_score(truth, scores >= threshold) for threshold in scores)
        assert points["f1"]["f1"]["value"] == pytest.approx(best)
        assert points["sensitivity"]["sensitivity"]["value"] >= 0.9 - 1e-12
        assert points["specificity"]["specificity"]["value"] >= 0.9 - 1e-12
        applied = candidate["test"][level]["operating_points"]
        assert {goal: point["threshold"] for goal, point in points.items()} == {
            goal: point["threshold"] for goal, point in applied.items()
        }


def test_thresholds_of_images_are_the_operating_points_that_are_served(screened):
    selected = screened.evaluation["selected"]
    for aim, point in selected["operating_points"].items():
        measured = selected["test"]["image"]["operating_points"][aim]
        assert measured["threshold"] == point["threshold"]
        assert measured["sensitivity"] == point["on_test"]["sensitivity"]
    assert selected["test"]["subgroups"]["threshold"] == selected["operating_points"]["sensitivity"]["threshold"]


def test_the_rule_is_an_argument_and_recorded(screened, screening_inputs, monkeypatch, tmp_path):
    base = shutil.copytree(screening_inputs.base, tmp_path / "base")
    tree = EvaluationBase(base)
    monkeypatch.setenv("MAMMOPIPE_BASE", str(base))
    monkeypatch.setattr(sys, "argv", ["evaluate", "--bootstrap", "100", "--breast-rule", "max"])
    assert job.run(main, "message") == 0
    assert (screened.evaluation["breast_rule"], tree.evaluation["breast_rule"]) == ("mean", "max")
    assert "the highest of its views" in tree.page
    unpack(tree.output / "model" / "model.tar.gz", tmp_path / "model")
    assert model_directory.read_description(tmp_path / "model")["calibration"]["breast_rule"] == "max"
    truth, scores = combined(*scored(tree, "first", Split.TEST, tmp_path / "first"), np.max)["breast"]
    area = tree.evaluation["candidates"]["first"]["test"]["breast"]["malignant_auc"]["value"]
    assert area == pytest.approx(reference.roc_auc_score(truth, scores), abs=1e-5)


def test_the_same_exams_give_the_same_bytes(screened, screening_inputs, monkeypatch, tmp_path):
    forget()
    monkeypatch.setenv("MAMMOPIPE_BASE", str(shutil.copytree(screening_inputs.base, tmp_path / "base")))
    monkeypatch.setattr(sys, "argv", ["evaluate", "--bootstrap", "100"])
    assert job.run(main, "message") == 0
    for name in ("evaluation/evaluation.json", "evaluation/report.html", "model/model.tar.gz"):
        assert (EvaluationBase(tmp_path / "base").output / name).read_bytes() == (screened.output / name).read_bytes()


def test_subgroups_hold_every_image_and_the_figures_of_its_files(screened, tmp_path):
    selected = screened.evaluation["selected"]
    by, threshold = selected["test"]["subgroups"]["by"], selected["test"]["subgroups"]["threshold"]
    rows, truth, scores = scored(screened, selected["cnn"], Split.TEST, tmp_path)
    assert list(by) == ["site", "machine", "density", "age", "view", "side", "implant", "film flags"]
    for attribute in ("site", "machine", "density", "age", "view", "side", "implant"):
        assert sum(group["images"] for group in by[attribute]) == len(rows)
        assert sum(group["malignant"] for group in by[attribute]) == truth.sum()
    cc = np.array([row.view == "CC" for row in rows])
    [group] = [group for group in by["view"] if group["value"] == "CC"]
    assert group["images"] == cc.sum() and group["patients"] == 12
    assert group["specificity"]["value"] == pytest.approx((scores[cc & ~truth] < threshold).mean())
    assert group["sensitivity"]["reason"] == "too few: 4 with a malignant image, of 10 patients needed"
    assert [group["value"] for group in by["density"]] == ["B", "D", "not stated"]


def test_the_page_shows_levels_and_subgroups(screened):
    assert "the mean of its views" in screened.page and "Every breast has one view here" not in screened.page
    assert 'data-path="selected/test/breast/pf1_floor"' in screened.page
    assert 'data-path="selected/test/subgroups/by/film flags/1/specificity"' in screened.page
    shown = re.findall(
        r'<span class="figure" data-path="selected/test/subgroups/by/view/0/sensitivity" '
        r'title="too few: 4[^"]*"><small>(.*?)</small>',
        screened.page,
    )
    assert shown == ["too few"]


def test_one_view_a_breast_is_said_and_not_repeated(evaluated):
    for candidate in evaluated.evaluation["candidates"].values():
        assert candidate["test"]["breast"] == {"same_as": "image"} and candidate["test"]["patient"]["cases"] == 12
    assert "Every breast has one view here, so the figures of breasts are those of images." in evaluated.page
    assert "image = breast" in evaluated.page and "/breast/" not in evaluated.page
    assert list(evaluated.evaluation["selected"]["test"]["subgroups"]["by"]) == ["side"]
    whole = copy.deepcopy(evaluated.evaluation)
    for split in ("validation", "test"):
        whole["selected"][split]["subgroups"]["by"] = {}
    assert render(whole, {}).count("Every attribute has only one value here") == 2


def test_an_unknown_rule_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--breast-rule", "median"])
    with pytest.raises(SystemExit):
        job.run(main, "message")
    assert "invalid choice: 'median'" in capsys.readouterr().err
