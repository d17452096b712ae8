"""One training step follows its formulas: smoothing, class weights, soft targets, accumulation, clipping, average."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from mammopipe.training.config import Sampling, TrainConfig
from mammopipe.training.fitting.optimiser import hasten_statistics, make_optimiser
from mammopipe.training.fitting.sampling import epoch_order, loss_weights
from mammopipe.training.fitting.step import EpochResult, StepLoss, WeightAverage, image_losses, train_step
from mammopipe.training.model.architecture import Precision
from mammopipe.training.networks.layers import Dropout, SharedDropPath
from mammopipe.training.networks.registry import build_model
from mammopipe.training.optimisation import OptimiserKind

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]])
LABELS = torch.tensor([0, 2])


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def step(network, images, labels, optimiser, weights=None, **options):
    loss = StepLoss(torch.ones(3) if weights is None else weights, smoothing=0.0)
    given = {"loss": loss, "precision": Precision.FLOAT32, **options}
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    return float(train_step(network, images, labels, optimiser=optimiser, scaler=scaler, **given))


def test_label_smoothing_spreads_its_share_over_all_classes():
    logs = functional.log_softmax(LOGITS, dim=1)
    expected = -(0.7 * logs[[0, 1], LABELS] + 0.3 * logs.mean(dim=1))
    torch.testing.assert_close(image_losses(LOGITS, LABELS, 0.3), expected)


def test_a_soft_positive_leaves_the_rest_to_the_first_class():
    logs = functional.log_softmax(LOGITS, dim=1)
    expected = torch.stack([-logs[0, 0], -(0.8 * logs[1, 2] + 0.2 * logs[1, 0])])
    torch.testing.assert_close(image_losses(LOGITS, LABELS, 0.0, 0.8), expected)
    # Smoothing also applies to that target.
    smoothed = 0.7 * expected - 0.3 * logs.mean(dim=1)
    torch.testing.assert_close(image_losses(LOGITS, LABELS, 0.3, 0.8), smoothed)


def test_two_logits_are_the_binary_cross_entropy_of_their_difference():
    logits, labels = torch.randn(9, 2), torch.randint(0, 2, (9,))
    expected = functional.binary_cross_entropy_with_logits(
        logits[:, 1] - logits[:, 0], labels.float(), reduction="none"
    )
    torch.testing.assert_close(image_losses(logits, labels, 0.0), expected)


def test_class_weights_count_in_the_loss():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 0, 1, 2])
    weights = loss_weights(labels.numpy(), Sampling.WEIGHTED, 3)
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 4 / 3, 4 / 3]))
    losses = functional.cross_entropy(network(images).detach(), labels, reduction="none")
    expected = float((losses * weights[labels]).mean())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    assert math.isclose(step(network, images, labels, optimiser, weights=weights), expected, rel_tol=1e-5)


def test_the_loss_of_a_step_is_smoothed_and_weighted():
    loss = StepLoss(torch.tensor([0.5, 1.0, 3.0]), smoothing=0.3, positive_target=0.8)
    expected = (image_losses(LOGITS, LABELS, 0.3, 0.8) * torch.tensor([0.5, 3.0])).mean()
    torch.testing.assert_close(loss.of(LOGITS, LABELS, (), None), expected)


@pytest.mark.parametrize("layer", [Dropout(0.2), SharedDropPath(0.2)])
def test_dropout_keeps_the_mean(layer):
    torch.manual_seed(0)
    kept = layer.train()(torch.ones(4000, 10))
    assert {round(value, 6) for value in kept.unique().tolist()} == {0.0, 1.25} and abs(float(kept.mean()) - 1) < 0.05
    assert layer.eval()(torch.ones(3)).tolist() == [1, 1, 1]


def test_dropped_blocks_may_be_left_unscaled():
    torch.manual_seed(0)
    kept = SharedDropPath(0.5, scale=False).train()(torch.ones(100, 2))
    assert set(kept.unique().tolist()) == {0.0, 1.0} and (kept[:, 0] == kept[:, 1]).all(), "whole images are dropped"


def test_parts_of_a_batch_make_the_step_of_the_whole():
    networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    images, labels = torch.rand(8, 1, 2, 2), torch.arange(8) % 3
    losses = [
        step(network, images, labels, torch.optim.SGD(network.parameters(), lr=0.5), accumulate=parts)
        for network, parts in zip(networks, (1, 4), strict=True)
    ]
    assert math.isclose(*losses, rel_tol=1e-5)
    torch.testing.assert_close(networks[0].state_dict(), networks[1].state_dict())


def test_clipping_limits_the_step():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    before = [value.detach().clone() for value in network.parameters()]
    images, labels = 100 * torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long)
    step(network, images, labels, torch.optim.SGD(network.parameters(), lr=1.0), clip_norm=0.01)
    moved = sum(
        float((now.detach() - then).square().sum()) for now, then in zip(network.parameters(), before, strict=True)
    )
    assert 0.009 < math.sqrt(moved) < 0.0101


def test_the_average_follows_slowly_and_is_applied_temporarily():
    network = build_model("modified_cnn", classes=3)
    average = WeightAverage(network, 0.9)
    first = network.head.get_submodule("1").bias.detach().clone()
    with torch.no_grad():
        network.head.get_submodule("1").bias.add_(1)
    average.update(network)
    expected = 1 - 2 / 11
    torch.testing.assert_close(average.state["body.head.1.bias"], first + expected)
    with average.applied(network):
        torch.testing.assert_close(network.head.get_submodule("1").bias.detach(), first + expected)
    torch.testing.assert_close(network.head.get_submodule("1").bias.detach(), first + 1)
    for _ in range(200):
        average.update(network)
    torch.testing.assert_close(average.state["body.head.1.bias"], first + 1)


def test_between_equal_figures_the_lower_loss_is_the_better_epoch():
    better, worse = (EpochResult(1, 1.0, loss, 0.9, 0.5, 1e-3, 1.0, 0.7) for loss in (0.5, 0.9))
    assert better.rank > worse.rank
    assert EpochResult(1, 1.0, 0.9, 0.1, 0.5, 1e-3, 1.0, 0.8).rank > better.rank


def test_statistics_are_plain_means_at_first():
    network = torch.nn.BatchNorm2d(1)
    seen = []
    for done in range(4):
        hasten_statistics(network, done)
        batch = torch.randn(50, 1, 2, 2) + done
        seen.append(float(batch.mean()))
        network.train()(batch)
    assert math.isclose(float(network.running_mean), np.mean(seen), rel_tol=1e-4)
    hasten_statistics(network, 100)
    assert network.momentum == 0.1


@pytest.mark.parametrize("share", [0.125, 0.25])
def test_the_ratio_holds_in_every_batch(share):
    labels = np.array([0] * 190 + [1] * 40 + [2] * 10)
    order = epoch_order(labels, Sampling.RATIO, seed=1, epoch=1, batch_size=8, positive_share=share)
    assert len(order) == 240
    positives = (labels[order] == 2).reshape(-1, 8).sum(axis=1)
    assert set(positives) == {round(8 * share)}
    others = order[labels[order] != 2]
    assert len(set(others)) == len(others), "the others come once before any comes again"
    assert not np.array_equal(order, epoch_order(labels, Sampling.RATIO, seed=1, epoch=2, batch_size=8))


def test_layer_decay_slows_the_first_layers():
    network = build_model("resnet50", classes=3)
    optimiser = make_optimiser(network, TrainConfig(layer_decay=0.5, optimiser=OptimiserKind.SGD))
    assert isinstance(optimiser, torch.optim.SGD) and optimiser.defaults["nesterov"]
    scale = {id(item): group["scale"] for group in optimiser.param_groups for item in group["params"]}
    assert len(scale) == len(list(network.parameters()))
    stem, early, late = (
        network.body.get_parameter(f"{name}.weight") for name in ("conv1", "layer1.0.conv1", "layer4.2.conv1")
    )
    assert scale[id(stem)] < scale[id(early)] < scale[id(late)] == 1
    assert scale[id(network.body.get_parameter("layer1.0.conv2.weight"))] == scale[id(early)]
    assert scale[id(network.body.get_parameter("fc.1.weight"))] == 1
    plain = make_optimiser(network, TrainConfig())
    assert isinstance(plain, torch.optim.AdamW) and {group["scale"] for group in plain.param_groups} == {1.0}
