"""The networks: any size, one structure, the same from the same seed; pretrained weights fit or are refused by key."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import alexnet, resnet50

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256
from mammopipe.training.model.architecture import Cnn, Pooling
from mammopipe.training.networks import layers
from mammopipe.training.networks.layers import IMAGENET_DEVIATION, IMAGENET_MEAN, Dropout
from mammopipe.training.networks.pretrained import find_weights, read_weights
from mammopipe.training.networks.registry import NAMES, build_model

PUBLISHED_NAMES = "56e888a56e06aa25f3d7c351f1d07cfd52106a7a2d880f25944cceb293419791"
"""SHA-256 of the published names, sorted, each with its shape."""


def test_the_registry_is_that_of_the_config():
    assert set(NAMES) == set(Cnn)


@pytest.mark.parametrize("name", NAMES)
def test_any_size_and_one_or_three_channels(name):
    network = build_model(name, classes=["a", "b", "c"]).eval()
    for size in ((64, 64), (65, 130), (160, 96)):
        images = torch.rand(2, 1, *size)
        with torch.no_grad():
            logits = network(images)
            assert logits.shape == (2, 3) and logits.dtype == torch.float32
            torch.testing.assert_close(network(images.repeat(1, 3, 1, 1)), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_head_and_map_layer_are_what_they_say(name):
    network = build_model(name, classes=4).eval()
    seen = []
    network.cam_layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(torch.rand(1, 1, 128, 128))
    assert seen[0].ndim == 4 and min(seen[0].shape[2:]) >= 4
    head = [parameter for parameter in network.head.parameters()]
    assert [parameter.shape[0] for parameter in head] == [4, 4]


@pytest.mark.parametrize(
    ("shape", "rule"), [((1, 2, 64, 64), "N, 1, H, W"), ((1, 64, 64), "N, 1, H, W"), ((1, 1, 63, 64), "at least 64")]
)
def test_another_shape_is_refused(shape, rule):
    with pytest.raises(ValueError, match=rule):
        build_model("modified_cnn", classes=3)(torch.rand(shape))


def test_images_are_normalised_inside():
    network = build_model("resnet50", classes=3)
    images = torch.rand(2, 1, 64, 64)
    expected = np.stack(
        [
            (images[:, 0].numpy() - mean) / deviation
            for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)
        ],
        axis=1,
    )
    np.testing.assert_allclose(network.normalise(images).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_efficientnet_lite0_gets_8_bit_values_minus_127_divided_by_128():
    network = build_model("efficientnet_lite0", classes=3)
    images = torch.arange(256, dtype=torch.float32).reshape(1, 1, 16, 16) / 255
    expected = ((images * 255 - 127) / 128).expand(1, 3, 16, 16)
    torch.testing.assert_close(network.normalise(images), expected, rtol=0, atol=1e-6)


def test_the_names_and_shapes_of_efficientnet_lite0_are_those_of_the_published_file():
    """The published file is `efficientnet-lite0-57934424.pth`, whose SHA-256 begins with these digits."""
    state = build_model("efficientnet_lite0", classes=1000).body.state_dict()
    shapes = {name.replace("_fc.1.", "_fc."): tuple(value.shape) for name, value in state.items()}
    listed = "\n".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
    assert len(state) == 296
    assert hashlib.sha256(listed.encode()).hexdigest() == PUBLISHED_NAMES


@pytest.mark.parametrize("side", [64, 65])
def test_strides_are_padded_at_the_end_as_tensorflow_does(side):
    stem = build_model("efficientnet_lite0", classes=3).body.get_submodule("_conv_stem")
    images = torch.rand(1, 3, side, side)
    padded = torch.nn.functional.pad(images, (0, 1, 0, 1))
    expected = torch.nn.functional.conv2d(padded, stem.weight, stride=2)
    assert torch.equal(stem(images), expected)


def test_a_published_name_with_hyphens_is_found(tmp_path):
    path = tmp_path / "efficientnet-lite0-00000000.pth"
    state = build_model("efficientnet_lite0", classes=1000, seed=3).body.state_dict()
    torch.save({name.replace("_fc.1.", "_fc."): value for name, value in state.items()}, path)
    path = path.rename(tmp_path / f"efficientnet-lite0-{sha256(path)[:8]}.pth")
    found = find_weights(tmp_path, "efficientnet_lite0")
    assert found.path == path and find_weights(tmp_path, "resnet50") is None
    network = build_model("efficientnet_lite0", classes=3, weights=found.path)
    loaded = network.body.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if not name.startswith("_fc."))


def test_before_its_final_downsampling_efficientnet_lite0_has_four_times_the_places(tmp_path):
    whole = build_model("efficientnet_lite0", classes=1000, seed=3).eval()
    path = tmp_path / "efficientnet_lite0.pth"
    torch.save({name.replace("_fc.1.", "_fc."): value for name, value in whole.body.state_dict().items()}, path)
    network = build_model("efficientnet_lite0", classes=3, weights=path, stride=16).eval()
    images, kept = torch.rand(1, 1, 96, 64), []
    whole.body.get_submodule("_blocks.10").register_forward_hook(lambda *given: kept.append(given[2]))
    with torch.no_grad():
        whole(images)
        maps = network.maps(images)
    assert maps.shape == (1, 224, 6, 4)
    torch.testing.assert_close(maps[0, :112, 2, 1], kept[0][0, :, 1:4, :3].mean(dim=(1, 2)))
    torch.testing.assert_close(maps[0, 112:, 0, 0], kept[0][0, :, :4, :4].mean(dim=(1, 2)))
    assert network.places(images).shape == (1, 3, 6, 4)


def test_a_stride_that_a_network_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="stride=16: cnn=resnet50 has feature maps only at stride 32"):
        build_model("resnet50", classes=3, stride=16)


def test_a_network_without_places_has_no_peaks():
    with pytest.raises(ConfigError, match="pooling=peaks: cnn=alexnet has no logits of single places"):
        build_model("alexnet", classes=3, pooling=Pooling.PEAKS)


def test_only_the_seed_determines_the_initial_weights():
    torch.manual_seed(1)
    first = build_model("modified_cnn", classes=3, seed=5).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn, "building must not draw from the global generator"
    again, other = (build_model("modified_cnn", classes=3, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["body.head.1.weight"], other["body.head.1.weight"])


def test_the_modified_cnn_is_small():
    size = sum(parameter.numel() for parameter in build_model("modified_cnn", classes=3).parameters())
    assert 1_000_000 <= size <= 3_000_000


@pytest.mark.parametrize(("name", "classes", "rule"), [("vgg", 3, "did you mean vgg19"), ("alexnet", 1, "two")])
def test_what_cannot_be_built_is_refused(name, classes, rule):
    with pytest.raises(ConfigError, match=rule):
        build_model(name, classes=classes)


def test_dropout_is_set_everywhere():
    for name in NAMES:
        rates = {
            module.p
            for module in build_model(name, classes=3, dropout=0.25).modules()
            if isinstance(module, torch.nn.Dropout)
        }
        assert rates == {0.25}


def test_dropout_of_two_processes_is_that_of_one(monkeypatch):
    layer, features = Dropout(0.5).train(), torch.rand(8, 100)
    torch.manual_seed(0)
    whole = layer(features)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(layers, "world", lambda rank=rank: (rank, 2))
        torch.manual_seed(0)
        parts.append(layer(features[rank * 4 : rank * 4 + 4]))
    assert torch.equal(torch.cat(parts), whole)
    assert 0.4 < (whole == 0).float().mean() < 0.6
    assert torch.equal(layer.eval()(features), features)


@pytest.mark.parametrize(
    ("name", "original", "head"), [("alexnet", alexnet, "classifier.6"), ("resnet50", resnet50, "fc")]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_staged_weights_are_loaded_all_but_the_classifier(tmp_path, name, original, head, suffix):
    state = original(weights=None).state_dict()
    path = tmp_path / f"{name}{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    found = find_weights(tmp_path, name)
    assert found is not None and found.to_json() == {"file": path.name, "sha256": sha256(path), "declared": None}
    network = build_model(name, classes=3, weights=path)
    loaded = network.body.state_dict()
    body = [key for key in state if not key.startswith(head)]
    assert body and all(torch.equal(loaded[key], state[key]) for key in body)


@pytest.fixture
def weights(tmp_path):
    """A file of weights for `modified_cnn`, written by a function that may spoil the state first."""

    def write(spoil=lambda state: None):
        state = build_model("modified_cnn", classes=9, seed=1).body.state_dict()
        spoil(state)
        torch.save(state, tmp_path / "modified_cnn.pth")
        return tmp_path / "modified_cnn.pth"

    return write


KEY = "features.0.0.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop(KEY), f"lacks {KEY}"),
        (lambda state: state.update(extra=torch.zeros(1)), "has unknown extra"),
        (lambda state: state.update({KEY: torch.zeros(2, 2)}), f"misshapen {KEY}"),
        (lambda state: state[KEY].view(-1)[-1:].fill_(torch.nan), f"not finite {KEY}"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_key(weights, spoil, message):
    with pytest.raises(ConfigError, match=message):
        build_model("modified_cnn", classes=3, weights=weights(spoil))


def test_old_files_without_batch_counters_fit(weights):
    def drop_counters(state):
        for key in [key for key in state if key.endswith("num_batches_tracked")]:
            del state[key]

    network = build_model("modified_cnn", classes=3, weights=weights(drop_counters))
    expected = build_model("modified_cnn", classes=9, seed=1)
    assert torch.equal(network.body.get_parameter(KEY), expected.body.get_parameter(KEY))


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x02cos\nsystem\n(S'false'\ntR."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"alexnet{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a file of weights") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_pickled_object_is_not_a_state_dict(tmp_path):
    torch.save([1, 2], tmp_path / "alexnet.pth")
    with pytest.raises(ConfigError, match="must hold a state dict"):
        read_weights(tmp_path / "alexnet.pth")


def test_a_checkpoint_of_lightning_is_read_and_its_objects_never_are(weights):
    written = weights()
    state = torch.load(written)
    path = written.rename(written.with_name("modified_cnn-lightning.ckpt"))
    torch.save({"epoch": 3, "state_dict": {f"model.{name}": value for name, value in state.items()}}, path)
    assert find_weights(path.parent, "modified_cnn").path == path
    network = build_model("modified_cnn", classes=3, weights=path)
    assert torch.equal(network.body.get_parameter(KEY), state[KEY])
    torch.save({"state_dict": state, "hyper_parameters": SimpleNamespace(rate=1)}, path)
    with pytest.raises(ConfigError, match="save its state dict alone"):
        read_weights(path)


def test_the_sum_in_name_or_table_must_be_that_of_the_file(tmp_path):
    assert find_weights(tmp_path, "alexnet") is None
    assert find_weights(tmp_path / "absent", "alexnet") is None
    path = tmp_path / "alexnet-owt-00000000.pth"
    path.write_bytes(b"weights")
    with pytest.raises(ConfigError, match="must begin with 00000000"):
        find_weights(tmp_path, "alexnet")
    path = path.rename(tmp_path / f"alexnet-owt-{sha256(path)[:8]}.pth")
    (tmp_path / "SHA256SUMS").write_text(f"{sha256(path)}  {path.name}\n{'0' * 64}  other.pth\n")
    assert find_weights(tmp_path, "alexnet").sha256 == sha256(path)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64} *{path.name}\n")
    with pytest.raises(ConfigError, match="must begin with 0000"):
        find_weights(tmp_path, "alexnet")


def test_two_files_for_one_network_are_refused(tmp_path):
    for name in ("alexnet-a.pth", "alexnet-b.safetensors"):
        (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(ConfigError, match="all fit cnn=alexnet; stage one"):
        find_weights(tmp_path, "alexnet")
