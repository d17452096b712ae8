"""The same seed gives the same bytes except for times; another order of sums gives figures within the tolerance."""

import copy
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mammopipe.processing.container import job
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import Split, read_manifest, write_manifest
from mammopipe.training.evaluate import main as evaluate
from mammopipe.training.fitting import reproducibility
from mammopipe.training.fitting.reproducibility import TIMES, TOLERANCE, differences
from mammopipe.training.model.archive import pack
from mammopipe.training.train import main as train

KERNELS = {"threads": 2, "mkldnn": False}
"""Settings that imitate another machine: sums in another order, by other kernels."""


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def run(make_job, monkeypatch, base: Path) -> dict:
    """Train and evaluate with a fixed seed, as two jobs, and return `evaluation.json`."""
    paths = make_job(seed="3", head_epochs="0", warmup_epochs="0")
    monkeypatch.setenv("MAMMOPIPE_BASE", str(paths.base))
    train([])
    evaluated = ContainerPaths(base)
    data = evaluated.processing_input("data")
    records = read_manifest(paths.channel("manifest"))
    rows = [*records, *(as_test(record) for record in records if record.split is Split.VALIDATION)]
    for split in ("train", "validation"):
        shutil.copytree(paths.channel(split), data / "images" / split)
    (data / "images" / "test").mkdir()
    for record in rows:
        if record.split is Split.TEST:
            other = record.image_id.replace("test", "train")
            shutil.copyfile(data / "images" / "train" / f"{other}.png", data / record.path)
    write_manifest(rows, data / "manifest.csv")
    shutil.copyfile(paths.channel("stage") / "stage.json", data / "stage.json")
    pack(paths.model, evaluated.processing_input("models") / "modified_cnn" / "model.tar.gz")
    monkeypatch.setenv("MAMMOPIPE_BASE", str(base))
    evaluate(["--bootstrap", "100"])
    return json.loads((evaluated.processing_output("evaluation") / "evaluation.json").read_text())


def as_test(record):
    """Return a test row like this validation row; its image is a copy of a training image, which is harmless here."""
    name = record.image_id.replace("validation", "test")
    return replace(record, image_id=name, patient_id=name, split=Split.TEST, path=f"images/test/{name}.png")


def test_the_same_seed_gives_the_same_bytes_but_for_times(make_job, monkeypatch, tmp_path):
    torch.set_num_threads(1)
    first, second = (run(make_job, monkeypatch, tmp_path / name) for name in ("first", "second"))
    assert first["candidates"]["modified_cnn"]["seconds"] != second["candidates"]["modified_cnn"]["seconds"]
    assert json.dumps(without_times(first), sort_keys=True) == json.dumps(without_times(second), sort_keys=True)
    assert list(differences(first, second)) == []


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_other_arithmetic_gives_the_same_figures_within_the_tolerance(evaluated, evaluation_base, monkeypatch):
    monkeypatch.setenv("MAMMOPIPE_BASE", str(evaluation_base.base))
    monkeypatch.setattr(sys, "argv", ["evaluate", "--bootstrap", "200", "--min-macro-auc", "0.55"])
    torch.set_num_threads(KERNELS["threads"])
    try:
        with torch.backends.mkldnn.flags(enabled=KERNELS["mkldnn"]):
            assert job.run(evaluate, "message") == 0
    finally:
        torch.set_num_threads(1)
    first, second = evaluated.evaluation, evaluation_base.evaluation
    del first["export"], second["export"]
    assert list(differences(first, second, tolerance=TOLERANCE)) == []


def test_a_difference_is_named_by_its_path():
    first = {"a": {"b": [1.0, 2.0]}, "seconds": 1.0, "only": 1}
    second = copy.deepcopy(first)
    assert list(differences(first, second)) == []
    second["a"]["b"][1], second["seconds"] = 2.1, 9.0
    assert list(differences(first, second)) == ["a/b/1: 2.0 and 2.1"]
    assert list(differences(first, second, tolerance=0.2)) == []
    del second["only"]
    assert list(differences(first, second, tolerance=0.2)) == ["only: only in the first"]
    assert list(differences({"a": [1]}, {"a": [1, 2]})) == ["a: [1] and [1, 2]"]
    assert list(differences({"a": True}, {"a": False}, tolerance=TOLERANCE)) == ["a: True and False"]


def test_the_commands_exit_code_reports_differences(tmp_path, capsys, evaluated):
    path = evaluated.output / "evaluation" / "evaluation.json"
    other = {**evaluated.evaluation, "dataset": "other"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert reproducibility.main([str(path), str(path)]) == 0
    assert reproducibility.main([str(path), str(tmp_path / "other.json")]) == 1
    assert "dataset: 'mias' and 'other'" in capsys.readouterr().out


@pytest.mark.parametrize("key", TIMES)
def test_each_key_of_times_occurs_in_an_evaluation(evaluated, key):
    assert f'"{key}"' in json.dumps(evaluated.evaluation)
