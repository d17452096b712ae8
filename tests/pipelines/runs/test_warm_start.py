"""A run that starts from a packed model is checked before its first step; its channel reads the model's folder."""

import pytest

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.model_uri import folder_of
from mammopipe.pipelines.graph.parameters import Parameters
from mammopipe.pipelines.runs import preflight
from mammopipe.pipelines.runs.launch import start
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.archive import pack
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.registry import build_model
from tests.training.conftest import describe

MODEL_URI = "s3://films/executions/x/model/model.tar.gz"


@pytest.fixture
def packed(tmp_path):
    folder = tmp_path / "own"
    model_directory.save(folder, build_model("modified_cnn", classes=3, seed=7), describe("second"))
    pack(folder, tmp_path / "model.tar.gz")
    return tmp_path / "model.tar.gz"


def test_every_candidate_must_be_of_the_models_network(packed, tmp_path):
    preflight.check(PipelineConfig(cnns=("modified_cnn",)), "", str(packed), {}, tmp_path / "runs")
    mixed = PipelineConfig(cnns=("modified_cnn", "resnet50"))
    with pytest.raises(ConfigError, match="a model of modified_cnn; cnns=resnet50 cannot start from it"):
        preflight.check(mixed, "", str(packed), {}, tmp_path / "runs")
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="model.tar.gz: cannot be unpacked"):
        preflight.check(PipelineConfig(cnns=("modified_cnn",)), "", str(packed), {}, tmp_path / "runs")


def test_the_channel_reads_the_models_folder():
    assert folder_of(MODEL_URI) == "s3://films/executions/x/model" == folder_of("s3://films/executions/x/model/")
    with pytest.raises(ConfigError, match="must lie in a folder"):
        folder_of("s3://films/model.tar.gz")
    parameters = Parameters.of(PipelineConfig(init=MODEL_URI))
    assert parameters.weights_uri.default_value == "s3://films/executions/x/model"
    assert Parameters.of(PipelineConfig()).weights_uri is None
    assert Parameters.of(PipelineConfig(init="model.tar.gz")).weights_uri.default_value.endswith("/weights")


def test_a_run_starts_from_one_thing(packed, tmp_path):
    with pytest.raises(ConfigError, match="training starts from one of them"):
        start(PipelineConfig(init=MODEL_URI), weights=str(packed), runs=tmp_path / "runs")


def test_every_file_of_weights_must_fit_a_candidate(tmp_path):
    config, weights = PipelineConfig(cnns=("modified_cnn",)), tmp_path / "weights"
    weights.mkdir()
    (weights / "modified_cnn.pth").touch()
    preflight.check(config, "", str(weights), {}, tmp_path / "runs")
    (weights / "convnext_atto.ckpt").touch()
    with pytest.raises(ConfigError, match=r"convnext_atto\.ckpt fit none of the candidates modified_cnn"):
        preflight.check(config, "", str(weights), {}, tmp_path / "runs")
