"""One network of each of six families: trained, exported, compared with torch, explained, supervised, pooled."""

import numpy as np
import pytest
import torch

from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.engines.factory import open_engine
from mammopipe.training.fitting.checkpoint import StopRequest
from mammopipe.training.fitting.distributed import ALONE
from mammopipe.training.fitting.head_only import HeadAlone, ImageMaps
from mammopipe.training.model.architecture import Pooling
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.grad_cam import grad_cam, head_weights
from mammopipe.training.networks.openvino_export import export_network
from mammopipe.training.train import read_inputs, train

FAMILIES = {
    "resnet10t": Pooling.MEAN,
    "convnext_atto": Pooling.GEM,
    "mobilenetv3_small_050": Pooling.TOP,
    "regnetx_002": Pooling.PEAKS,
    "densenet121": Pooling.MAX,
    "efficientnet_b0": Pooling.MEAN,
}
"""The smallest network of each family, and the pooling that it is trained and exported with."""
SLOW_TO_EXPORT = ("densenet121",)
"""Their export takes six seconds on one core; `benchmarks.studies.network_families` also exports them."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_trained_exported_and_explained(make_job, name):
    paths = make_job(
        cnn=name, epochs="1", head_epochs="0", warmup_epochs="0", learning_rate="0.001", precision="float32",
        pooling=FAMILIES[name], location_weight="1", top_places="2", noise="0", holes="0",
    )  # fmt: skip
    inputs = read_inputs(paths)
    train(paths, inputs, ALONE, StopRequest())
    model = model_directory.load(paths.model)
    images = torch.stack([inputs.validation[index][0] for index in range(len(inputs.validation))])
    logits = model.predict_logits(images).double().numpy()
    assert np.ptp(logits, axis=0).max() > 1e-4, "otherwise, constant logits would pass"

    if name not in SLOW_TO_EXPORT:
        _check_export(paths, model, images, logits)
    _check_poolings(model.network, images[:2])
    head, maps = HeadAlone(model.network), ImageMaps(model.network, inputs.validation.part([0, 1]))
    torch.testing.assert_close(head(maps.maps), model.network(images[:2]), rtol=1e-3, atol=1e-4)


def _check_export(paths, model, images, logits):
    """Check that the exported network's logits are those of torch, and that its heatmap is the Grad-CAM."""
    mammograms = images[:, 0].numpy()
    done = export_network(model, paths.model, model.description, lambda at: (mammograms[place] for place in at), logits)
    assert done.shipped and done.activation_map == "head", done.reason
    model_directory.write_description(paths.model, {**model.description, "engines": done.described(paths.model)})
    served = open_engine(
        paths.model, model_directory.read_description(paths.model), EngineSettings(EngineKind.OPENVINO)
    )
    forward = served.run(mammograms[0], exact=True)
    np.testing.assert_allclose(forward.logits, logits[0], rtol=1e-3, atol=1e-3)
    expected = grad_cam(model.network, images[:1], 2)
    np.testing.assert_allclose(served.activation_map(mammograms[0], forward, 2), expected, atol=5e-3)


def _check_poolings(network, images):
    """Check for every pooling that the places give the image's logits, and the classifier's weights the heatmap."""
    with torch.inference_mode():
        maps = network.maps(images)
    for pooling in Pooling:
        network.pooling = pooling
        with torch.inference_mode():
            logits, (from_maps, places) = network(images), network.classify_with_places(maps)
        torch.testing.assert_close(from_maps, logits, rtol=1e-3, atol=1e-4)
        assert places.shape[:2] == (2, 3)
        if pooling is Pooling.MEAN:
            torch.testing.assert_close(places.mean(dim=(2, 3)), logits, rtol=1e-3, atol=1e-4)
        assert head_weights(network, images[:1]) is not None, pooling
