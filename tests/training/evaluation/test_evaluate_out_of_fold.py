"""The evaluation of cross-validated candidates uses out-of-fold predictions for every choice."""

import csv
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mammopipe.processing.datasets.manifest import Split
from mammopipe.processing.errors import ConfigError
from mammopipe.training.evaluate import main
from mammopipe.training.fitting.out_of_fold import write_out_of_fold
from mammopipe.training.model.archive import pack, unpack
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.predictions import softmax
from mammopipe.training.networks import model_directory


def fold_of(record):
    return int(record.patient_id.rpartition("-")[2]) % 2


def cross_validate(base, name, seed, fold=fold_of, strength=3.0):
    """Give a candidate out-of-fold logits of two folds that are right for most images."""
    records = [record for record in base.records() if record.split is not Split.TEST and not record.source_image_id]
    random = np.random.default_rng(seed)
    logits = random.normal(size=(len(records), 3)) + strength * np.eye(3)[[record.label.rank for record in records]]
    folder = base.base / "scratch" / name
    folds = [fold(record) for record in records]
    digest = write_out_of_fold(folder, records, folds, logits.astype(np.float32))
    description = model_directory.read_description(folder)
    description["training"]["cross_validation"] = {"folds": 2, "sha256": digest}
    model_directory.save(folder, model_directory.load(folder).network, description)
    pack(folder, base.models / name / "model.tar.gz")
    return records


def cross_validate_in_deals(base, name, folds):
    """Give a candidate the logits of several deals, of two folds each; return records and logits (deals, images, 3)."""
    records = [record for record in base.records() if record.split is not Split.TEST and not record.source_image_id]
    truth = np.eye(3)[[record.label.rank for record in records]]
    random = np.random.default_rng(7)
    logits = np.stack([random.normal(size=truth.shape) + (0.5 + deal) * truth for deal in range(len(folds))])
    folder = base.base / "scratch" / name
    dealt = [[fold(record) for record in records] for fold in folds]
    digest = write_out_of_fold(folder, records, dealt, logits.astype(np.float32))
    description = model_directory.read_description(folder)
    description["training"]["cross_validation"] = {"folds": 2, "deals": len(folds), "sha256": digest}
    model_directory.save(folder, model_directory.load(folder).network, description)
    pack(folder, base.models / name / "model.tar.gz")
    return records, logits.astype(np.float32).astype(np.float64)


def evaluate(base, monkeypatch, *arguments):
    monkeypatch.setenv("MAMMOPIPE_BASE", str(base.base))
    main(["--bootstrap", "100", *arguments])
    return base.evaluation


@pytest.fixture(scope="module")
def cross_validated(evaluation_inputs, tmp_path_factory):
    """The evaluation of cross-validated candidates, which tests must not change, and the records of the data."""
    base = type(evaluation_inputs)(tmp_path_factory.mktemp("cross-validated") / "base")
    shutil.copytree(evaluation_inputs.base, base.base)
    for seed, name in enumerate(("first", "second")):
        records = cross_validate(base, name, seed)
    with pytest.MonkeyPatch.context() as patch:
        evaluate(base, patch, "--predict-training", "true")
    return base, records


