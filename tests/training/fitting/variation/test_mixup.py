"""Mixtures of images, labels and targets of places: new in each epoch, and the same for any number of processes."""

import pytest
import torch
from torch.nn import functional

from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.lesion_loss import UNKNOWN, location_losses
from mammopipe.training.fitting.sampling import EpochBatches
from mammopipe.training.fitting.step import StepLoss, train_step
from mammopipe.training.fitting.variation.mixup import draw_shares, mixed_images, mixed_mean, partners
from mammopipe.training.model.architecture import Precision


def test_neighbours_are_mixed_by_their_shares():
    images = torch.rand(4, 1, 3, 2)
    shares = torch.tensor([1.0, 0.25, 0.5, 0.0])
    mixed = mixed_images(images, shares)
    torch.testing.assert_close(mixed[0], images[0])
    torch.testing.assert_close(mixed[1], 0.25 * images[1] + 0.75 * images[0])
    torch.testing.assert_close(mixed[2], (images[2] + images[3]) / 2)
    torch.testing.assert_close(mixed[3], images[2])
    assert partners(torch.arange(4)).tolist() == [1, 0, 3, 2]


def test_shares_depend_on_seed_epoch_and_position_alone():
    config = TrainConfig(mixup=0.4, seed=1)
    whole = draw_shares(config, epoch=2, positions=range(8))
    ranks = [EpochBatches(batch_size=8, rank=rank, world_size=2).positions(0) for rank in range(2)]
    assert torch.equal(torch.cat([draw_shares(config, epoch=2, positions=at) for at in ranks]), whole)
    for seed, epoch in ((2, 2), (1, 3)):
        other = draw_shares(TrainConfig(mixup=0.4, seed=seed), epoch=epoch, positions=range(8))
        assert not torch.equal(other, whole)
    assert draw_shares(TrainConfig(), epoch=2, positions=range(8)) is None
    assert 0 <= whole.min() and whole.max() <= 1 and len(set(whole.tolist())) == 8
    many = draw_shares(TrainConfig(mixup=0.2), epoch=1, positions=range(4000))
    assert abs(float(many.mean()) - 0.5) < 0.02 and float((many - 0.5).abs().mean()) > 0.3, "most are nearly one image"


def test_the_loss_is_the_mixture_of_both_labels_and_of_both_images_places():
    logits, labels = torch.randn(2, 3), torch.tensor([0, 2])
    shares = torch.tensor([0.7, 0.4])
    each = torch.stack(
        [functional.cross_entropy(logits, torch.full((2,), label), reduction="none") for label in (0, 2)]
    )
    expected = (0.7 * each[0, 0] + 0.3 * each[1, 0] + 0.4 * each[1, 1] + 0.6 * each[0, 1]) / 2
    found = mixed_mean(lambda wanted: functional.cross_entropy(logits, wanted, reduction="none"), labels, shares)
    torch.testing.assert_close(found, expected)

    places = torch.randn(2, 3, 2, 2)
    wanted = torch.tensor([[[0, 0], [0, 0]], [[UNKNOWN, 2], [0, 0]]])
    alone = [location_losses(places, wanted[[source, source]]) for source in (0, 1)]
    expected = (0.7 * alone[0][0] + 0.3 * alone[1][0] + 0.4 * alone[1][1] + 0.6 * alone[0][1]) / 2
    torch.testing.assert_close(mixed_mean(lambda at: location_losses(places, at), wanted, shares), expected)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_learns_from_mixtures(accumulate):
    torch.manual_seed(0)
    images, labels = torch.rand(8, 1, 4, 4), torch.randint(0, 3, (8,))
    shares = draw_shares(TrainConfig(mixup=1.0), epoch=1, positions=range(8))

    def step(images, **more):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        loss = train_step(
            model, images, labels, optimiser=torch.optim.SGD(model.parameters(), lr=0.1),
            scaler=torch.amp.GradScaler("cuda", enabled=False), loss=StepLoss(torch.tensor([1.0, 2.0, 0.5]), 0.1),
            precision=Precision.FLOAT32, **more,
        )  # fmt: skip
        return model, loss

    model, loss = step(images, shares=shares, accumulate=accumulate)
    start, _ = step(images, shares=torch.ones(8))
    torch.manual_seed(1)
    fresh = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    logits, weights = fresh(mixed_images(images, shares)), torch.tensor([1.0, 2.0, 0.5])

    def of(wanted):
        return functional.cross_entropy(logits, wanted, reduction="none", label_smoothing=0.1) * weights[wanted]

    expected = (shares * of(labels) + (1 - shares) * of(partners(labels))).mean()
    torch.testing.assert_close(loss, expected.detach())
    assert not torch.equal(model[1].weight, start[1].weight)
    plain, _ = step(images)
    torch.testing.assert_close(start[1].weight, plain[1].weight)


def test_pairs_must_fit_into_every_part_of_a_batch():
    with pytest.raises(ConfigError, match="batch_size=6 must be a multiple of accumulate=2, and with mixup"):
        TrainConfig(batch_size=6, accumulate=2, mixup=0.4)
    with pytest.raises(ConfigError, match="mixup=0.4 must be 0 with learns=head"):
        TrainConfig(mixup=0.4, learns="head")
