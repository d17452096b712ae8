"""Variation on the device that trains: the same geometry as on the CPU, air stays 0, every switch has an effect."""

import json
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch

from mammopipe.processing.datasets.manifest import View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.variation import Variation
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.checkpoint import StopRequest
from mammopipe.training.fitting.dataset import TrainingImages
from mammopipe.training.fitting.distributed import ALONE
from mammopipe.training.fitting.sampling import Draw
from mammopipe.training.fitting.variation.on_device import UnvariedImages, varied_here
from mammopipe.training.train import read_inputs, train

SWITCHES = [f"augment_{item.name}" for item in fields(Variation)][1:]
PLAIN = {"augment": 1.0, "augment_on": "gpu", "noise": 0.0, "holes": 0}


@pytest.fixture
def dataset(make_job):
    """Training images of craniocaudal views, smooth so that interpolation matters little."""
    whole = read_inputs(make_job(head_epochs="1")).train
    whole.records = tuple(replace(record, view=View.CC) for record in whole.records)
    pixels = whole.caches[0].pixels
    for row in range(len(pixels)):
        soft = cv2.GaussianBlur(np.random.default_rng(row).random((64, 64), np.float32), (0, 0), 2.5)
        grey = (soft - soft.min()) / np.ptp(soft) * 60000 + 2000
        pixels[row] = np.where(pixels[row] > 0, grey, 0)
    return whole


def batch(images, config, draws):
    """Return the varied images and lesions of some draws, as a training step gets them."""
    source = UnvariedImages(images, config)
    items = [source.with_lesions(draw) for draw in draws]
    collated = torch.utils.data.default_collate([item for item, _ in items])
    return varied_here(collated[0], config, torch.device("cpu")), [lesions for _, lesions in items]


DRAWS = [Draw(index, 3, 40 + index) for index in range(16)]


def test_an_image_and_its_lesions_move_as_on_the_cpu(dataset):
    config = TrainConfig(**PLAIN)
    images, lesions = batch(dataset, config, DRAWS)
    on_cpu = TrainingImages(dataset, config)
    differences = []
    for image, moved, draw in zip(images, lesions, DRAWS, strict=True):
        (expected, _, _), there = on_cpu.with_lesions(draw)
        assert moved == there
        # Edges of the tissue may differ by a pixel; inside, the libraries interpolate differently.
        differences.append(float((image - expected).abs().median()))
        assert float(((image > 0) != (expected > 0)).float().mean()) < 0.05
        plain = dataset[draw.index][0]
        assert float((image - plain).abs().mean()) > 0.01, "the variation does something"
    assert max(differences) < 0.01


def test_variations_depend_on_seed_epoch_and_position_alone(dataset):
    config = TrainConfig(augment=1.0, augment_on="gpu", noise=0.1, holes=3)
    first, same = (batch(dataset, config, DRAWS)[0] for _ in range(2))
    assert torch.equal(first, same)
    assert torch.equal(batch(dataset, config, DRAWS[8:])[0], first[8:]), "whatever else is in the batch"
    for other in ([Draw(draw.index, 4, draw.position) for draw in DRAWS], [Draw(0, 3, 99)] * 16):
        assert not torch.equal(batch(dataset, config, other)[0], first)
    assert not torch.equal(batch(dataset, config.replace(seed=1), DRAWS)[0], first)
    assert (first == 0).all(dim=0)[0, :, 63].any() and first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_does_by_itself_what_it_does_on_the_cpu(dataset, name):
    alone = TrainConfig(**PLAIN | dict.fromkeys(SWITCHES, False) | {name: True})
    none = TrainConfig(**PLAIN | dict.fromkeys(SWITCHES, False))
    images, plain = batch(dataset, alone, DRAWS)[0], torch.stack([dataset[draw.index][0] for draw in DRAWS])
    torch.testing.assert_close(batch(dataset, none, DRAWS)[0], plain)
    on_cpu = TrainingImages(dataset, alone)
    expected = torch.stack([on_cpu[draw][0] for draw in DRAWS])
    changed = (expected - plain).abs().mean()
    assert changed > 1e-4
    # The two libraries reduce the resolution by different filters.
    assert (images - expected).abs().mean() < (0.4 if name == "augment_downscale" else 1e-3) * changed


def test_noise_and_holes_leave_air_alone(dataset):
    config = TrainConfig(augment_on="gpu", noise=0.3, holes=4)
    images, plain = batch(dataset, config, DRAWS)[0], torch.stack([dataset[draw.index][0] for draw in DRAWS])
    assert (images[plain == 0] == 0).all()
    changed = (images != plain) & (images > 0)
    assert changed.any(dim=(1, 2, 3)).all(), "noise in every image"
    holes = ((images == 0) & (plain > 0)).float().mean(dim=(1, 2, 3))
    assert (holes > 0).sum() >= 8 and holes.max() < 0.2


def test_a_job_varies_on_the_device_and_lesions_move_along(make_job):
    settings = {
        "cnn": "modified_cnn", "epochs": "1", "head_epochs": "0", "warmup_epochs": "0", "precision": "float32",
        "augment": "0.8", "location_weight": "1", "pooling": "top", "mixup": "0.4",
    }  # fmt: skip
    sums = []
    for where in ("gpu", "cpu"):
        paths = make_job(**settings, augment_on=where)
        train(paths, read_inputs(paths), ALONE, StopRequest())
        described = json.loads((paths.model / "model.json").read_text())
        sums.append(described["weights_sha256"])
        assert described["training"]["hyperparameters"]["augment_on"] == where
    assert sums[0] != sums[1]


def test_variation_is_refused_if_only_the_head_learns():
    with pytest.raises(ConfigError, match="augment_on=gpu must be cpu with learns=head"):
        TrainConfig(augment_on="gpu", learns="head")
