"""A job tests one training pass before it reads its data, so that a job that cannot train fails within seconds."""

import pytest
import torch

from mammopipe.processing.errors import ConfigError, ManifestError
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.distributed import ALONE, World
from mammopipe.training.networks.registry import build_model
from mammopipe.training.train import read_inputs
from mammopipe.training.trial import images_at_once, memory_stated, try_out


def config(**settings):
    return TrainConfig.from_hyperparameters({"cnn": "modified_cnn", "batch_size": "8", **settings})


@pytest.mark.parametrize(
    ("settings", "size", "count"),
    [
        ({}, 1, 8),
        ({"accumulate": "2"}, 2, 2),
        ({"accumulate": "4"}, 4, 2),
        ({"level": "breast", "most_views": "3", "other_side": "true"}, 2, 24),
        ({"learns": "head", "accumulate": "2"}, 1, 8),
    ],
)
def test_the_pass_has_as_many_images_as_a_step_computes_at_once(settings, size, count):
    assert images_at_once(config(**settings), World(size=size)) == count


def test_a_pass_computes_gradients_and_leaves_the_random_numbers_alone():
    network, before = build_model("modified_cnn", classes=3, dropout=0.5), torch.get_rng_state()
    try_out(network, config(dropout="0.5"), shape=(64, 64), world=ALONE)
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_whose_body_is_not_trained_needs_no_gradients():
    network = build_model("modified_cnn", classes=3)
    try_out(network, config(learns="head"), shape=(64, 64), world=ALONE)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_size_that_fails_is_named_before_any_image_is_read(make_job, monkeypatch):
    paths = make_job(cnn="modified_cnn", epochs="1", head_epochs="0", warmup_epochs="0")
    for image in paths.channel("train").glob("*.png"):
        image.unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        read_inputs(paths)

    def refuse(network, images):
        raise RuntimeError("Kernel size can't be greater than actual input size\nmore")

    monkeypatch.setattr(torch.nn.Conv2d, "forward", refuse)
    with pytest.raises(
        ConfigError, match=r"^cnn=modified_cnn cannot be trained on 2 images of \d+ x \d+ pixels: Kernel"
    ):
        read_inputs(paths)


def test_too_little_memory_names_what_to_lower(monkeypatch):
    def refuse(network, images):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\ndetails")

    network = build_model("modified_cnn", classes=3)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", refuse)
    message = (
        r"cpu has too little memory for cnn=modified_cnn and 4 images of 2048 x 1024 pixels at once \(batch_size=8, "
        r"accumulate=2, 1 processes, precision=auto\); raise accumulate, or lower .*: CUDA out of memory"
    )
    with pytest.raises(ConfigError, match=message):
        try_out(network, config(accumulate="2"), shape=(2048, 1024), world=ALONE)
    with (
        pytest.raises(ConfigError, match=message),
        memory_stated(config(accumulate="2"), shape=(2048, 1024), world=ALONE),
    ):
        refuse(None, None)


def test_float16_on_a_cpu_is_refused_before_any_image_is_read(make_job):
    paths = make_job(cnn="modified_cnn", epochs="1", head_epochs="0", warmup_epochs="0", precision="float16")
    for image in paths.channel("train").glob("*.png"):
        image.unlink()
    with pytest.raises(ConfigError, match="precision=float16 needs a GPU"):
        read_inputs(paths)
