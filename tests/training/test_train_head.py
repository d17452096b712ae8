"""Training jobs that train only the classifier: folds, deals, resuming."""

import numpy as np
import pytest
import torch

from mammopipe.processing.errors import ConfigError
from mammopipe.training.fitting.checkpoint import StopRequest
from mammopipe.training.fitting.distributed import ALONE
from mammopipe.training.fitting.head_only import HeadAlone, ImageMaps
from mammopipe.training.fitting.out_of_fold import OutOfFold
from mammopipe.training.fitting.step import predict
from mammopipe.training.model.architecture import Precision
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.registry import build_model
from mammopipe.training.train import read_inputs, train
from tests.training.test_train import SETTINGS

HEAD = {
    "cnn": "efficientnet_lite0",
    "stride": "16",
    "learns": "head",
    "pooling": "top",
    "top_places": "2",
    "location_weight": "1",
    "head_learning_rate": "0.01",
}


def stage_lite0(paths):
    weights = paths.channel("weights") / "efficientnet-lite0.pth"
    weights.parent.mkdir(parents=True)
    state = build_model("efficientnet_lite0", classes=7, seed=9).body.state_dict()
    torch.save(state, weights)
    return state


@pytest.mark.parametrize("folds", ["0", "3"])
def test_a_classifier_that_learns_alone_leaves_the_body_and_predicts_as_it_was_measured(make_job, folds):
    paths = make_job(**SETTINGS | HEAD | {"folds": folds})
    staged = stage_lite0(paths)
    train(paths, read_inputs(paths), ALONE, StopRequest())
    model = model_directory.load(paths.model)
    written, learnt = model.description, model.network.body.state_dict()
    body = [name for name in learnt if not name.startswith("_fc.")]
    assert body and all(torch.equal(learnt[name], staged[name]) for name in body)
    assert (written["stride"], written["top_places"], written["pooling"]) == (16, 2, "top")
    losses = [epoch["train_loss"] for epoch in written["training"]["history"]]
    assert losses[-1] < losses[0]
    if folds == "0":
        images = read_inputs(paths).validation
        logits = model.predict_logits(torch.stack([images[index][0] for index in range(len(images))]))
        # The body has random weights, so images hardly differ and an AUC would depend on the last digits.
        measured = predict(
            HeadAlone(model.network), ImageMaps(model.network, images), batch_size=8, precision=Precision.FLOAT32
        )
        torch.testing.assert_close(logits, torch.from_numpy(measured), rtol=1e-4, atol=1e-5)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(images.labels)).item()
        assert loss == pytest.approx(written["metrics"]["validation_loss"], abs=1e-4)


MEAN = {"folds": "3", "final": "mean", "patience": "1"}


@pytest.mark.parametrize(("settings", "stops"), [({}, (8,)), (MEAN, (8, 20))])
def test_a_classifier_that_learns_alone_is_resumed_as_one(make_job, capsys, settings, stops):
    whole, parts = (make_job(**SETTINGS | HEAD | settings) for _ in range(2))
    for paths in (whole, parts):
        stage_lite0(paths)
    train(whole, read_inputs(whole), ALONE, StopRequest())
    for checks in stops:
        stop = StopRequest()
        stop.check = iter([None] * checks).__next__
        with pytest.raises(StopIteration):
            train(parts, read_inputs(parts), ALONE, stop)
    train(parts, read_inputs(parts), ALONE, StopRequest())
    assert "resumed from epoch 1" in capsys.readouterr().out
    ours, theirs = (model_directory.read_description(paths.model) for paths in (whole, parts))
    assert ours["weights_sha256"] == theirs["weights_sha256"]
    if settings:
        assert (whole.model / "out_of_fold.csv").read_bytes() == (parts.model / "out_of_fold.csv").read_bytes()


@pytest.mark.parametrize("deals", [1, 2])
def test_the_mean_of_the_folds_is_the_classifier_between_theirs(make_job, deals):
    paths = make_job(**SETTINGS | HEAD | MEAN | {"deals": str(deals)})
    stage_lite0(paths)
    train(paths, read_inputs(paths), ALONE, StopRequest())
    written = model_directory.read_description(paths.model)["training"]
    assert (written["epochs_run"], written["best_epoch"]) == (3, 3), "no patience, no choice"
    stated = written["cross_validation"]
    assert (stated["folds"], stated["deals"], stated["refit_losses"]) == (3, deals, [])
    assert stated["final"] == ("mean of the folds' weights", "mean of the weights of the folds of 2 deals")[deals - 1]
    assert stated["fold_best_epochs"] == [3, 3, 3] * deals
    kept = [
        torch.load(paths.checkpoints / f"{prefix}fold-{fold}" / "checkpoint.pt", weights_only=True)["best"]
        for prefix in ("", "deal-1-")[:deals]
        for fold in range(3)
    ]
    head = model_directory.load(paths.model).network.head.state_dict()
    for name, value in head.items():
        folds = torch.stack([fold[f"head.{name}"] for fold in kept])
        assert folds.std(dim=0).max() > 0
        torch.testing.assert_close(value, folds.mean(dim=0))
    held = OutOfFold.read(paths.model, model_directory.read_description(paths.model))
    assert len(held.each_deal) == deals
    if deals == 2:
        first, second = held.each_deal
        assert np.allclose(held.logits, (first.logits + second.logits) / 2) and not np.allclose(
            held.logits, first.logits
        )
        assert not np.array_equal(first.folds, second.folds), "each deal has folds of its own"


def test_several_deals_need_the_mean_of_all_folds_in_one_job(make_job):
    for wrong in ({"final": "refit"}, {"fold": "0"}):
        with pytest.raises(ConfigError, match="hyperparameter deals=2 needs final=mean and all folds in one job"):
            read_inputs(make_job(**SETTINGS | HEAD | MEAN | {"deals": "2"} | wrong))


def test_a_classifier_cannot_learn_alone_before_a_body_that_learnt_nothing(make_job):
    with pytest.raises(ConfigError, match="learns=head needs pretrained weights"):
        read_inputs(make_job(**SETTINGS | HEAD))
