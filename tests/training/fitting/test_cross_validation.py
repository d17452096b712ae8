"""The training job with folds: a network judges only images that it was not trained on; resuming."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Split, read_manifest, write_manifest
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.mammogram import read_mammogram, write_png
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.checkpoint import StopRequest
from mammopipe.training.fitting.distributed import ALONE
from mammopipe.training.fitting.out_of_fold import OutOfFold
from mammopipe.training.networks import model_directory
from mammopipe.training.train import read_inputs, train

SETTINGS = {"folds": "3", "epochs": "3", "head_epochs": "0", "learning_rate": "0.002", "precision": "float32"}


def run(paths, stop=None):
    train(paths, read_inputs(paths), ALONE, stop or StopRequest())
    return model_directory.load(paths.model)


def add_copies(paths):
    """Give every image one copy, in the split of its original."""
    manifest = paths.channel("manifest") / "manifest.csv"
    records = read_manifest(manifest)
    copies = [replace(record, image_id=f"{record.image_id}-a00", source_image_id=record.image_id) for record in records]
    for record in copies:
        folder = paths.channel(str(record.split))
        pixels = read_mammogram(folder / f"{record.source_image_id}.png").pixels
        write_png(folder / f"{record.image_id}.png", np.ascontiguousarray(pixels[::-1]))
    write_manifest([*records, *copies], manifest)
    return records, copies


class StopAfter:
    """Ends a run when the lines that `train` prints for epochs have occurred `times` times."""

    def __init__(self, capsys, pattern, times):
        self.capsys, self.pattern, self.left, self.text = capsys, pattern, times, ""

    def check(self):
        self.text += self.capsys.readouterr().out
        if len(re.findall(self.pattern, self.text, re.MULTILINE)) >= self.left:
            raise KeyboardInterrupt


def without_times(description):
    written = json.loads(json.dumps(description))
    del written["training"]["seconds"]
    for epoch in written["training"]["history"]:
        del epoch["seconds"]
    return written


def test_every_development_image_is_judged_out_of_fold(make_job):
    paths = make_job(**SETTINGS)
    records, copies = add_copies(paths)
    model = run(paths)
    written = model.description["training"]["cross_validation"]
    held = OutOfFold.read(paths.model, model.description)
    assert set(held.image_ids) == {record.image_id for record in records} and written["films"] == len(records)
    assert set(held.folds.tolist()) == {0, 1, 2} and np.isfinite(held.logits).all()
    assert model.description["training"]["best_epoch"] == sorted(written["fold_best_epochs"])[1]
    assert len(written["refit_losses"]) == model.description["training"]["best_epoch"]
    header = (paths.model / "out_of_fold.csv").read_text().splitlines()[0]
    assert header == "image_id,fold,logit_normal,logit_benign,logit_malignant"


def test_networks_classify_images_that_they_were_not_trained_on(make_job):
    paths = make_job(**SETTINGS | {"epochs": "12", "patience": "12"})
    description = run(paths).description
    assert description["metrics"]["validation_macro_auc"] > 0.8


def test_stopped_in_a_fold_and_in_the_refit_it_ends_as_an_undisturbed_one(make_job, capsys):
    undisturbed, disturbed = make_job(**SETTINGS), make_job(**SETTINGS)
    expected = without_times(run(undisturbed).description)
    for pattern, times in ((r"^epoch=", 2), (r"^epoch=", 3), (r"^refit epoch=", 1)):
        with pytest.raises(KeyboardInterrupt):
            run(disturbed, StopAfter(capsys, pattern, times))
        assert not (disturbed.model / "model.json").exists()
    assert without_times(run(disturbed).description) == expected
    assert (disturbed.model / "out_of_fold.csv").read_bytes() == (undisturbed.model / "out_of_fold.csv").read_bytes()


def test_without_folds_the_copies_of_validation_images_are_left_alone(make_job):
    paths = make_job(epochs="1", head_epochs="0", warmup_epochs="0")
    add_copies(paths)
    inputs = read_inputs(paths)
    assert not any(record.source_image_id for record in inputs.validation.records)
    assert {record.split for record in inputs.train.records} == {Split.TRAIN}


def test_an_altered_file_is_refused(make_job):
    paths = make_job(**SETTINGS | {"epochs": "1", "warmup_epochs": "0"})
    model = run(paths)
    (paths.model / "out_of_fold.csv").write_text("image_id,fold\n")
    with pytest.raises(ConfigError, match="its SHA-256 is not the training.cross_validation.sha256"):
        OutOfFold.read(paths.model, model.description)


def test_one_fold_is_refused():
    with pytest.raises(ConfigError, match=r"folds=1 must be 0 \(no cross-validation\) or at least 2"):
        TrainConfig.from_hyperparameters({"folds": "1"})
