"""The evaluation job through its entry point: its figures and its choice of a candidate."""

import copy
import csv
import random
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import sklearn.metrics as reference
import torch

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.classes import THREE
from mammopipe.processing.container import job
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import Split, split_digest
from mammopipe.processing.files import sha256
from mammopipe.processing.images.shards import pack
from mammopipe.processing.splits import read_register
from mammopipe.training.evaluate import main
from mammopipe.training.evaluation.batch_prediction import predict_split
from mammopipe.training.evaluation.config import EvaluationConfig as PipelineEvaluation
from mammopipe.training.evaluation.config import EvaluationJobConfig
from mammopipe.training.evaluation.data import SegmentedData, read_candidates
from mammopipe.training.evaluation.test_reads import earlier_reads, register_read
from mammopipe.training.fitting.checkpoint import code_digest
from mammopipe.training.fitting.reproducibility import differences
from mammopipe.training.metrics.classification import Resamples
from mammopipe.training.metrics.scorecard import scorecard
from mammopipe.training.model.archive import unpack
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.predictions import TestPredictions
from mammopipe.training.model.reference import Reference
from mammopipe.training.networks import model_directory
from mammopipe.training.reporting.model_card import render_card
from mammopipe.training.reporting.report import render
from tests.support.computed_once import forget

PREPROCESS = PreprocessConfig(height=96, width=64)
CLASSES = [str(label) for label in THREE]


def run(tree, monkeypatch, *arguments: str) -> int:
    """Run the job as its container does and return its exit code."""
    monkeypatch.setenv("MAMMOPIPE_BASE", str(tree.base))
    monkeypatch.setattr(sys, "argv", ["evaluate", "--bootstrap", "100", *arguments])
    return job.run(main, "message")


def test_shards_and_predictions_of_training_images_change_no_figure(evaluated, evaluation_base, monkeypatch):
    for folder in (evaluation_base.data / "images").iterdir():
        pack(folder, sorted(path.name for path in folder.iterdir()), megabytes=0.02)
        assert len(list(folder.glob("*.tar"))) > 1
    assert not list(evaluation_base.data.rglob("*.png"))
    settings = ("--profile", "full", "--min-macro-auc", "0.55", "--bootstrap", "200", "--predict-training", "true")
    assert run(evaluation_base, monkeypatch, *settings) == 0
    assert list(differences(evaluated.evaluation, evaluation_base.evaluation)) == []
    before, after = (base.output / "evaluation" for base in (evaluated, evaluation_base))
    assert (after / "model_card.md").read_bytes() == (before / "model_card.md").read_bytes()
    rows = prediction_rows(evaluation_base)
    training = [row for row in rows if row["split"] == "train"]
    assert [row for row in rows if row["split"] != "train"] == prediction_rows(evaluated), "none of them without asking"
    originals = [row for row in evaluation_base.records() if row.split is Split.TRAIN and not row.source_image_id]
    for name in ("first", "second"):
        found = [(row["image_id"], row["label"]) for row in training if row["network"] == name]
        assert found == [(row.image_id, row.label) for row in originals]


