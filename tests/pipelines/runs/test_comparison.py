"""`mammopipe compare`: the settings in which two runs differ, and whether a difference of a figure is beyond chance."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mammopipe.pipelines import PipelineConfig, build_pipeline, cli
from mammopipe.pipelines.runs import comparison, paired_comparison
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.processing.classes import classes_of_number
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_csv
from mammopipe.training.model.predictions import FILE, columns, softmax

Capture = pytest.CaptureFixture[str]
SPLIT = {"test_fraction": 0.2, "folds": 5, "validation_fold": 0, "seed": 0}


def figure(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


def run(
    root: Path,
    name: str,
    auc: dict[str, Any],
    *,
    folds: int = 0,
    split: dict[str, Any] | None = SPLIT,
    parameters: dict[str, Any] | None = None,
    definition: str = "",
    cnn: str = "alexnet",
) -> RunFolder:
    """Return the folder of a run whose figures are all `auc`."""
    folder = RunFolder(root, name)
    folder.write({"id": name, "status": "Succeeded", "reason": "", "steps": [], "parameters": parameters or {}})
    measured = {"images": 60, "patients": 30, **dict.fromkeys(comparison.MEASURES, auc)}
    config = {} if split is None else {"split": split}
    evaluation = {
        "profile": "full",
        "dataset": "mias",
        "synthetic": False,
        "protocol": "patient",
        "validation_folds": folds,
        "stage": {"config": config},
        "leakage": {"passed": True},
        "selected": {"cnn": cnn, "validation": measured, "test": measured},
        "baseline": {"test": {"accuracy": figure(0.64, 0.5, 0.8)}},
    }
    (folder.path / "evaluation.json").write_text(json.dumps(evaluation))
    if definition:
        (folder.path / "pipeline.json").write_text(definition)
    return folder


def compared(first: RunFolder, other: RunFolder) -> dict[str, Any]:
    return comparison.against(comparison.facts(first), comparison.facts(other))


def test_the_interval_of_a_difference_is_made_of_both_intervals() -> None:
    found = comparison.difference(figure(0.7, 0.6, 0.75), figure(0.9, 0.88, 0.95))
    assert found is not None
    assert found["low"] == pytest.approx(0.2 - (0.02**2 + 0.05**2) ** 0.5)
    assert found["high"] == pytest.approx(0.2 + (0.05**2 + 0.1**2) ** 0.5)
    assert found["beyond_chance"] and comparison.signed(found).endswith("*")
    within = comparison.difference(figure(0.7, 0.5, 0.9), figure(0.8, 0.6, 0.95))
    assert within is not None and not within["beyond_chance"] and "*" not in comparison.signed(within)


@pytest.mark.parametrize("missing", [None, figure(0.5)])
def test_without_an_interval_nothing_is_said_of_chance(missing: dict[str, Any] | None) -> None:
    assert comparison.difference(missing, figure(0.9, 0.8, 1.0)) is None
    assert comparison.signed(None) == "no interval"


def test_the_verdict_is_of_validation_and_names_the_better_run(tmp_path: Path) -> None:
    good, bad = (
        run(tmp_path, name, auc) for name, auc in (("good", figure(0.9, 0.85, 0.95)), ("bad", figure(0.6, 0.5, 0.7)))
    )
    assert "good is better, by more than chance" in comparison.verdict(compared(bad, good), "bad", "good")
    assert "good is better, by more than chance" in comparison.verdict(compared(good, bad), "good", "bad")
    alike = run(tmp_path, "alike", figure(0.65, 0.5, 0.8))
    assert "neither is shown to be better" in comparison.verdict(compared(bad, alike), "bad", "alike")


@pytest.mark.parametrize(
    ("change", "validation", "test"),
    [
        ({}, True, True),
        ({"split": {**SPLIT, "validation_fold": 1}}, False, True),
        ({"split": {**SPLIT, "seed": 1}}, False, False),
        ({"split": None}, None, None),
    ],
)
def test_it_is_said_whether_the_images_are_the_same(
    tmp_path: Path, change: dict[str, Any], validation: bool | None, test: bool | None
) -> None:
    auc = figure(0.6, 0.5, 0.7)
    found = compared(run(tmp_path, "a", auc), run(tmp_path, "b", auc, **change))
    assert (found["validation"]["same_films"], found["test"]["same_films"]) == (validation, test)


def said(folder: RunFolder, probabilities: np.ndarray, labels: np.ndarray, *, cnn: str = "alexnet") -> None:
    """Write what a run's networks say of films of two a patient, the selected one's and another's."""
    classes = classes_of_number(probabilities.shape[1])
    rows = [
        {
            "network": network,
            "split": split,
            "image_id": f"i{place:03d}",
            "patient_id": f"p{place // 2}",
            "label": classes[label],
            **{name: repr(float(share)) for name, share in zip(classes, row, strict=True)},
        }
        for network, table in ((cnn, probabilities), ("other", probabilities[::-1]))
        for split in ("train", *comparison.SPLITS)
        for place, (label, row) in enumerate(zip(labels, table, strict=True))
    ]
    write_csv(folder.path / FILE, columns(classes), rows)