def test_figures_thresholds_and_choice_come_from_out_of_fold_predictions(cross_validated, tmp_path):
    base, records = cross_validated
    evaluation = base.evaluation
    assert evaluation["validation_folds"] == 2 and evaluation["selected"]["rule"] == "highest out-of-fold macro AUC"
    assert evaluation["selected"]["validation"]["images"] == len(records)
    # The networks have random weights, so only the made-up out-of-fold logits can be so good.
    assert evaluation["selected"]["validation"]["macro_auc"]["value"] > 0.9
    assert evaluation["selected"]["test"]["macro_auc"]["value"] < 0.8
    unpack(base.output / "model" / "model.tar.gz", tmp_path)
    served = model_directory.read_description(tmp_path)
    assert served["calibration"]["fitted_on"] == "out-of-fold" and served["metrics"]["protocol"] == "patient"
    assert "Cross-validation," in base.page
    card = (base.output / "evaluation" / "model_card.md").read_text()
    assert "was trained on the images called validation" in card
    with (base.output / "evaluation" / "predictions.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["network"] == "first"]
    of_split = {
        name: {row["image_id"]: row for row in rows if row["split"] == name} for name in ("train", "validation")
    }
    assert set(of_split["train"]) == set(of_split["validation"]) == {record.image_id for record in records}
    assert all(row["malignant"] != of_split["train"][name]["malignant"] for name, row in of_split["validation"].items())


def test_what_was_fitted_on_the_development_set_passes_the_audit_and_is_named(cross_validated):
    base, records = cross_validated
    evaluation = base.evaluation
    assert evaluation["leakage"]["passed"], evaluation["leakage"]["verdict"]
    splits = Counter(str(record.split) for record in records)
    assert len(evaluation["fitted"]) == 8
    assert all(item["splits"] == splits for item in evaluation["fitted"])
    assert len({item["digest"] for item in evaluation["fitted"]}) == 1
    assert evaluation["calibration"]["validation"]["temperature"]["images"] == len(records)
    lesions = sum(bool(record.lesions) for record in records)
    assert evaluation["pointing"]["validation"]["both"]["images"] == lesions > 0


def test_a_patient_in_two_folds_fails_the_audit(evaluation_base):
    seen = Counter()

    def apart(record):
        seen[record.patient_id] += 1
        return seen[record.patient_id] % 2

    cross_validate(evaluation_base, "first", 0)
    cross_validate(evaluation_base, "second", 1, apart)
    evaluation = evaluation_base.figures()
    found = [item for item in evaluation["leakage"]["findings"] if item["kind"] == "held-out-film-known"]
    assert not evaluation["leakage"]["passed"] and len(found) == sum(count > 1 for count in seen.values()) > 0
    assert all(item["message"].startswith("second: ") for item in found)


def test_candidates_are_all_cross_validated_or_none(evaluation_base, monkeypatch):
    cross_validate(evaluation_base, "first", 0)
    with pytest.raises(ConfigError, match="first of first, second were cross-validated"):
        evaluate(evaluation_base, monkeypatch)


def test_images_other_than_those_of_the_folds_are_refused(evaluation_base, monkeypatch):
    for seed, name in enumerate(("first", "second")):
        cross_validate(evaluation_base, name, seed)
    gone = next(record for record in evaluation_base.records() if record.split is Split.VALIDATION)
    evaluation_base.change(lambda record: None if record.image_id == gone.image_id else record)
    with pytest.raises(ConfigError, match="a cross-validated model is evaluated on exactly its own"):
        evaluate(evaluation_base, monkeypatch)


def test_as_published_copies_are_judged_and_the_report_says_what_that_is_worth(evaluation_base, monkeypatch):
    stage = evaluation_base.data / "stage.json"
    stage.write_text(stage.read_text().replace('"config": {', '"config": {"protocol": "published", '))
    copy = next(record for record in evaluation_base.records() if record.source_image_id)

    def move(record):
        if record.image_id != copy.image_id:
            return record
        (evaluation_base.data / "images" / "test" / f"{copy.image_id}.png").write_bytes(
            (evaluation_base.data / copy.path).read_bytes()
        )
        return replace(record, split=Split.TEST, path=f"images/test/{copy.image_id}.png")

    before = evaluation_base.records()
    evaluation_base.change(move)
    evaluation = evaluate(evaluation_base, monkeypatch)
    assert evaluation["protocol"] == "published" and not evaluation["leakage"]["passed"]
    tested = sum(record.split is Split.TEST for record in before)
    assert evaluation["selected"]["test"]["images"] == tested + 1
    assert "these figures are leaky by construction" in evaluation_base.page
    assert "<title>" in evaluation_base.page and "published protocol" in evaluation_base.page.partition("</title>")[0]


def test_several_deals_are_judged_by_their_mean_and_each_is_reported(evaluation_base, monkeypatch):
    folds = (fold_of, lambda record: 1 - fold_of(record), lambda record: fold_of(record))
    cross_validate(evaluation_base, "second", 0, strength=0.1)
    records, logits = cross_validate_in_deals(evaluation_base, "first", folds)
    evaluation = evaluate(evaluation_base, monkeypatch)
    assert evaluation["candidates"]["second"]["deals"] == {"number": 1, "alone": None, "compared": None}
    found = evaluation["candidates"]["first"]["deals"]
    labels = np.array([record.label.rank for record in records])
    calibration = Calibration.read(evaluation["candidates"]["first"], evaluation["classes"])
    shares = calibration.probabilities(logits.mean(axis=0))
    whole = evaluation["candidates"]["first"]["validation"]["malignant_auc"]["value"]
    assert whole == pytest.approx(roc_auc_score(labels == 2, shares[:, 2]))
    each = found["alone"]["malignant_auc"]["each"]
    for of_deal, value in zip(logits, each, strict=True):
        # Calibration changes the order of the images a little, because it acts on three classes.
        assert value == pytest.approx(roc_auc_score(labels == 2, softmax(of_deal)[:, 2]), abs=0.05)
    assert found["number"] == 3 and len(set(each)) == 3
    spread = found["alone"]["malignant_auc"]
    assert spread["mean"] == pytest.approx(np.mean(each)) and spread["lowest"] == min(each)
    assert evaluation["selected"]["cnn"] == "first" and evaluation["selected"]["deals"] == found
    assert "Each assignment of patients to folds" in evaluation_base.page
    assert (
        f'data-path="selected/deals/alone/malignant_auc/each/2" data-style=".3f">{each[2]:.3f}<' in evaluation_base.page
    )
    card = (evaluation_base.output / "evaluation" / "model_card.md").read_text()
    assert f"malignant AUC {spread['mean']:.3f} ({min(each):.3f} to {max(each):.3f})" in card
    assert spread["highest"] == max(each) and spread["standard_deviation"] == pytest.approx(np.std(each, ddof=1))


def test_a_patient_in_two_folds_of_any_deal_fails_the_audit(evaluation_base):
    seen = Counter()

    def apart(record):
        seen[record.patient_id] += 1
        return seen[record.patient_id] % 2

    cross_validate(evaluation_base, "second", 0)
    cross_validate_in_deals(evaluation_base, "first", (fold_of, apart))
    evaluation = evaluation_base.figures()
    found = [item for item in evaluation["leakage"]["findings"] if item["kind"] == "held-out-film-known"]
    assert not evaluation["leakage"]["passed"] and len(found) == sum(count > 1 for count in seen.values()) > 0