def prediction_rows(tree) -> list[dict[str, str]]:
    """Return the rows of `predictions.csv`."""
    with (tree.output / "evaluation" / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def logits_of(tree, name: str, split: Split, folder) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and logits of a split, computed image by image without the job's own code."""
    unpack(tree.models / name / "model.tar.gz", folder)
    network = model_directory.load(folder).network
    rows = [record for record in tree.records() if record.split is split and not record.source_image_id]
    images = [cv2.imread(str(tree.data / row.path), cv2.IMREAD_UNCHANGED).astype(np.float32) / 65535 for row in rows]
    with torch.inference_mode():
        logits = [network(torch.from_numpy(image)[None, None])[0].double().numpy() for image in images]
    return np.array([row.label.rank for row in rows]), np.array(logits)


def test_each_evaluation_is_registered_and_says_how_often_the_test_was_read(evaluated, tmp_path):
    output = evaluated.output / "test-reads"
    (first,) = read_register.entries(output)
    alone = evaluated.evaluation["test_reads"]
    assert (alone["register"], alone["reads"]) == (False, 1), "without a register, earlier reads are unknown"
    assert "No register was given" in evaluated.page
    selected = evaluated.evaluation["selected"]
    assert first.macro_auc == selected["test"]["macro_auc"]["value"] and first.network == selected["cnn"]
    unpack(evaluated.models / selected["cnn"] / "model.tar.gz", tmp_path / "model")
    assert first.model == sha256(tmp_path / "model" / "weights.safetensors") and first.code == code_digest()

    paths = ContainerPaths(tmp_path / "base")
    register = paths.processing_input("test-reads")
    read_register.write_head(register)
    read_register.merge(output, register)
    read_register.append(register, replace(first, test_digest="another"))
    data = SegmentedData.read(evaluated.data)
    account = register_read(evaluated.evaluation, data, tmp_path / "model", paths, earlier_reads(paths))
    (second,) = read_register.entries(paths.processing_output("test-reads"))
    assert second == replace(first, date=second.date)
    assert (account["register"], account["reads"], account["other_splits"]) == (True, 2, 1)
    evaluation = {**evaluated.evaluation, "test_reads": account}
    for page in (render(evaluation, {}), render_card(evaluation)):
        assert f"read 2 times, first on {first.date[:10]}" in page


def test_the_job_writes_what_the_pipeline_reads(evaluated):
    evaluation = evaluated.evaluation
    assert evaluation["schema"] == 1 and evaluation["profile"] == "full" and evaluation["min_macro_auc"] == 0.55
    assert evaluation["dataset"] == "mias" and evaluation["classes"] == CLASSES
    assert evaluation["leakage"]["passed"] is True
    assert evaluation["counts"]["train"] == {
        "images": 18,
        "patients": 9,
        "normal": 6,
        "benign": 6,
        "malignant": 6,
        "copies": 4,
    }
    assert evaluation["counts"]["test"]["images"] == 24 and evaluation["counts"]["test"]["patients"] == 12
    assert list(evaluation["candidates"]) == ["first", "second"]
    assert evaluation["candidates"]["first"]["initialisation"] == "scratch"
    assert evaluation["stage"]["config"]["digest"]
    selected = evaluation["selected"]
    assert 0 <= selected["validation"]["macro_auc"]["low"] < selected["validation"]["macro_auc"]["value"]
    assert set(selected["operating_points"]) == {"sensitivity", "specificity"}
    assert evaluated.page.startswith("<!doctype html>")


def test_predictions_of_each_candidate_for_each_image_are_written(evaluated):
    rows = prediction_rows(evaluated)
    images = {record.image_id: record for record in evaluated.records() if not record.source_image_id}
    for name, candidate in evaluated.evaluation["candidates"].items():
        for split in ("validation", "test"):
            rows_of_split = [row for row in rows if (row["network"], row["split"]) == (name, split)]
            assert [row["image_id"] for row in rows_of_split] == sorted(row["image_id"] for row in rows_of_split)
            assert len(rows_of_split) == candidate[split]["images"]
            assert all(images[row["image_id"]].label == row["label"] for row in rows_of_split)
            assert all(images[row["image_id"]].patient_id == row["patient_id"] for row in rows_of_split)
            shares = np.array([[float(row[label]) for label in CLASSES] for row in rows_of_split])
            area = reference.roc_auc_score([row["label"] == "malignant" for row in rows_of_split], shares[:, 2])
            assert area == pytest.approx(candidate[split]["malignant_auc"]["value"])
            assert shares.sum(axis=1) == pytest.approx(1)


def test_the_highest_validation_macro_auc_is_selected(evaluated):
    evaluation = evaluated.evaluation
    areas = {name: item["validation"]["macro_auc"]["value"] for name, item in evaluation["candidates"].items()}
    assert len(set(areas.values())) == 2
    assert evaluation["selected"]["cnn"] == max(areas, key=areas.get)
    chosen = evaluation["candidates"][evaluation["selected"]["cnn"]]
    assert evaluation["selected"]["test"]["macro_auc"] == chosen["test"]["macro_auc"]


@pytest.mark.parametrize("name", ["first", "second"])
def test_figures_are_those_of_the_model_on_the_files(evaluated, tmp_path, name):
    candidate = evaluated.evaluation["candidates"][name]
    for split in (Split.VALIDATION, Split.TEST):
        labels, logits = logits_of(evaluated, name, split, tmp_path / str(split))
        probabilities = Calibration.read(candidate, CLASSES).probabilities(logits)
        predicted, figures = probabilities.argmax(1), candidate[str(split)]
        assert figures["confusion_matrix"] == reference.confusion_matrix(labels, predicted, labels=[0, 1, 2]).tolist()
        assert figures["images"] == len(labels)
        expected = {
            "accuracy": reference.accuracy_score(labels, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
            "macro_auc": reference.roc_auc_score(labels, probabilities, multi_class="ovr"),
            "malignant_auc": reference.roc_auc_score(labels == 2, probabilities[:, 2]),
            "log_loss": reference.log_loss(labels, probabilities),
            "brier": ((probabilities - np.eye(3)[labels]) ** 2).sum(1).mean(),
        }
        for key, value in expected.items():
            assert figures[key]["value"] == pytest.approx(value, abs=1e-5), (split, key)
        for index, label in enumerate(CLASSES):
            assert figures["recall"][label]["value"] == pytest.approx((predicted[labels == index] == index).mean())


def test_the_packed_model_carries_calibration_and_figures(evaluated, tmp_path):
    evaluation = evaluated.evaluation
    unpack(evaluated.output / "model" / "model.tar.gz", tmp_path / "best")
    best = model_directory.load(tmp_path / "best")
    name = evaluation["selected"]["cnn"]
    unpack(evaluated.models / name / "model.tar.gz", tmp_path / "trained")
    trained = model_directory.load(tmp_path / "trained")
    assert best.description["weights_sha256"] == trained.description["weights_sha256"]
    assert best.description["calibration"] == {
        "temperature": evaluation["candidates"][name]["temperature"],
        "intercepts": evaluation["candidates"][name]["intercepts"],
        "method": evaluation["calibration"]["served"],
        "prevalence": {"image": 6 / 18, "breast": 6 / 18, "patient": 6 / 9},
        "fitted_on": "validation",
        "breast_rule": "mean",
        "scores": {
            level: {"reason": f"6 patients with a malignant {level}; a fit needs 10"} for level in ("breast", "patient")
        },
    }
    for goal in ("sensitivity", "specificity"):
        point, measured = best.description["operating_points"][goal], evaluation["selected"]["operating_points"][goal]
        assert (point["cases"], point["malignant"], point["patients"]) == (18, 6, 9)
        figures = evaluation["selected"]["validation"]["image"]["operating_points"][goal]
        for rate in ("sensitivity", "specificity", "recall_rate", "ppv"):
            assert point[rate] == figures[rate]["value"]
            assert point["intervals"][rate] == [figures[rate]["low"], figures[rate]["high"]]
        assert point[goal] >= point["target"] == 0.9
        assert measured["on_validation"]["sensitivity"]["value"] == pytest.approx(point["sensitivity"])
        assert measured["on_validation"]["specificity"]["value"] == pytest.approx(point["specificity"])
    assert best.description["metrics"]["test"] == evaluation["selected"]["test"]
    assert best.description["training"] == trained.description["training"]


def test_the_temperature_lowers_the_validation_loss(evaluated, tmp_path):
    labels, logits = logits_of(evaluated, "first", Split.VALIDATION, tmp_path)
    candidate = evaluated.evaluation["candidates"]["first"]
    plain = reference.log_loss(labels, torch.softmax(torch.from_numpy(logits), 1).numpy())
    assert candidate["validation"]["log_loss"]["value"] < plain
    assert candidate["temperature"] != pytest.approx(1, abs=0.05)


def test_the_packed_model_carries_its_export_and_its_reference(evaluated, tmp_path):
    unpack(evaluated.output / "model" / "model.tar.gz", tmp_path)
    description, export = model_directory.read_description(tmp_path), evaluated.evaluation["export"]
    assert export["shipped"] and export["images"] == 18 and export["reason"] in evaluated.page
    stated = description["engines"]["openvino"]
    assert {name: sha256(tmp_path / name) for name in stated["files"]} == stated["files"]
    assert stated["largest_difference"] == export["largest_difference"] <= 1e-2
    reference = Reference.read(tmp_path, description)
    assert reference.decile(0) == 1 and reference.decile(1) == 10 and reference.entropy_limit <= np.log(3)


def without_test(evaluation: dict) -> dict:
    """Return an evaluation without the figures that are measured on test."""
    kept = copy.deepcopy(evaluation)
    parts = [kept[name] for name in ("baseline", "selected", "counts", "calibration", "pointing")]
    parts.append(kept["calibration"]["of_malignant"])
    for holder in (*kept["candidates"].values(), *parts):
        del holder["test"]
    for point in kept["selected"]["operating_points"].values():
        del point["on_test"]
    for name in ("examples", "missed_cancers"):
        kept[name] = [image for image in kept[name] if image["split"] != "test"]
    return kept


def thresholds(evaluation: dict) -> list[float]:
    """Return every threshold that was applied to test."""
    measured = [candidate["test"] for candidate in evaluation["candidates"].values()] + [evaluation["selected"]["test"]]
    points = [figures[level]["operating_points"].values() for figures in measured for level in ("image", "patient")]
    return [point["threshold"] for several in points for point in several] + [measured[-1]["subgroups"]["threshold"]]


def test_shuffled_test_labels_change_test_figures_and_nothing_else(evaluated, evaluation_base, monkeypatch, tmp_path):
    labels = [record.label for record in evaluation_base.records() if record.split is Split.TEST]
    random.Random(3).shuffle(labels)

    def shuffled(record):
        if record.split is not Split.TEST:
            return record
        # As if the table had these labels before the split, because the audit reports labels that are edited later.
        other = replace(record, label=labels.pop(), label_digest="")
        return replace(other, label_digest=split_digest(other)) if record.label_digest else other

    evaluation_base.change(shuffled)
    assert run(evaluation_base, monkeypatch, "--min-macro-auc", "0.55", "--bootstrap", "200") == 0
    before, after = evaluated.evaluation, evaluation_base.evaluation
    assert before["selected"]["test"]["macro_auc"] != after["selected"]["test"]["macro_auc"]
    assert without_test(before) == without_test(after)
    assert thresholds(before) == thresholds(after)
    described = []
    for index, tree in enumerate((evaluated, evaluation_base)):
        unpack(tree.output / "model" / "model.tar.gz", tmp_path / str(index))
        described.append(model_directory.read_description(tmp_path / str(index)))
        del described[-1]["metrics"]["test"]
    assert described[0] == described[1]


def test_the_same_inputs_give_the_same_bytes(evaluated, evaluation_base, monkeypatch):
    forget()
    assert run(evaluation_base, monkeypatch, "--min-macro-auc", "0.55", "--bootstrap", "200") == 0
    for name in ("evaluation/evaluation.json", "evaluation/report.html", "model/model.tar.gz"):
        assert (evaluated.output / name).read_bytes() == (evaluation_base.output / name).read_bytes(), name


def test_of_equal_candidates_the_first_by_name_is_selected(evaluation_base):
    best = evaluation_base.models / "second" / "model.tar.gz"
    for name in ("zebra", "apple"):
        (evaluation_base.models / name).mkdir()
        (evaluation_base.models / name / "model.tar.gz").write_bytes(best.read_bytes())
    (evaluation_base.models / "first" / "model.tar.gz").unlink()
    assert evaluation_base.figures()["selected"]["cnn"] == "apple"


def test_the_baseline_predicts_the_majority_class_of_the_training_originals(evaluation_base):
    # Six benign originals stay, with four normal and four malignant ones; validation and test are balanced.
    gone = {"train000", "train002", "train003", "train005"}
    evaluation_base.change(lambda record: None if record.image_id in gone or record.source_image_id else record)
    baseline = evaluation_base.figures()["baseline"]
    assert baseline["class"] == "benign"
    assert baseline["test"]["confusion_matrix"] == [[0, 8, 0]] * 3
    assert baseline["test"]["macro_auc"]["value"] == 0.5
    assert baseline["test"]["balanced_accuracy"]["value"] == pytest.approx(1 / 3)
    precision = baseline["test"]["precision"]
    assert precision["benign"]["value"] == pytest.approx(1 / 3)
    assert precision["malignant"]["value"] is None
    assert "predicted as this class" in precision["malignant"]["reason"]


@pytest.mark.parametrize(("limit", "value"), [("BATCH", 3), ("_PIXELS_AT_ONCE", 2 * 96 * 64)])
def test_images_are_predicted_in_parts_as_at_once(evaluation_inputs, monkeypatch, tmp_path, limit, value):
    models = read_candidates(evaluation_inputs.models, tmp_path, PREPROCESS)
    data = SegmentedData.read(evaluation_inputs.data)
    rows, folder = data.judged(Split.TEST), data.image_folder(Split.TEST)
    whole = predict_split(TestPredictions, models, rows, folder, shape=(96, 64))
    monkeypatch.setattr("mammopipe.training.evaluation.batch_prediction._IMAGES_AT_ONCE", 7)
    monkeypatch.setattr(f"mammopipe.training.evaluation.batch_prediction.{limit}", value)
    parts = predict_split(TestPredictions, models, rows, folder, shape=(96, 64))
    for name in models:
        assert parts[name].image_ids == whole[name].image_ids == tuple(row.image_id for row in rows)
        np.testing.assert_allclose(parts[name].logits, whole[name].logits, rtol=1e-4, atol=1e-5)


def test_a_stored_roc_curve_is_short_and_keeps_its_area():
    generator = np.random.default_rng(0)
    labels, draws = generator.integers(0, 3, 5000), Resamples.draw([str(i) for i in range(5000)], n=100, seed=0)
    probabilities = generator.dirichlet([1, 1, 1], 5000) * 0.8 + 0.2 * np.eye(3)[labels]
    figures = scorecard(labels, probabilities, classes=CLASSES, resamples=draws)
    for name in CLASSES:
        curve = figures["roc"][name]
        assert len(curve["sensitivity"]) <= 200
        area = np.trapezoid(curve["sensitivity"], curve["false_positive_rate"])
        assert area == pytest.approx(figures["auc"][name]["value"], abs=0.002)


def test_the_defaults_of_the_job_are_those_of_the_configuration():
    assert EvaluationJobConfig() == EvaluationJobConfig(profile="full", seed=0, **dict(PipelineEvaluation()))