LABELS = np.tile([0, 1, 2, 0], 15)
LOGITS = np.random.default_rng(5).normal(size=(60, 3)) + 1.2 * np.eye(3)[LABELS]


def test_on_the_same_images_the_difference_is_measured_image_by_image(tmp_path: Path) -> None:
    auc = figure(0.6, 0.4, 0.8)
    first, other = (run(tmp_path, name, auc) for name in ("a", "b"))
    tables = [softmax(LOGITS - np.eye(3)[LABELS]), softmax(LOGITS + 0.5 * np.eye(3)[LABELS])]
    for folder, table in zip((first, other), tables, strict=True):
        said(folder, table, LABELS)
    found = paired_comparison.differences(first, other)
    # The calibration error has no interval with so few images, so its difference has none either.
    assert set(found) == {"validation", "test"}
    assert set(found["test"]) == set(comparison.MEASURES) - {"expected_calibration_error"}
    expected = [roc_auc_score(LABELS == 2, table[:, 2]) for table in tables]
    measured = found["test"]["malignant_auc"]
    assert measured["value"] == pytest.approx(expected[1] - expected[0])
    # By hand: patients drawn with replacement, both runs measured on the same draw.
    random, drawn = np.random.default_rng(1), []
    for _ in range(300):
        images = np.concatenate([[2 * patient, 2 * patient + 1] for patient in random.integers(0, 30, 30)])
        drawn.append([roc_auc_score(LABELS[images] == 2, table[images, 2]) for table in tables])
    low, high = np.quantile(np.diff(drawn, axis=1), [0.025, 0.975])
    assert (measured["low"], measured["high"]) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))
    compared = comparison.against(comparison.facts(first), comparison.facts(other), found)
    assert comparison.heads(compared)[1] == "test, the same images, paired"
    assert compared["test"]["malignant_auc"] == measured and measured["beyond_chance"]


def test_a_run_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    first, other = (run(tmp_path, name, figure(0.6, 0.4, 0.8)) for name in ("a", "b"))
    for folder in (first, other):
        said(folder, softmax(LOGITS), LABELS)
    for figures in paired_comparison.differences(first, other).values():
        for found in figures.values():
            assert (found["value"], found["low"], found["high"], found["beyond_chance"]) == (0, 0, 0, False)


def test_a_difference_that_no_draw_changes_is_no_proof(tmp_path: Path) -> None:
    labels = np.tile([0, 2], 10)  # both films of every patient alike: each draw holds the same shares
    first, other = (run(tmp_path, name, figure(0.6, 0.4, 0.8)) for name in ("a", "b"))
    said(first, np.eye(3)[labels] * 0.9 + 0.1 / 3, labels)
    said(other, np.eye(3)[2 - labels] * 0.9 + 0.1 / 3, labels)
    found = paired_comparison.differences(first, other)["test"]
    assert "accuracy" not in found and "malignant_auc" not in found, "no interval, so nothing to call beyond chance"


def test_other_images_or_another_truth_are_never_paired(tmp_path: Path) -> None:
    first, fewer, relabelled, without = (run(tmp_path, name, figure(0.6, 0.4, 0.8)) for name in "abcd")
    said(first, softmax(LOGITS), LABELS)
    said(fewer, softmax(LOGITS[2:]), LABELS[2:])
    said(relabelled, softmax(LOGITS), np.roll(LABELS, 1))
    for other in (fewer, relabelled, without):
        assert paired_comparison.differences(first, other) == {}


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    folder = run(tmp_path, "a", figure(0.6, 0.4, 0.8))
    said(folder, softmax(LOGITS), LABELS)
    path = folder.path / FILE
    path.write_text(path.read_text().replace("benign", "odd"))
    with pytest.raises(ConfigError, match=r"predictions.csv: not the predictions of this version"):
        paired_comparison.answers(folder)


