"""The class activation map points at the class's evidence, is computed correctly, and leaves the network unchanged."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mammopipe.training.networks.grad_cam import Heatmaps, grad_cam, heatmap
from mammopipe.training.networks.layers import Normalise
from mammopipe.training.networks.registry import NAMES, ImageNetwork, build_model


class Brightness(nn.Module):
    """A network with a known map: the logit of class 0 rises with brightness, and that of class 1 falls."""

    def __init__(self):
        super().__init__()
        self.features = nn.AvgPool2d(8)

    def forward(self, images):
        level = self.features(images).mean(dim=(1, 2, 3))
        return torch.stack([level, -level], dim=1)


def test_the_map_of_a_known_network():
    network = ImageNetwork(
        "brightness", Brightness(), head="", cam_layer="features", normalise=Normalise((0.0,), (1.0,))
    )
    image = torch.zeros(1, 1, 64, 96)
    image[0, 0, 40:56, 64:80] = 0.5
    heat = grad_cam(network, image, 0)
    assert heat.shape == (64, 96) and heat.dtype == np.float32
    assert heat.max() == 1 and heat.min() == 0
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 40 <= row < 56 and 64 <= column < 80
    assert (grad_cam(network, image, 1) == 0).all(), "no position is evidence for the class of dark images"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frozen", [True, False])
def test_every_network_has_a_map_and_stays_as_it_was(name, frozen):
    network = build_model(name, classes=3).eval().requires_grad_(not frozen)
    image = torch.rand(1, 1, 96, 64)
    before = network(image).detach()
    heat = grad_cam(network, image, 2)
    assert heat.shape == (96, 64) and 0 <= heat.min() <= heat.max() <= 1
    assert torch.equal(network(image).detach(), before)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_models_map_is_0_outside_of_the_tissue_and_else_that_of_its_network():
    network = build_model("modified_cnn", classes=3, seed=2).eval()
    image = torch.zeros(1, 96, 64)
    image[0, 10:80, :40] = torch.rand(70, 40, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.1
    image[0, 40, 20] = 0.0  # a speck within the tissue
    whole = [grad_cam(network, image[None], index) for index in range(3)]
    shown = [heatmap(SimpleNamespace(network=network), image, index) for index in range(3)]
    assert max(one[:, 44:].max() for one in whole) > 0, "there is something to leave out"
    for before, after in zip(whole, shown, strict=True):
        assert (after[:, 44:] == 0).all() and (after[:6] == 0).all()
        assert np.array_equal(after[12:78, 2:38], before[12:78, 2:38])


def test_more_than_one_image_is_refused():
    with pytest.raises(ValueError, match="one image"):
        grad_cam(build_model("modified_cnn", classes=3).eval(), torch.rand(2, 1, 64, 64), 0)


@pytest.mark.parametrize("name", ["modified_cnn", "alexnet"])
def test_heatmaps_of_many_images_are_those_of_each(name):
    network = build_model(name, classes=3, seed=1).eval()
    model = SimpleNamespace(network=network)
    images = torch.rand(3, 1, 96, 64, generator=torch.Generator().manual_seed(2))
    images[:, :, :20] = 0
    shown = Heatmaps(model)
    for image in images:
        for index in range(3):
            np.testing.assert_allclose(shown(image, index), heatmap(model, image, index), atol=2e-3)
            assert not shown(image, index)[:15].any(), "nothing outside of the tissue"
