"""The evaluation job refuses unusable inputs and arguments; it reports a leak without stopping."""

import json
from dataclasses import replace

import pytest

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.datasets.manifest import Label, Split
from tests.training.evaluation.test_evaluate import run


def failure(tree, monkeypatch, capsys, *arguments: str) -> str:
    """Run the job, which must fail with a user's error and leave no output, and return the error's line."""
    assert run(tree, monkeypatch, *arguments) == 1
    assert not tree.output.exists()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == f"error: {(tree.base / 'output' / 'message').read_text()}"
    return line


def test_a_leak_is_reported_and_does_not_stop_the_job(evaluation_base, monkeypatch):
    rows = {record.image_id: record for record in evaluation_base.records()}
    source, target = rows["train000"], rows["test003"]
    pixels = (evaluation_base.data / source.path).read_bytes()
    (evaluation_base.data / target.path).write_bytes(pixels)
    evaluation_base.change(lambda record: replace(record, sha256=source.sha256) if record == target else record)
    assert run(evaluation_base, monkeypatch) == 0
    assert evaluation_base.evaluation["leakage"]["passed"] is False
    assert evaluation_base.evaluation["leakage"]["findings"]
    assert (evaluation_base.output / "model" / "model.tar.gz").is_file()
    assert "The leakage audit failed" in evaluation_base.page


def test_a_test_split_without_a_class_leaves_figures_undefined(evaluation_base, monkeypatch):
    evaluation_base.change(
        lambda record: None if record.split is Split.TEST and record.label is Label.MALIGNANT else record
    )
    assert run(evaluation_base, monkeypatch) == 0
    test = evaluation_base.evaluation["selected"]["test"]
    assert test["macro_auc"]["value"] is None and "each class" in test["macro_auc"]["reason"]
    assert test["accuracy"]["value"] is not None
    assert evaluation_base.evaluation["selected"]["validation"]["macro_auc"]["value"] is not None


def test_a_validation_split_without_a_class_is_refused(evaluation_base, monkeypatch, capsys):
    evaluation_base.change(
        lambda record: None if record.split is Split.VALIDATION and record.label is Label.MALIGNANT else record
    )
    assert "split=validation has no malignant image" in failure(evaluation_base, monkeypatch, capsys)


def test_an_empty_test_split_is_refused(evaluation_base, monkeypatch, capsys):
    evaluation_base.change(lambda record: None if record.split is Split.TEST else record)
    assert "split=test has no" in failure(evaluation_base, monkeypatch, capsys)


def test_a_patient_in_two_splits_is_refused(evaluation_base, monkeypatch, capsys):
    evaluation_base.change(
        lambda record: replace(record, patient_id="train-0") if record.image_id == "test000" else record
    )
    assert "patient_id=train-0 is in the splits" in failure(evaluation_base, monkeypatch, capsys)


def test_a_missing_image_is_refused_by_name(evaluation_base, monkeypatch, capsys):
    (evaluation_base.data / "images" / "validation" / "validation004.png").unlink()
    assert "validation004" in failure(evaluation_base, monkeypatch, capsys)


def test_no_candidate_is_refused(evaluation_base, monkeypatch, capsys):
    for path in evaluation_base.models.glob("*/model.tar.gz"):
        path.unlink()
    assert "no <cnn>/model.tar.gz here" in failure(evaluation_base, monkeypatch, capsys)


def test_a_truncated_candidate_is_refused(evaluation_base, monkeypatch, capsys):
    path = evaluation_base.models / "first" / "model.tar.gz"
    path.write_bytes(path.read_bytes()[:5000])
    assert "models/first/model.tar.gz" in failure(evaluation_base, monkeypatch, capsys)


def test_a_candidate_trained_on_other_images_is_refused(evaluation_base, monkeypatch, capsys):
    evaluation_base.add_model("third", seed=3, preprocess=PreprocessConfig(height=96, width=64, remove_pectoral=False))
    line = failure(evaluation_base, monkeypatch, capsys)
    assert "third/model.tar.gz" in line and "preprocess digest" in line


def test_parts_of_the_stage_must_agree(evaluation_base, monkeypatch, capsys):
    path = evaluation_base.data / "stage.json"
    stage = json.loads(path.read_text())
    path.rename(evaluation_base.data / "stage-algo-1.json")
    (evaluation_base.data / "stage-algo-2.json").write_text(json.dumps(stage))
    assert set(evaluation_base.figures()["stage"]["parts"]) == {"stage-algo-1", "stage-algo-2"}
    stage["config"]["preprocess"]["width"] = 72
    (evaluation_base.data / "stage-algo-2.json").write_text(json.dumps(stage))
    assert run(evaluation_base, monkeypatch) == 1
    assert "stage-algo-2.json: config differs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--bootstrap", "5"], "bootstrap = 5: between 100 and 100000"),
        (["--min-macro-auc", "1.5"], "min_macro_auc = 1.5: between 0 and 1"),
        (["--seed", "-1"], "seed = -1: at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(evaluation_base, monkeypatch, capsys, arguments, rule):
    assert rule in failure(evaluation_base, monkeypatch, capsys, *arguments)


def test_an_unknown_argument_is_refused(evaluation_base, monkeypatch):
    with pytest.raises(SystemExit):
        run(evaluation_base, monkeypatch, "--min-auc", "0.5")
