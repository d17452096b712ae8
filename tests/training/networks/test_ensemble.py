"""An ensemble of networks as one network: its logits, feature maps and class activation maps."""

import numpy as np
import pytest
import torch

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Pooling
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.grad_cam import WithMaps, grad_cam, head_weights
from mammopipe.training.networks.network import Ensemble
from mammopipe.training.networks.registry import build_model
from tests.training.networks.test_model_directory import description

IMAGES = torch.rand(2, 1, 96, 64, generator=torch.Generator().manual_seed(0))


def members(pooling=Pooling.MEAN):
    return [build_model("modified_cnn", classes=3, seed=seed, pooling=pooling).eval() for seed in (0, 1, 2)]


@pytest.mark.parametrize("pooling", Pooling)
def test_the_logits_are_the_mean_of_the_members(pooling):
    networks = members(pooling)
    joined = Ensemble(networks).eval()
    expected = torch.stack([network(IMAGES) for network in networks]).mean(dim=0)
    torch.testing.assert_close(joined(IMAGES), expected)
    torch.testing.assert_close(joined.classify_with_places(joined.maps(IMAGES))[0], expected)
    torch.testing.assert_close(joined.places(IMAGES), joined.classify_with_places(joined.maps(IMAGES))[1])


def test_activation_maps_come_from_the_maps_of_all_members():
    joined = Ensemble(members()).eval()
    wrapped = WithMaps(joined)
    with torch.inference_mode():
        maps = wrapped(IMAGES[:1])[1]
    wrapped.close()
    assert maps.shape[1] == 3 * members()[0].maps(IMAGES).shape[1]
    weights = head_weights(joined, IMAGES[:1])
    assert weights is not None and weights.shape == (3, maps.shape[1])
    heat = np.asarray(grad_cam(joined, IMAGES[:1], 2))
    assert heat.shape == (96, 64) and 0 <= heat.min() and heat.max() <= 1


def test_an_ensemble_is_saved_and_loaded_as_one_model(tmp_path):
    joined = Ensemble(members(Pooling.GEM)).eval()
    model_directory.save(tmp_path, joined, description(ensemble=3, pooling="gem"))
    model = model_directory.load(tmp_path)
    assert isinstance(model.network, Ensemble) and len(model.network.members) == 3
    torch.testing.assert_close(model.predict_logits(IMAGES), joined(IMAGES).detach())
    with pytest.raises(ConfigError, match="ensemble=1 must be at least 2 networks"):
        model_directory.save(tmp_path, joined, description(ensemble=1))


def test_one_network_or_one_without_places_makes_no_ensemble():
    for networks in (members()[:1], [build_model("alexnet", classes=3) for _ in range(2)]):
        with pytest.raises(ConfigError, match="an ensemble needs at least two networks with logits of places"):
            Ensemble(networks)
