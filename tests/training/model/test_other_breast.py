"""The comparison of both breasts: rules that hold for any exam, and the evaluation job up to the served thresholds."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.studies import mias_page
from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.prediction.thresholds import Thresholds
from mammopipe.processing.classes import THREE
from mammopipe.processing.container import job
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_json
from mammopipe.training.evaluate import main
from mammopipe.training.evaluation.batch_prediction import predict_split
from mammopipe.training.evaluation.calibration import COMPARED, fit_comparison
from mammopipe.training.evaluation.data import SegmentedData, read_candidates
from mammopipe.training.evaluation.fit_audit import audit_comparison
from mammopipe.training.model.archive import unpack
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Level, beside_other, both_breasts, compared
from mammopipe.training.model.operating_points import Goal
from mammopipe.training.model.predictions import LeakError, TestPredictions, ValidationPredictions
from mammopipe.training.networks import model_directory
from mammopipe.training.reporting.model_card import render_card

WEIGHT = 0.5
LOGITS = st.tuples(*[st.floats(-20, 20)] * 3)
SCREENED = st.lists(
    st.tuples(st.lists(LOGITS, min_size=1, max_size=3), st.lists(LOGITS, min_size=1, max_size=3)),
    min_size=1,
    max_size=4,
)
"""For each patient, the logits of the left breast's images and of the right breast's images."""


def exams(screened) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the logits, the patient and the breast of each image."""
    rows = [
        (logits, f"p{number}", f"p{number}-{side}")
        for number, sides in enumerate(screened)
        for side, images in zip("LR", sides, strict=True)
        for logits in images
    ]
    logits, patients, breasts = zip(*rows, strict=True)
    return np.array(logits, np.float64), list(patients), list(breasts)


@given(screened=SCREENED, weight=st.floats(0, 1))
def test_the_mean_of_the_other_breast_is_subtracted(screened, weight):
    logits, patients, breasts = exams(screened)
    found = beside_other(logits, patients, breasts, weight)
    for place, breast in enumerate(breasts):
        other = breast[:-1] + {"L": "R", "R": "L"}[breast[-1]]
        mean = logits[[name == other for name in breasts]].mean(axis=0)
        assert found[place] == pytest.approx(logits[place] - weight * mean, abs=1e-9)


@given(screened=SCREENED, looks=LOGITS)
def test_what_both_breasts_have_in_common_cancels_out(screened, looks):
    logits, patients, breasts = exams(screened)
    alike = logits + np.array(looks)
    assert beside_other(alike, patients, breasts, 1.0) == pytest.approx(
        beside_other(logits, patients, breasts, 1.0), abs=1e-9
    )


@given(screened=SCREENED, random=st.randoms(use_true_random=False))
def test_the_order_of_images_changes_nothing(screened, random):
    logits, patients, breasts = exams(screened)
    order = list(range(len(logits)))
    random.shuffle(order)
    shuffled = beside_other(
        logits[order], [patients[place] for place in order], [breasts[place] for place in order], WEIGHT
    )
    assert shuffled == pytest.approx(beside_other(logits, patients, breasts, WEIGHT)[order], abs=1e-12)


def test_only_patients_with_both_breasts_and_no_image_of_unknown_side_are_compared():
    breasts = ["a-L", "a-R", "a-R", "b-L", "b-L", "c-L", "c-unknown", "d-L", "d-R", "d-unknown", "e-unknown"]
    assert both_breasts([name[0] for name in breasts], breasts).tolist() == [True] * 3 + [False] * 8


def predictions(kind, breasts: list[str]):
    logits = np.random.default_rng(3).normal(size=(len(breasts), 3))
    labels = np.array([place % 3 for place in range(len(breasts))])
    names = tuple(map(str, range(len(breasts))))
    return kind(names, tuple(name[0] for name in breasts), tuple(breasts), labels, logits)


BOTH = [f"{patient}-{side}" for patient in "abcdef" for side in "LR"]


def test_those_with_one_breast_are_left_out_and_the_rest_keep_their_places():
    kept, places = compared(predictions(TestPredictions, ["x-L", *BOTH, "y-R"]), WEIGHT)
    assert places.tolist() == list(range(1, 13)) and kept.breasts == tuple(BOTH)
    assert isinstance(kept, TestPredictions)


def test_nothing_is_compared_without_weight_or_without_both_breasts():
    assert fit_comparison(predictions(ValidationPredictions, BOTH), 0.0, BreastRule.MEAN) is None
    left = [name for name in BOTH if name.endswith("L")]
    assert fit_comparison(predictions(ValidationPredictions, left), WEIGHT, BreastRule.MEAN) is None


