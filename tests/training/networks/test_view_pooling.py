"""Breasts judged by all their views: order, missing views, the other side, and the same numbers without torch."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.views.attention import ViewAttention, ViewMask
from mammopipe.training.networks.grad_cam import WithMaps
from mammopipe.training.networks.network import ImageNetwork
from mammopipe.training.networks.pooling import Views
from mammopipe.training.networks.registry import build_model

NETWORKS = ["modified_cnn", "resnet18.tv_in1k"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _network(name: str = "modified_cnn", *, other_side: bool = True) -> ImageNetwork:
    """Return a network whose attention is not uniform and that uses the other side."""
    network = build_model(name, classes=3, level=Level.BREAST, other_side=other_side, seed=3)
    assert network.views is not None
    torch.manual_seed(1)
    torch.nn.init.normal_(network.views.score.weight, std=3.0)
    if network.views.other is not None:
        torch.nn.init.normal_(network.views.other.weight)
    return network.eval()


def _views(sides: list[int], *, seed: int = 0) -> Views:
    images = torch.rand((1, len(sides), 1, 96, 64), generator=torch.Generator().manual_seed(seed))
    return Views(images, torch.tensor([sides]), torch.zeros((1, len(sides)), dtype=torch.bool))


def _ordered(views: Views, order: list[int]) -> Views:
    return Views(views.images[:, order], views.sides[:, order], views.mirrored[:, order])


@torch.inference_mode()
def test_the_order_of_the_views_changes_nothing() -> None:
    network, views = _network(), _views([1, 1, 2, 2])
    judged = network(views)

    torch.testing.assert_close(network(_ordered(views, [3, 1, 0, 2])), judged)
    assert not torch.allclose(network(_ordered(views, [0, 1])), judged, atol=1e-4), "the other side counts"


@torch.inference_mode()
def test_a_masked_view_equals_a_missing_view() -> None:
    network, views = _network(), _views([1, 2, 1])
    masked = Views(views.images, torch.tensor([[1, 2, 0]]), views.mirrored)

    torch.testing.assert_close(network(masked), network(_ordered(views, [0, 1])))
    padded = Views.stack([_ordered(views, [0, 1]), views])
    torch.testing.assert_close(network(padded), torch.cat([network(_ordered(views, [0, 1])), network(views)]))


@torch.inference_mode()
def test_one_view_has_the_logits_of_the_image() -> None:
    network, views = _network(), _views([1])

    torch.testing.assert_close(network(views), network(views.images[0]))


@torch.inference_mode()
def test_a_new_network_judges_by_the_mean_of_the_own_views() -> None:
    network, views = (
        build_model("modified_cnn", classes=3, level=Level.BREAST, other_side=True).eval(),
        _views([1, 1, 2]),
    )

    torch.testing.assert_close(network(views)[0], network(views.images[0, :2]).mean(dim=0))


@torch.inference_mode()
def test_a_mirrored_view_counts_as_the_mean_of_both_images() -> None:
    network, views = _network(), _views([1])
    mirrored = Views(views.images, views.sides, torch.ones((1, 1), dtype=torch.bool))

    both = (network(views.images[0]) + network(views.images[0].flip(2))) / 2
    torch.testing.assert_close(network(mirrored), both)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("other_side", [True, False])
@torch.inference_mode()
def test_torch_and_numpy_agree(name: str, other_side: bool, tmp_path: Path) -> None:
    network, views = _network(name, other_side=other_side), _views([1, 2, 1, 2])
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    digest = hashlib.sha256((tmp_path / "weights.safetensors").read_bytes()).hexdigest()
    attention = ViewAttention.read(
        tmp_path,
        {"level": "breast", "views": {"other_side": other_side, "mask": {}}, "weights_sha256": digest},
    )
    wrapped = WithMaps(network)
    logits, maps = wrapped(views.images[0])
    wrapped.close()

    assert attention is not None
    served = attention.breast_logits(
        logits.double().numpy(),
        maps.double().mean(dim=(2, 3)).numpy(),
        [ViewMask(side) for side in views.sides[0].tolist()],
    )
    np.testing.assert_allclose(served, network(views)[0].numpy(), atol=1e-4)


def test_a_classifier_of_several_layers_cannot_pool_views() -> None:
    with pytest.raises(ConfigError, match="level=breast: cnn=alexnet"):
        build_model("alexnet", classes=3, level=Level.BREAST)


def test_the_other_side_gets_a_gradient_and_absent_places_none() -> None:
    network = _network().train()
    views = _views([1, 2, 0])
    images = views.images.requires_grad_(True)

    network(Views(images, views.sides, views.mirrored)).sum().backward()

    assert images.grad is not None
    moved = images.grad[0].abs().sum(dim=(1, 2, 3))
    assert moved[0] > 0
    assert moved[1] > 0
    assert moved[2] == 0
