"""Folding a batch normalisation into the convolution before it changes no logit and no feature map."""

import pytest
import torch
from torch import nn

from mammopipe.processing.classes import THREE
from mammopipe.training.evaluation.batch_prediction import folded
from mammopipe.training.networks.grad_cam import WithMaps
from mammopipe.training.networks.registry import build_model

IMAGES = torch.rand(2, 1, 96, 64, generator=torch.Generator().manual_seed(1))


def trained(name, **options):
    """Return a network whose batch normalisations have statistics and weights, as after training."""
    network = build_model(name, classes=list(THREE), seed=3, **options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    return network


def outputs(network):
    wrapped = WithMaps(network)
    with torch.inference_mode():
        found = wrapped(IMAGES)
    wrapped.close()
    return found


@pytest.mark.parametrize(("name", "left"), [("resnet50", 0), ("efficientnet_lite0", 0), ("modified_cnn", None)])
def test_logits_and_feature_maps_stay_the_same(name, left):
    torch.manual_seed(0)
    network = trained(name)
    before, result = outputs(network), folded(network, IMAGES[:1])
    for expected, found in zip(before, outputs(result), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    for expected, found in zip(before, outputs(network), strict=True):
        assert torch.equal(found, expected), "the network itself stays unchanged"
    if left is not None:
        assert sum(isinstance(module, nn.BatchNorm2d) for module in result.modules()) == left


def test_a_convolution_whose_output_is_used_twice_is_left_alone():
    class Twice(nn.Module):
        def __init__(self, convolution, normalisation):
            super().__init__()
            self.convolution, self.normalisation = convolution, normalisation

        def forward(self, maps):
            made = self.convolution(maps)
            return self.normalisation(made) + made

    torch.manual_seed(0)
    network = trained("efficientnet_lite0")
    body = network.body
    body._conv_head, body._bn1 = Twice(body._conv_head, body._bn1), nn.Identity()
    assert folded(network, IMAGES[:1]) is network