def test_a_comparison_is_fitted_on_validation_alone():
    with pytest.raises(LeakError):
        fit_comparison(predictions(TestPredictions, BOTH), WEIGHT, BreastRule.MEAN)


def test_a_comparison_that_validation_does_not_give_is_found():
    validation = predictions(ValidationPredictions, BOTH)
    fitted = fit_comparison(validation, WEIGHT, BreastRule.MEAN)
    assert audit_comparison("net", fitted, validation, BreastRule.MEAN) == []
    warmer = replace(fitted, calibration=replace(fitted.calibration, temperature=fitted.calibration.temperature * 1.01))
    assert [one.kind for one in audit_comparison("net", warmer, validation, BreastRule.MEAN)] == ["not-from-validation"]
    points = {**fitted.thresholds[Level.BREAST], Goal.F1: 0.123456}
    moved = replace(fitted, thresholds={**fitted.thresholds, Level.BREAST: points})
    [finding] = audit_comparison("net", moved, validation, BreastRule.MEAN)
    assert "f1 of the compared breast is 0.123456" in finding.message


# --- through the job


@pytest.fixture(scope="module")
def side_by_side(evaluation_inputs, tmp_path_factory):
    """The evaluation job with breasts compared, on images of both breasts of every patient."""
    base = tmp_path_factory.mktemp("side-by-side") / "base"
    shutil.copytree(evaluation_inputs.base, base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMOPIPE_BASE", str(base))
        patch.setattr(sys, "argv", ["evaluate", "--bootstrap", "100", "--other-breast", str(WEIGHT)])
        assert job.run(main, "message") == 0
    return type(evaluation_inputs)(base)


def test_figures_are_those_of_the_compared_images(side_by_side, tmp_path):
    evaluation = side_by_side.evaluation
    name = evaluation["selected"]["cnn"]
    data = SegmentedData.read(side_by_side.data)
    model = read_candidates(side_by_side.models, tmp_path, data.preprocess)[name]
    found = evaluation["selected"]["compared"]
    assert found["weight"] == WEIGHT
    for kind in (ValidationPredictions, TestPredictions):
        rows = data.originals(kind.split)
        predicted = predict_split(kind, {name: model}, rows, data.image_folder(kind.split), shape=(96, 64))[name]
        # Each patient has two images, left and right in turn, so the other breast is the neighbour.
        other = predicted.logits.reshape(-1, 2, 3)[:, ::-1].reshape(-1, 3)
        probabilities = Calibration.read(found, THREE).probabilities(predicted.logits - WEIGHT * other)
        figures = found[str(kind.split)]
        assert figures["images"] == len(rows)
        assert figures["macro_auc"]["value"] == pytest.approx(
            reference.roc_auc_score(predicted.labels, probabilities, multi_class="ovr")
        )
        assert figures["breast"]["malignant_auc"]["value"] == pytest.approx(
            reference.roc_auc_score(predicted.labels == 2, probabilities[:, 2])
        )
        assert figures["patient"]["cases"] == len(rows) // 2
        for point in figures["breast"]["operating_points"].values():
            called = probabilities[predicted.labels != 2, 2] >= point["threshold"]
            assert point["specificity"]["value"] == pytest.approx(1 - called.mean())


def test_scores_of_single_images_stay_unchanged(side_by_side, evaluated):
    ours, theirs = side_by_side.evaluation["candidates"], evaluated.evaluation["candidates"]
    for name in theirs:
        assert theirs[name]["compared"] is None
        assert all(ours[name][key] == theirs[name][key] for key in ("temperature", "intercepts"))
        assert ours[name]["test"]["macro_auc"]["value"] == theirs[name]["test"]["macro_auc"]["value"]
        assert ours[name]["validation"]["breast"] == theirs[name]["validation"]["breast"]


def test_the_packed_model_compares_and_the_endpoint_reads_it(side_by_side, tmp_path):
    unpack(side_by_side.output / "model" / "model.tar.gz", tmp_path)
    description = model_directory.read_description(tmp_path)
    compared_figures = side_by_side.evaluation["selected"]["compared"]
    read = Thresholds.read(description, "model.json").compared
    assert read is not None and set(read.points) == set(COMPARED)
    assert (read.weight, read.calibration) == (WEIGHT, Calibration.read(compared_figures, THREE))
    assert read.calibration == Calibration.of_comparison(description)
    stored = compared_figures["validation"]["breast"]["operating_points"]["specificity"]
    point = read.points[Level.BREAST][OperatingPoint.SPECIFICITY]
    assert (point.threshold, point.specificity.value) == (stored["threshold"], stored["specificity"]["value"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 0, "temperature": 1.0},
        {"weight": 1.5, "temperature": 1.0},
        {"weight": 0.5, "temperature": 0},
        {"weight": 0.5, "temperature": 1.0, "intercepts": {"malignant": 0.0}},
        {"weight": 0.5},
        0.5,
    ],
)
def test_a_malformed_comparison_is_refused_by_name(side_by_side, tmp_path, wrong):
    unpack(side_by_side.output / "model" / "model.tar.gz", tmp_path)
    path = tmp_path / model_directory.DESCRIPTION_FILE
    description = json.loads(path.read_text())
    description["calibration"]["comparison"] = wrong
    path.write_text(json.dumps(description))
    with pytest.raises(model_directory.ConfigError, match="calibration.comparison"):
        model_directory.read_description(tmp_path)


