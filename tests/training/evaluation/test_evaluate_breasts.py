"""The evaluation job with models that judge breasts by all their views: metrics, audit, export, report and card."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Split
from mammopipe.processing.errors import ConfigError
from mammopipe.training.evaluate import main
from mammopipe.training.evaluation.batch_prediction import predict_breasts
from mammopipe.training.evaluation.data import SegmentedData, read_candidates
from mammopipe.training.fitting.breasts.dataset import Breasts
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.step import predict
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.archive import unpack
from mammopipe.training.model.description import read_description
from mammopipe.training.model.predictions import TestPredictions
from mammopipe.training.reporting.model_card import render_card
from tests.training.conftest import EvaluationBase


def test_there_are_figures_of_breasts_and_patients_and_none_of_images(judged_by_breast: EvaluationBase) -> None:
    evaluation = judged_by_breast.evaluation
    selected = evaluation["selected"]

    assert (evaluation["level"], evaluation["other_side"]) == ("breast", True)
    for split, patients in (("validation", 9), ("test", 12)):
        found = selected[split]
        assert "image" not in found
        assert (found["breast"]["cases"], found["patient"]["cases"]) == (2 * patients, patients)
        assert found["images"] == 2 * patients
        assert found["breast"]["operating_points"]["sensitivity"]["threshold"] is not None
    assert selected["rule"] == "highest validation macro AUC by breast"
    assert evaluation["leakage"]["passed"], evaluation["leakage"]["findings"]
    assert evaluation["counts"]["test"]["breasts"] == 24
    assert sum(map(sum, evaluation["candidates"]["first"]["test"]["confusion_matrix"])) == 24


def test_the_audit_names_every_view_and_predictions_name_each_breast_once(judged_by_breast: EvaluationBase) -> None:
    fitted = {fit["what"]: fit for fit in judged_by_breast.evaluation["fitted"]}
    assert fitted["calibration and thresholds of first"]["images"] == 9 * 4 + 3, "every view of the 18 breasts"
    with (judged_by_breast.output / "evaluation" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    of_patients = {row["patient_id"] for row in rows if row["split"] == "test"}
    assert (sum(row["split"] == "test" for row in rows), len(of_patients)) == (24, 12)
    counts = judged_by_breast.evaluation["counts"]["train"]
    assert sum(row["split"] == "train" for row in rows) == counts["breasts"] < counts["images"], "on request"


def test_what_the_evaluation_predicts_is_what_the_network_says_of_all_views(
    judged_by_breast: EvaluationBase, tmp_path: Path
) -> None:
    data = SegmentedData.read(judged_by_breast.data)
    models = read_candidates(judged_by_breast.models, tmp_path, data.preprocess)
    records = data.asked_as(models).images(Split.TEST)
    predicted = predict_breasts(TestPredictions, models, records, data.image_folder(Split.TEST))["first"]
    mammograms = ImageDataset(records, data.image_folder(Split.TEST), shape=models["first"].input_shape)
    breasts = Breasts(mammograms, other_side=True, flips=False)

    assert predicted.level is Level.BREAST
    np.testing.assert_allclose(predicted.logits, predict(models["first"].network, breasts, batch_size=5), atol=1e-3)


def test_the_model_is_exported_with_parity_of_its_breasts(judged_by_breast: EvaluationBase, tmp_path: Path) -> None:
    unpack(judged_by_breast.output / "model" / "model.tar.gz", tmp_path)
    description = read_description(tmp_path)

    assert judged_by_breast.evaluation["export"]["shipped"], judged_by_breast.evaluation["export"]["reason"]
    assert description["engines"]["openvino"]["precision"] == "float32"
    assert description["level"] == "breast"
    shares = description["calibration"]["prevalence"]
    assert shares["image"] == shares["breast"] != shares["patient"]
    point = judged_by_breast.evaluation["selected"]["validation"]["breast"]["operating_points"]["sensitivity"]
    assert description["operating_points"]["sensitivity"]["threshold"] == point["threshold"]


def test_report_and_card_say_that_breasts_are_judged(judged_by_breast: EvaluationBase) -> None:
    page, card = judged_by_breast.page, render_card(judged_by_breast.evaluation)

    assert "The networks judge a breast by all its views together" in page
    assert "Malignant or not, by breast and patient" in page
    assert "The model judges a breast by all its views together" in card
    assert "24 breasts" in (judged_by_breast.output / "evaluation" / "model_card.json").read_text()


def test_images_and_breasts_are_not_compared(
    judged_by_breast: EvaluationBase, screening_inputs: EvaluationBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SegmentedData.read(judged_by_breast.data)
    models = read_candidates(judged_by_breast.models, tmp_path / "a", data.preprocess)
    models |= {"second": read_candidates(screening_inputs.models, tmp_path / "b", data.preprocess)["second"]}
    with pytest.raises(ConfigError, match="judge images and breasts cannot be compared: first breast; second image"):
        data.asked_as(models)
    monkeypatch.setenv("MAMMOPIPE_BASE", str(judged_by_breast.base))
    with pytest.raises(ConfigError, match="--other-breast=0.5 must be 0"):
        main(["--other-breast", "0.5"])
