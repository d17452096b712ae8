"""Training starts from a packed model: its files are checked, its network must be the same, its data declared."""

import json

import pytest
import torch

from mammopipe.processing.errors import ConfigError
from mammopipe.training.fitting.checkpoint import StopRequest
from mammopipe.training.fitting.distributed import ALONE
from mammopipe.training.model.archive import pack
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.registry import build_model
from mammopipe.training.train import read_inputs, train
from mammopipe.training.trial import build_network
from tests.training.conftest import describe

SETTINGS = {"epochs": "1", "head_epochs": "0", "warmup_epochs": "0", "precision": "float32"}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def start(make_job, tmp_path):
    """Return a function that writes a job's inputs, with a packed model in the weights channel."""

    def make(declared=True, digest="other", **settings):
        paths = make_job(**SETTINGS | settings)
        folder = tmp_path / "own"
        network = build_model("modified_cnn", classes=["normal", "benign", "malignant"], seed=7)
        model_directory.save(folder, network, describe("second", data_digest=digest))
        packed = paths.channel("weights") / "model.tar.gz"
        pack(folder, packed)
        if declared:
            packed.with_name("model.tar.gz.json").write_text(json.dumps({"datasets": ["another clinic"]}))
        return paths, network

    return make


def test_every_weight_is_that_of_the_model_and_its_origin_is_written_down(start):
    paths, own = start()
    inputs = read_inputs(paths)
    taken = build_network(inputs.config, inputs.classes, inputs.weights).state_dict()
    assert all(torch.equal(value, taken[name]) for name, value in own.state_dict().items())
    train(paths, inputs, ALONE, StopRequest())
    description = model_directory.read_description(paths.model)
    weights = description["pretrained_weights"]
    assert description["initialisation"] == "pretrained" and weights["file"] == "model.tar.gz"
    assert weights["declared"] == {"datasets": ["another clinic"]}
    assert weights["model"]["architecture"] == "modified_cnn" and weights["model"]["data_digest"] == "other"
    assert not torch.equal(model_directory.load(paths.model).network.state_dict()["body.head.1.weight"],
                           own.state_dict()["body.head.1.weight"])  # fmt: skip


def test_a_network_of_breasts_starts_from_one_and_from_one_of_images(start, tmp_path):
    settings = {"level": "breast", "other_side": "true"}
    paths, of_images = start(**settings)
    inputs = read_inputs(paths)
    network = build_network(inputs.config, inputs.classes, inputs.weights)
    taken = network.state_dict()
    assert all(torch.equal(value, taken[name]) for name, value in of_images.state_dict().items())
    torch.nn.init.normal_(network.views.score.weight)
    torch.nn.init.eye_(network.views.other.weight)
    folder = tmp_path / "breasts"
    views = {"level": "breast", "views": {"other_side": True, "mask": {"absent": 0, "own": 1, "other": 2}}}
    model_directory.save(folder, network, describe("second", data_digest="other") | views)
    pack(folder, paths.channel("weights") / "model.tar.gz")
    inputs = read_inputs(paths)
    taken = build_network(inputs.config, inputs.classes, inputs.weights).state_dict()
    assert all(torch.equal(value, taken[name]) for name, value in network.state_dict().items())
    train(paths, inputs, ALONE, StopRequest())
    assert model_directory.read_description(paths.model)["initialisation"] == "pretrained"


def test_another_question_gets_a_new_classifier(start):
    paths, own = start(question="binary")
    inputs = read_inputs(paths)
    network = build_network(inputs.config, inputs.classes, inputs.weights)
    assert network.head.get_submodule("1").weight.shape[0] == 2
    first = "body.features.0.0.weight"
    assert torch.equal(network.state_dict()[first], own.state_dict()[first])


def test_a_model_of_other_images_must_declare_them(start):
    paths, _ = start(declared=False)
    with pytest.raises(
        ConfigError, match="model.tar.gz: this model was trained on other images .* declare their datasets"
    ):
        read_inputs(paths)


def test_a_model_of_the_same_images_needs_no_declaration(start, make_job):
    digest = read_inputs(make_job(**SETTINGS)).data_digest
    paths, _ = start(declared=False, digest=digest)
    assert read_inputs(paths).weights.model["data_digest"] == digest


def test_a_model_of_another_network_is_refused(start):
    paths, _ = start(cnn="resnet50")
    with pytest.raises(ConfigError, match="cnn=resnet50 can only start from a model of the same network"):
        read_inputs(paths)


def test_a_model_beside_other_weights_is_refused(start):
    paths, own = start()
    torch.save(own.body.state_dict(), paths.channel("weights") / "modified_cnn.pth")
    with pytest.raises(ConfigError, match="modified_cnn.pth, model.tar.gz all fit"):
        read_inputs(paths)


def test_an_altered_model_is_refused(start, tmp_path):
    paths, _ = start()
    weights = tmp_path / "own" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    pack(tmp_path / "own", paths.channel("weights") / "model.tar.gz")
    with pytest.raises(
        ConfigError, match="model.tar.gz: not a model of this version: weights.safetensors: its SHA-256"
    ):
        read_inputs(paths)
