"""Folds that are trained by separate jobs: their ensemble is evaluated out of fold and saved as one model."""

import json

import numpy as np
import pytest
import torch

from mammopipe.processing.datasets.manifest import Split
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.evaluate import main
from mammopipe.training.evaluation.fold_ensemble import FINAL, join_folds
from mammopipe.training.fitting.checkpoint import StopRequest
from mammopipe.training.fitting.distributed import ALONE
from mammopipe.training.fitting.out_of_fold import OutOfFold, write_out_of_fold
from mammopipe.training.model.archive import pack, unpack
from mammopipe.training.networks import model_directory
from mammopipe.training.train import read_inputs, train

SETTINGS = {"folds": "2", "epochs": "2", "head_epochs": "0", "warmup_epochs": "0.5", "precision": "float32"}


@pytest.fixture(scope="module")
def folds(make_job):
    """Return the model directories of two jobs, each of one fold."""
    found = []
    for fold in ("0", "1"):
        paths = make_job(**SETTINGS, fold=fold, patience="1")
        train(paths, read_inputs(paths), ALONE, StopRequest())
        found.append(paths.model)
    return found


def test_each_job_holds_out_its_fold_and_the_ensemble_holds_all(folds, tmp_path):
    join_folds(folds[::-1], tmp_path / "modified_cnn")
    model = model_directory.load(tmp_path / "modified_cnn")
    described = model.description["training"]["cross_validation"]
    held = OutOfFold.read(tmp_path / "modified_cnn", model.description)
    assert model.description["ensemble"] == 2 and (described["folds"], described["final"]) == (2, FINAL)
    assert described["films"] == len(held.image_ids) == len(set(held.image_ids))
    images = torch.rand(3, 1, *model.input_shape)
    parts = [model_directory.load(folder) for folder in folds]
    for fold, part in enumerate(parts):
        mine = OutOfFold.read(folds[fold], part.description)
        places = [held.image_ids.index(name) for name in mine.image_ids]
        np.testing.assert_array_equal(held.logits[places], mine.logits)
        assert set(held.folds[places]) == {fold}
        assert part.description["training"]["epochs_run"] == 2, "patience ends no fold early"
    mean = torch.stack([part.predict_logits(images) for part in parts]).mean(dim=0)
    torch.testing.assert_close(model.predict_logits(images), mean)


def test_folds_that_do_not_belong_together_are_refused(folds, tmp_path):
    with pytest.raises(ConfigError, match=r"models of the folds \[0\]; there must be one model of each of 2 folds"):
        join_folds(folds[:1], tmp_path)
    other = tmp_path / "other"
    described = json.loads((folds[1] / "model.json").read_text())
    described["training"]["data_digest"] = "of other images"
    write = model_directory.load(folds[1])
    (other).mkdir()
    (other / "out_of_fold.csv").write_bytes((folds[1] / "out_of_fold.csv").read_bytes())
    model_directory.save(other, write.network, described)
    with pytest.raises(ConfigError, match=r"other differs from the other folds in training.data_digest"):
        join_folds([folds[0], other], tmp_path / "joined")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fold": 0}, "fold=0 must be below folds=0"),
        ({"fold": 3, "folds": 3}, "fold=3 must be below folds=3"),
        ({"fold": 1, "folds": 3, "cnn": "alexnet"}, "cnn=alexnet cannot be part of an ensemble"),
    ],
)
def test_a_fold_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)


def test_evaluate_joins_the_folds_and_serves_their_ensemble(evaluation_base, monkeypatch):
    base = evaluation_base
    development = [record for record in base.records() if record.split is not Split.TEST and not record.source_image_id]
    for archive in base.models.glob("*/model.tar.gz"):
        archive.unlink()
    random = np.random.default_rng(0)
    for fold in (0, 1):
        base.add_model("first", seed=fold)
        folder = base.base / "scratch" / "first"
        model = model_directory.load(folder)
        records = [record for record in development if int(record.patient_id.rpartition("-")[2]) % 2 == fold]
        logits = random.normal(size=(len(records), 3)) + 3 * np.eye(3)[[record.label.rank for record in records]]
        digest = write_out_of_fold(folder, records, [fold] * len(records), logits.astype(np.float32))
        described = {**model.description, "training": dict(model.description["training"])}
        described["training"]["cross_validation"] = {"folds": 2, "fold": fold, "films": len(records), "sha256": digest}
        model_directory.save(folder, model.network, described)
        pack(folder, base.models / "first" / f"fold-{fold}" / "model.tar.gz")
    (base.models / "first" / "model.tar.gz").unlink()
    monkeypatch.setenv("MAMMOPIPE_BASE", str(base.base))
    main(["--bootstrap", "100"])
    found = base.evaluation
    assert found["validation_folds"] == 2 and found["selected"]["validation"]["images"] == len(development)
    assert found["candidates"]["first"]["final"] == FINAL
    unpack(base.output / "model" / "model.tar.gz", base.base / "served")
    served = model_directory.load(base.base / "served")
    assert served.description["ensemble"] == 2 and served.description["calibration"]["fitted_on"] == "out-of-fold"
    assert found["export"]["shipped"], found["export"]["reason"]