def test_page_and_card_show_the_comparison_where_there_is_one(side_by_side, evaluated):
    assert side_by_side.page.count("Breasts compared with the other side") == 4
    assert 'data-path="selected/compared/test/breast/malignant_auc"' in side_by_side.page
    assert "Breasts compared with the other side" not in evaluated.page
    assert "breasts compared with the other side" in render_card(side_by_side.evaluation)
    assert "breasts compared with the other side" not in render_card(evaluated.evaluation)


def test_the_gain_is_shown_by_kind_of_negative(side_by_side):
    selected = side_by_side.evaluation["selected"]
    for split in ("validation", "test"):
        whole = selected["compared"][split]
        found = whole["by_negatives"]
        assert found["as_here"]["beside"]["value"] == pytest.approx(whole["malignant_auc"]["value"])
        assert sum(row["images"] for row in found["kinds"]) == sum(map(sum, whole["confusion_matrix"][:2]))
        kinds = {row["kind"] for row in found["kinds"]}
        assert kinds == {"benign", "normal, the woman has a cancer", "normal, the woman has a benign lesion"}
    card = (side_by_side.output / "evaluation" / "model_card.md").read_text()
    for page in (side_by_side.page, card):
        assert "by kind of negative" in page and "weighted as in screening" in page and "the woman has a cancer" in page


def test_one_command_writes_the_figures_of_a_run_into_the_pages(side_by_side, tmp_path):
    docs, run = tmp_path / "docs", tmp_path / "run"
    evaluation = {**side_by_side.evaluation, "validation_folds": 5, "synthetic": False}
    write_json(run / "execution.json", {"started": "2026-11-29T18:50:00+00:00", "seconds": 630.0})
    for name in (mias_page.PAGE, mias_page.BENCHMARKS):
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(mias_page.DOCS / name, docs / name)
    write_json(run / "evaluation.json", {**evaluation, "synthetic": True})
    with pytest.raises(ConfigError, match="synthetic is True"):
        mias_page.main([str(run), "--docs", str(docs)])
    write_json(run / "evaluation.json", evaluation)
    for _ in range(2):
        assert mias_page.main([str(run), "--docs", str(docs)]) == 0
    page = (docs / mias_page.PAGE).read_text()
    selected = evaluation["selected"]
    for split in ("validation", "test"):
        assert mias_page.words(selected["compared"][split]["macro_auc"]) in page
    assert mias_page.words(selected["compared"]["validation"]["by_negatives"]["as_in_screening"]["gain"]) in page
    assert "One run of 2026-11-29, 10 minutes" in page and "of version 0.1, with its breast masks" not in page
    assert "No register was given" in page
    hits = evaluation["pointing"]["test"]["malignant"]
    expected = f"in {round(hits['hits']['value'] * hits['images'])} of {hits['images']} malignant test images"
    assert expected in page and expected in (docs / mias_page.BENCHMARKS).read_text()


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan"])
def test_a_share_outside_0_to_1_is_refused(evaluation_base, monkeypatch, capsys, share):
    monkeypatch.setenv("MAMMOPIPE_BASE", str(evaluation_base.base))
    monkeypatch.setattr(sys, "argv", ["evaluate", f"--other-breast={share}"])
    assert job.run(main, "message") == 1
    error = capsys.readouterr().err
    assert f"other_breast = {float(share)}: " in error and "between 0 and 1" in error
