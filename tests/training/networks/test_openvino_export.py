"""An export that differs from torch is reported and not shipped; maps of pooled networks need no backward pass."""

import copy

import numpy as np
import pytest
import torch

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.training.model.architecture import Pooling, Precision
from mammopipe.training.model.description import NETWORK_FILES
from mammopipe.training.model.openvino_runtime import fastest_precision
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.grad_cam import head_weights
from mammopipe.training.networks.openvino_export import export_network
from mammopipe.training.networks.registry import build_model

IMAGES = np.random.default_rng(5).random((3, 96, 64), np.float32)


def read(places):
    return (IMAGES[place] for place in places)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = PreprocessConfig(height=96, width=64)
    model_directory.save(
        folder,
        build_model("modified_cnn", classes=3, seed=1),
        {
            "architecture": "modified_cnn",
            "classes": ["normal", "benign", "malignant"],
            "input": {"height": 96, "width": 64},
            "preprocess": config.to_json(),
            "initialisation": "scratch",
            "pretrained_weights": None,
            "calibration": {"temperature": 1.0},
            "operating_points": {},
            "training": {},
            "metrics": {},
            "versions": {},
        },
    )
    return model_directory.load(folder)


@pytest.mark.parametrize(
    ("shift", "threshold", "reason"),
    [
        (1.0, 0.9, "Not shipped: probabilities differ from torch in float32 by"),
        # Within the tolerance, but the threshold lies between the two scores.
        (0.02, None, "Not shipped: 3 of 3 validation images have another decision"),
    ],
)
def test_an_export_that_differs_is_not_shipped(model, tmp_path, shift, threshold, reason):
    logits = model.predict_logits(torch.from_numpy(IMAGES)[:, None]).double().numpy()
    wrong = logits + [0, 0, shift]
    scores = [np.exp(each[:, 2]) / np.exp(each).sum(axis=1) for each in (logits, wrong)]
    at = {"threshold": threshold or (scores[0].max() + scores[1].min()) / 2}
    described = model.description | {"operating_points": {"sensitivity": at}}
    outcome = export_network(model, tmp_path, described, read, wrong)
    assert not outcome.shipped and reason in outcome.reason
    assert outcome.described(tmp_path) == {} and list(tmp_path.iterdir()) == []


def test_an_export_that_agrees_only_in_float32_is_shipped_in_float32(model, tmp_path):
    steep, images = copy.deepcopy(model), torch.from_numpy(IMAGES)[:, None]
    head = list(steep.network.head.modules())[-1]
    with torch.no_grad():
        # Large logits that nearly cancel out, so that 16 bits are not enough.
        head.weight.mul_(1000)
        head.bias.sub_(steep.predict_logits(images).mean(dim=0))
    logits = steep.predict_logits(images).double().numpy()
    outcome = export_network(steep, tmp_path, model.description, read, logits)
    assert outcome.shipped and outcome.described(tmp_path)["openvino"]["precision"] == outcome.precision == "float32"
    assert fastest_precision() is Precision.FLOAT32 or "In bfloat16: Not shipped" in outcome.reason


@pytest.mark.parametrize(
    ("name", "pooling", "pooled"),
    [
        ("modified_cnn", "mean", True),
        ("modified_cnn", "peaks", True),
        ("resnet50", "mean", True),
        ("efficientnet_lite0", "mean", True),
        ("efficientnet_lite0", "peaks", True),
        ("modified_cnn", "top", True),
        ("efficientnet_lite0", "top", True),
        ("alexnet", "mean", False),
    ],
)
def test_pooled_networks_need_no_backward_pass(name, pooling, pooled):
    """Max pooling and odd sizes included: 100 x 72 leaves modified_cnn rows that its last pooling drops."""
    network = build_model(name, classes=3, seed=2, pooling=Pooling(pooling)).eval()
    for height, width in ((96, 64), (100, 72)):
        found = head_weights(network, torch.rand(1, 1, height, width))
        assert (found is not None) == pooled
        assert found is None or np.array_equal(found, list(network.head.modules())[-1].weight.detach().numpy())


def test_files_of_a_shipped_network(model, tmp_path):
    logits = model.predict_logits(torch.from_numpy(IMAGES)[:, None]).double().numpy()
    outcome = export_network(model, tmp_path, model.description, read, logits)
    stated = outcome.described(tmp_path)["openvino"]
    assert set(stated["files"]) == {path.name for path in tmp_path.iterdir()} == {*NETWORK_FILES, "head.safetensors"}
    assert stated["images"] == 3 and 0 < stated["largest_difference"] < 1e-2
    engines = outcome.described(tmp_path)
    files = {**model.description["files"], **engines["openvino"]["files"]}
    model_directory.check_description(model.description | {"engines": engines, "files": files}, tmp_path)