def test_settings_that_differ_are_shown_and_no_others(tmp_path: Path) -> None:
    auc, small = figure(0.6, 0.5, 0.7), PipelineConfig.load(cnns=["alexnet"], deploy=False)
    other = PipelineConfig.load(cnns=["modified_cnn"], deploy=False, training={"dropout": 0.1})
    texts = [build_pipeline(config).definition() for config in (small, other)]
    first = run(tmp_path, "a", auc, definition=texts[0], parameters={"Epochs": 3, "Seed": 0})
    second = run(tmp_path, "b", auc, definition=texts[1], parameters={"Epochs": 5, "Seed": 0})
    bare = run(tmp_path, "c", auc, parameters={"Epochs": "3", "Seed": "0"})
    found = dict(comparison.other_settings([comparison.facts(folder) for folder in (first, second, bare)]))
    assert found == {
        "candidates": ["alexnet", "modified_cnn", "?"],
        "Epochs": ["3", "5", "3"],
        "training.dropout": ["0.3", "0.1", "?"],
    }


def test_what_one_network_has_to_itself_is_told_by_its_name(tmp_path: Path) -> None:
    auc, both = figure(0.6, 0.5, 0.7), {"cnns": ["alexnet", "resnet50"], "deploy": False}
    configs = (PipelineConfig.load(**both), PipelineConfig.load(**both, per_cnn={"alexnet": {"dropout": 0.1}}))
    folders = [
        run(tmp_path, name, auc, definition=build_pipeline(config).definition())
        for name, config in zip("ab", configs, strict=True)
    ]
    assert dict(comparison.other_settings([comparison.facts(folder) for folder in folders])) == {
        "training.dropout": ["0.3", "-"],
        "training.alexnet.dropout": ["-", "0.1"],
        "training.resnet50.dropout": ["-", "0.3"],
    }


def test_a_salt_is_not_shown(tmp_path: Path) -> None:
    salted = PipelineConfig.load(cnns=["alexnet"], deploy=False, data={"patient_salt": "-a grain of salt"})
    folder = run(tmp_path, "a", figure(0.6, 0.5, 0.7), definition=build_pipeline(salted).definition())
    found = comparison.facts(folder)
    assert "grain" not in json.dumps(found)


def test_the_table_fits_and_tells_protocol_settings_and_differences(tmp_path: Path, capsys: Capture) -> None:
    runs = tmp_path / "runs"
    long = {"InputDataUri": "s3://" + "a-very-long-bucket/" * 6}
    run(runs, "20260101-000000-aaaa", figure(0.9, 0.85, 0.95), cnn="efficientnet_lite0", folds=5, parameters=long)
    run(runs, "20260102-000000-bbbb", figure(0.6, 0.5, 0.7), parameters={"InputDataUri": "s3://b"})
    assert cli.main(["compare", "20260101", "20260102", "--runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100 and "\x1b" not in said
    assert "patient" in said and "60 images, 5 folds" in said and "validation, other images" in said
    assert "-0.300 (-0.412 to -0.188) *" in said and "20260101-000000-aaaa is better" in said
    assert cli.main(["compare", "20260101", "20260102", "--json", "--runs", str(runs)]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert "against" not in first and second["against"]["run"] == first["id"] == "20260101-000000-aaaa"
    assert second["against"]["test"]["macro_auc"]["beyond_chance"] is True


def test_runs_of_three_and_of_two_classes_are_compared_by_malignant_alone(tmp_path: Path) -> None:
    auc = figure(0.6, 0.4, 0.8)
    three, two = (run(tmp_path, name, auc) for name in ("three", "two"))
    tables = [softmax(LOGITS - np.eye(3)[LABELS]), softmax(LOGITS[:, 1:] + np.eye(3)[LABELS][:, 1:])]
    said(three, tables[0], LABELS)
    said(two, tables[1], (LABELS == 2).astype(int))
    found = paired_comparison.differences(three, two)
    assert set(found["test"]) == {"malignant_auc"}
    expected = [roc_auc_score(LABELS == 2, table[:, -1]) for table in tables]
    assert found["test"]["malignant_auc"]["value"] == pytest.approx(expected[1] - expected[0])
    facts = [
        comparison.facts(folder) | {"classes": classes} for folder, classes in ((three, ["a", "b", "c"]), (two, ["d"]))
    ]
    compared = comparison.against(*facts, found)
    assert compared["test"]["macro_auc"] is None and compared["test"]["malignant_auc"]["paired"]
    assert comparison.verdict(compared, "three", "two").startswith("By the malignant AUC of validation two is better")
