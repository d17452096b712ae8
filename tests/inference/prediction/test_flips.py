"""A craniocaudal view is judged together with its mirror image: in training, evaluation, export and serving alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mammopipe.inference.engines.base import EngineKind, EngineSettings, Forward
from mammopipe.inference.engines.flips import run_with_mirror_image
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.datasets.manifest import Label, Laterality, Split, View, read_manifest, write_manifest
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.film import make_film
from mammopipe.training.evaluation.batch_prediction import logits_and_features, predict_split
from mammopipe.training.fitting.checkpoint import StopRequest
from mammopipe.training.fitting.distributed import ALONE
from mammopipe.training.metrics.classification import macro_auc
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.near_threshold import NearThreshold
from mammopipe.training.model.predictions import ValidationPredictions
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.openvino_export import export_network
from mammopipe.training.networks.registry import build_model
from mammopipe.training.train import read_inputs, train
from tests.training.conftest import SHAPE, describe
from tests.training.conftest import make_job as make_job

CLASSES = ["normal", "benign", "malignant"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same exported network, with flips and without."""
    network = build_model("modified_cnn", classes=CLASSES, seed=3).eval()
    with torch.no_grad():
        network.head.get_submodule("1").weight.mul_(300)
    # A sawtooth along the rows, which differs from its mirror image.
    saw = ((np.arange(SHAPE[0]) % 16) / 16).astype(np.float32)[:, None]
    mammograms = saw * np.random.default_rng(5).random((3, 1, SHAPE[1]), np.float32)
    tensors = torch.from_numpy(mammograms)[:, None]
    for name, flips in (("plain", False), ("flips", True)):
        at = tmp_path_factory.getbasetemp() / "flipped" / name
        model_directory.save(at, network, describe("first") | {"test_flips": flips})
        model = model_directory.load(at)
        plain, mirror = (model.predict_logits(images).double().numpy() for images in (tensors, tensors.flip(2)))
        mean = (plain + mirror) / 2
        read = lambda places: (mammograms[place] for place in places)  # noqa: E731
        wrong = export_network(model, at, model.description, read, mean)
        done = export_network(model, at, model.description, read, mean, np.ones(3, bool))
        assert done.shipped, done.reason
        assert wrong.largest_difference > 4 * done.largest_difference, "the mean is not what a single image gives"
        model_directory.write_description(at, {**model.description, "engines": done.described(at)})
    return tmp_path_factory.getbasetemp() / "flipped"


@pytest.mark.parametrize("kind", [EngineKind.OPENVINO, EngineKind.TORCH])
@pytest.mark.parametrize("view", [View.CC, View.MLO, None])
def test_only_craniocaudal_views_are_judged_with_their_mirror_image(folder, kind, view):
    film = make_film(5, label=Label.MALIGNANT, laterality=Laterality.LEFT, view=View.CC, height=512, width=512)
    mammogram = Mammogram(film.pixels, Laterality.LEFT, view)
    engine = EngineSettings(kind, 1)
    both, plain = (Predictor(folder / name, engine=engine).predict(mammogram) for name in ("flips", "plain"))
    image = torch.from_numpy(both.prepared.image)[None, None]
    model = model_directory.load(folder / "plain")
    alone, mirror = (model.predict_logits(one)[0].double().numpy() for one in (image, image.flip(2)))
    assert np.abs(alone - mirror).max() > 0.05
    expected = (alone + mirror) / 2 if view is View.CC else alone
    np.testing.assert_allclose(both.logits, expected, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(both.forward.maps, plain.forward.maps)
    assert (both.malignancy != plain.malignancy) == (view is View.CC)


def test_a_close_mean_is_judged_exactly():
    class Engine:
        margin = 0.05
        asked = []

        def run(self, image, *, exact=False):
            self.asked.append((float(image[0, 0]), exact))
            score = (4.0 if image[0, 0] else -4.0) + (0.001 if exact else 0)
            return Forward(np.array([0.0, score]), np.zeros((1, 1, 1), np.float32))

    engine = Engine()
    calibration = Calibration.of({"classes": ["negative", "malignant"], "calibration": {"temperature": 1.0}})
    image = np.array([[1.0], [0.0]], np.float32)
    near = run_with_mirror_image(engine, image, NearThreshold((0.5,), calibration, 1, 0.05), exact=False)
    assert engine.asked == [(1.0, False), (0.0, False), (1.0, True), (0.0, True)]
    assert near.logits[1] == pytest.approx(0.001)
    engine.asked.clear()
    far = run_with_mirror_image(engine, image, NearThreshold((0.9,), calibration, 1, 0.05), exact=False)
    assert len(engine.asked) == 2 and far.logits[1] == 0


def test_training_measures_what_the_evaluation_predicts(make_job):
    paths = make_job(
        cnn="modified_cnn", epochs="2", head_epochs="0", warmup_epochs="0", learning_rate="0.002", batch_size="8",
        test_flips="true",
    )  # fmt: skip
    manifest = paths.channel("manifest") / "manifest.csv"
    records = [replace(record, view=View.CC) for record in read_manifest(manifest)]
    write_manifest(records, manifest)
    train(paths, read_inputs(paths), ALONE, StopRequest())
    model = model_directory.load(paths.model)
    assert model.description["test_flips"] is True
    judged = [record for record in records if record.split is Split.VALIDATION]
    folder = paths.channel("validation")
    predicted = predict_split(ValidationPredictions, {"m": model}, judged, folder, shape=(64, 64))["m"]
    best = model.description["training"]["history"][model.description["training"]["best_epoch"] - 1]
    probabilities = torch.softmax(torch.from_numpy(predicted.logits), dim=1).numpy()
    assert macro_auc(predicted.labels, probabilities) == pytest.approx(best["validation_macro_auc"], abs=1e-6)

    alone = [replace(record, view=View.MLO) for record in judged]
    plain = predict_split(ValidationPredictions, {"m": model}, alone, folder, shape=(64, 64))["m"]
    assert np.abs(plain.logits - predicted.logits).max() > 1e-3
    np.testing.assert_allclose(logits_and_features(model, judged, folder)[0], predicted.logits, atol=1e-4)
    np.testing.assert_allclose(logits_and_features(model, alone, folder)[0], plain.logits, atol=1e-4)
