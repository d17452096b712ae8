"""Images like the training images pass, other images are flagged, and an altered reference is refused."""

import cv2
import numpy as np
import pytest
import torch

from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.training.model.reference import MOST_IMAGES, Reference, entropy, fit_reference, spaced_sample
from mammopipe.training.networks.grad_cam import WithMaps
from mammopipe.training.networks.registry import build_model

CONFIG = PreprocessConfig(height=96, width=64)
TRAIN, VALIDATION, FRESH = range(120), range(200, 240), range(300, 330)


def phantom(seed: int) -> np.ndarray:
    made = make_film(seed, label=list(Label)[seed % 3], laterality=Laterality.LEFT, height=256, width=200)
    return preprocess(Mammogram(made.pixels, Laterality.LEFT, View.MLO), CONFIG).image


def picture(seed: int) -> np.ndarray:
    """Return an image like a photograph: soft gradients and a few hard edges."""
    random = np.random.default_rng(seed)
    drawn = cv2.resize(random.random((6, 4), np.float32), (64, 96), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    for _ in range(5):
        centre = (int(random.integers(64)), int(random.integers(96)))
        cv2.circle(drawn, centre, int(random.integers(4, 20)), float(random.random()), -1)
    return drawn


STRANGE = {
    "inverted": lambda image, seed: np.where(image > 0, 1 - image, 0),
    "noise": lambda image, seed: np.random.default_rng(seed).random(image.shape),
    "gain": lambda image, seed: image * 0.4,
    "photograph": lambda image, seed: picture(seed),
    "rectangle": lambda image, seed: np.pad(np.full((64, 32), 0.6), ((16, 16), (0, 32))),
    "blank": lambda image, seed: np.zeros_like(image),
}


@pytest.fixture(scope="module")
def features():
    """Return a function from images to features, of a network with random weights."""
    wrapped = WithMaps(build_model("modified_cnn", classes=3, seed=1).eval())

    def of(images):
        with torch.inference_mode():
            maps = wrapped(torch.from_numpy(np.stack(images).astype(np.float32))[:, None])[1]
        return maps.mean(dim=(2, 3)).double().numpy()

    return of


@pytest.fixture(scope="module")
def reference(features):
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], len(VALIDATION))
    return fit_reference(
        features([phantom(seed) for seed in TRAIN]),
        features([phantom(seed) for seed in VALIDATION]),
        probabilities,
        malignant=2,
    )


@pytest.fixture(scope="module")
def fresh():
    return [phantom(seed) for seed in FRESH]


def test_images_of_the_same_kind_pass(reference, features, fresh):
    strange = [reference.strangeness(row) > reference.strangeness_limit for row in features(fresh)]
    assert np.mean(strange) <= 0.1


@pytest.mark.parametrize("kind", STRANGE)
def test_other_images_are_flagged(reference, features, fresh, kind):
    spoilt = [STRANGE[kind](image, seed) for seed, image in enumerate(fresh)]
    strange = [reference.strangeness(row) > reference.strangeness_limit for row in features(spoilt)]
    assert np.mean(strange) >= 0.9


def test_deciles_and_entropy_are_those_of_validation():
    probabilities = np.stack([np.linspace(1, 0, 101), np.zeros(101), np.linspace(0, 1, 101)], axis=1)
    fitted = fit_reference(np.eye(101), np.eye(101), probabilities, malignant=2)
    assert [fitted.decile(score) for score in (0, 0.05, 0.15, 0.95, 1)] == [1, 1, 2, 10, 10]
    assert fitted.entropy_limit == pytest.approx(np.quantile(entropy(probabilities), 0.95))
    assert entropy(np.array([[1, 0, 0], [1 / 3] * 3])) == pytest.approx([0, np.log(3)])


def test_what_was_stored_is_what_is_read(reference, features, fresh, tmp_path):
    read = Reference.read(tmp_path, {"reference": reference.save(tmp_path)})
    row = features(fresh[:1])[0]
    assert read.strangeness(row) == reference.strangeness(row) and read.strangeness_limit == reference.strangeness_limit
    assert read.entropy_limit == reference.entropy_limit and read.decile(0.5) == reference.decile(0.5)
    assert Reference.read(tmp_path, {}) is None


def test_an_altered_reference_is_refused(reference, tmp_path):
    stated = reference.save(tmp_path)
    content = bytearray((tmp_path / "reference.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "reference.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="its SHA-256 is not the one that reference.strangeness states"):
        Reference.read(tmp_path, {"reference": stated})


def test_images_that_are_all_alike_have_a_distribution():
    alike = np.ones((10, 5))
    fitted = fit_reference(alike, alike, np.full((10, 3), 1 / 3), malignant=2)
    assert fitted.strangeness(np.ones(5)) == 0 < fitted.strangeness(np.full(5, 2.0))


@pytest.mark.parametrize("count", [1, MOST_IMAGES, MOST_IMAGES + 1, 10 * MOST_IMAGES])
def test_all_images_or_evenly_spaced_ones_are_picked(count):
    picked = spaced_sample(range(count))
    assert len(picked) <= MOST_IMAGES and picked[0] == 0
    assert len(picked) == count or len(set(np.diff(picked))) == 1
