"""Networks of timm behave like our own: feature maps, places, pooling, activation maps, published weights, export."""

from importlib.resources import files

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from benchmarks.studies.timm_inputs import described
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Pooling, find_architecture, fits_weights, timm_names
from mammopipe.training.networks import layers
from mammopipe.training.networks.grad_cam import grad_cam, head_weights
from mammopipe.training.networks.layers import Dropout, SharedBatchNormAct, SharedDropPath, share_batch_statistics
from mammopipe.training.networks.pretrained import find_weights
from mammopipe.training.networks.registry import build_model

FAMILIES = ("convnext_atto", "mobilenetv3_small_050", "regnetx_002", "mambaout_femto", "resnet50", "modified_cnn")
"""Normalisation behind the pooling; a head of its own; plain; channels last; torchvision's; our own."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mean_of_the_places_is_the_image(name):
    network = build_model(name, classes=3, seed=2).eval()
    with torch.no_grad():
        network.head.get_submodule("1").weight.mul_(30)
        images = torch.rand(2, 1, 96, 64)
        places, logits = network.places(images), network(images)
    assert places.shape[:2] == (2, 3) and places.shape[2:] == (3, 2)
    torch.testing.assert_close(places.mean(dim=(2, 3)), logits, rtol=1e-4, atol=1e-5)
    assert logits.std() > 0, "otherwise, constant logits would pass"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_classifiers_weights_make_the_activation_map(name):
    network = build_model(name, classes=3, seed=1).eval()
    image = torch.rand(1, 1, 96, 64)
    weights = head_weights(network, image)
    assert weights is not None and weights.shape[0] == 3
    heat = grad_cam(network, image, 1)
    assert heat.shape == (96, 64) and np.isfinite(heat).all()


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("name", ["convnext_atto", "modified_cnn"])
def test_every_pooling_learns_from_every_batch(name, pooling):
    network = build_model(name, classes=2, pooling=pooling, top_places=2)
    logits = network(torch.rand(2, 1, 96, 64))
    assert logits.shape == (2, 2)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_max_and_generalised_mean_judge_the_pooled_maps():
    network = build_model("modified_cnn", classes=2, seed=1).eval()
    maps = torch.rand(2, 256, 3, 2)
    for pooling, expected in (
        (Pooling.MAX, maps.amax(dim=(2, 3))),
        (Pooling.GEM, maps.pow(3).mean(dim=(2, 3)).pow(1 / 3)),
    ):
        network.pooling = pooling
        torch.testing.assert_close(network.classify(maps), network.head(expected))
        torch.testing.assert_close(network.classify_with_places(maps)[0], network.head(expected))


@pytest.mark.parametrize(("stride", "grid"), [(8, (12, 8)), (16, (6, 4))])
def test_maps_of_an_earlier_stage(stride, grid):
    network = build_model("convnext_atto", classes=3, stride=stride)
    images = torch.rand(1, 1, 96, 64)
    assert network.maps(images).shape[2:] == grid
    network(images).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters()), "later layers are dropped"


def test_a_vision_transformer_has_maps_at_its_patches():
    network = build_model("vit_tiny_patch16_224", classes=3, stride=16).eval()
    assert network.places(torch.rand(1, 1, 96, 64)).shape == (1, 3, 6, 4)


@pytest.mark.parametrize("prefix", ["", "module.", "model.module.", "body.trunk.network."])
def test_published_weights_fit_under_the_names_that_programs_give_them(tmp_path, prefix):
    published = timm.create_model("convnext_atto", num_classes=7)
    state = {f"{prefix}{key}": value.clone() for key, value in published.state_dict().items()}
    if prefix == "module.":
        torch.save({"epoch": 3, "state_dict": state}, tmp_path / "convnext_atto.pth")
    else:
        save_file(state, tmp_path / "convnext_atto.d2_in1k.safetensors")
    found = find_weights(tmp_path, "convnext_atto")
    assert found is not None
    network = build_model("convnext_atto", classes=3, weights=found.path)
    stem = network.body.get_parameter("trunk.network.stem.0.weight")
    assert torch.equal(stem, published.state_dict()["stem.0.weight"])
    norm = network.body.get_parameter("trunk.network.head.norm.weight")
    assert torch.equal(norm, published.state_dict()["head.norm.weight"]), "the norm of its head is part of the body"


def test_weights_of_another_network_are_refused(tmp_path):
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "convnext_atto.safetensors")
    with pytest.raises(ConfigError, match="do not fit cnn=convnext_atto|does not fit"):
        build_model("convnext_atto", classes=3, weights=tmp_path / "convnext_atto.safetensors")


def test_weights_of_no_known_network_are_refused(tmp_path):
    (tmp_path / "resnet5O-0676ba61.pth").write_bytes(b"weights")
    with pytest.raises(ConfigError, match="resnet5O-0676ba61.pth: weights of no known network"):
        find_weights(tmp_path, "resnet50")


@pytest.mark.parametrize(
    ("file", "name", "fits"),
    [
        ("resnet50-0676ba61.pth", "resnet50", True),
        ("resnet50.pth", "resnet50", True),
        ("resnet50.a1_in1k.safetensors", "resnet50", False),
        ("resnet50.a1_in1k.safetensors", "resnet50.a1_in1k", True),
        ("resnet50d-1234.pth", "resnet50", False),
        ("efficientnet-lite0-57934424.pth", "efficientnet_lite0", True),
        ("convnext_small.fb_in22k_ft_in1k_384.safetensors", "convnext_small", True),
        ("convnext_small.fb_in22k_ft_in1k_384.safetensors", "convnext_small.fb_in22k_ft_in1k_384", True),
        ("convnext_small.safetensors", "convnext_small.fb_in22k_ft_in1k_384", False),
        ("SHA256SUMS", "resnet50", False),
    ],
)
def test_a_file_fits_by_its_name(file, name, fits):
    assert fits_weights(file, name) is fits


def test_the_list_of_names_is_that_of_the_installed_timm():
    assert timm_names() == {*timm.list_models(), *timm.list_models(pretrained=True)}


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean convnext_small"):
        find_architecture("convnext_smal")


def test_an_option_that_a_network_does_not_support_is_refused():
    with pytest.raises(ConfigError, match="cnn=densenet121: .*drop_path_rate"):
        build_model("densenet121", classes=3, drop_path=0.2)
    with pytest.raises(ConfigError, match="stride=32: cnn=vgg11 has feature maps only at stride 4, 8, 16"):
        build_model("vgg11", classes=3)
    with pytest.raises(ConfigError, match="stride=4: cnn=resnet50"):
        build_model("resnet50", classes=3, stride=4)


def test_stochastic_depth_of_two_processes_is_that_of_one(monkeypatch):
    network = build_model("convnext_atto", classes=3, drop_path=0.5, dropout=0.3)
    assert any(isinstance(module, SharedDropPath) for module in network.modules())
    assert all(isinstance(module, Dropout) for module in network.modules() if isinstance(module, torch.nn.Dropout))
    layer, rows = SharedDropPath(0.5).train(), torch.rand(8, 5, 2, 2) + 1
    torch.manual_seed(0)
    whole = layer(rows)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(layers, "world", lambda rank=rank: (rank, 2))
        torch.manual_seed(0)
        parts.append(layer(rows[rank * 4 : rank * 4 + 4]))
    assert torch.equal(torch.cat(parts), whole)
    dropped = (whole == 0).flatten(1).all(dim=1)
    assert 0 < dropped.sum() < 8 and torch.equal(whole[~dropped], rows[~dropped] * 2)
    assert torch.equal(layer.eval()(rows), rows)


def test_normalisation_with_activation_is_shared_and_an_unknown_kind_is_refused(monkeypatch):
    monkeypatch.setattr(layers, "world", lambda: (0, 2))
    network = share_batch_statistics(build_model("mobilenetv3_small_050", classes=3), torch.device("cpu"))
    kinds = {type(module) for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert kinds == {SharedBatchNormAct}
    with pytest.raises(ConfigError, match="BatchNorm1d: several processes cannot share"):
        share_batch_statistics(torch.nn.Sequential(torch.nn.BatchNorm1d(3)), torch.device("cpu"))


def test_every_name_has_a_line_in_the_table_of_inputs():
    lines = (files("mammopipe.training.model") / "timm_tables" / "inputs.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == sorted(name for name in timm_names() if "." not in name)


@pytest.mark.parametrize("name", ["inception_v3", "resnet50_clip", "vit_tiny_patch16_224", "test_convnext"])
def test_the_table_states_the_image_sizes_of_a_network(name):
    own = find_architecture(name)
    assert described(name) == f"{name} {','.join(map(str, own.strides))} {own.smallest_side} {own.divisor}"


def test_an_image_that_is_too_small_is_refused_before_the_network_fails():
    own, network = find_architecture("inception_v3"), build_model("inception_v3", classes=2, stride=16).eval()
    assert own.smallest_side == 75
    with pytest.raises(ConfigError, match="cnn=inception_v3 does not take images of 96 x 64 pixels: .* at least 75"):
        own.require_size(96, 64)
    assert network(torch.rand(1, 1, 75, 75)).shape == (1, 2)


def test_sides_that_patches_do_not_fill_are_refused():
    own = find_architecture("vit_tiny_patch16_224")
    own.require_size(96, 64)
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224 does not take images of 96 x 72 .* a multiple of 16"):
        own.require_size(96, 72)


@pytest.mark.parametrize(
    ("name", "stride"),
    [("vit_small_patch32_224", 32), ("eva02_tiny_patch14_224", 14), ("inception_next_atto", 32)],
    ids=["its output is a list of patches", "its patches are 14 pixels wide", "its pooling cannot be left out"],
)
def test_maps_are_taken_from_the_last_stage_where_the_output_has_none(name, stride):
    own = find_architecture(name)
    assert stride in own.strides
    network = build_model(name, classes=2, stride=stride).eval()
    images = torch.rand(1, 1, 5 * stride, 6 * stride)
    places = network.places(images)
    assert places.shape == (1, 2, 5, 6)
    torch.testing.assert_close(places.mean(dim=(2, 3)), network(images), rtol=1e-3, atol=1e-4)
    network(images).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters()), "what is not used is left out"


def test_a_network_without_maps_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"cnn=gemma4_vit_167m: it has no feature maps"):
        find_architecture("gemma4_vit_167m")


@pytest.mark.parametrize("name", ["mvitv2_tiny", "beit_base_patch16_224", "mixer_s32_224"])
def test_a_network_of_one_size_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: it accepts only images of a few sizes, such as 224 x 224 pixels"):
        find_architecture(name)
