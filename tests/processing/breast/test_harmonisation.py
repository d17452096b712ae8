"""Harmonised grey levels: images of two detectors become alike, in training and serving by the same settings."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.processing.breast.harmonisation import PERCENTILES, REFERENCE, Harmonisation, harmonise
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.processing.settings import Settings

CONFIG = PreprocessConfig(height=128, width=80)


def seen_by_another_detector(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return the image with another tone curve and 8 bits: a digitised film of the same breast."""
    return (np.round((pixels / 65535) ** 2.2 * 255) * 257).astype(np.uint16)


def difference(harmonisation: Harmonisation) -> float:
    mammogram = make_film(3, label=Label.MALIGNANT, laterality=Laterality.LEFT, height=512, width=416)
    config = CONFIG.replace(harmonisation=harmonisation)
    one, other = (
        preprocess(Mammogram(pixels, Laterality.LEFT, View.MLO), config).image
        for pixels in (mammogram.pixels, seen_by_another_detector(mammogram.pixels))
    )
    both = (one > 0) & (other > 0)
    return float(np.abs(one - other)[both].mean())


def test_images_of_two_detectors_become_alike() -> None:
    none, exponent, quantiles = (difference(kind) for kind in Harmonisation)
    assert exponent < 0.5 * none and quantiles < 0.25 * none


def test_the_quantiles_of_the_tissue_become_those_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    unit, tissue = rng.beta(2, 5, (64, 64)).astype(np.float32), rng.random((64, 64)) < 0.7
    mapped = harmonise(unit, tissue, Harmonisation.QUANTILES)
    assert np.percentile(mapped[tissue], PERCENTILES) == pytest.approx(REFERENCE, abs=0.01)
    order = np.argsort(unit[tissue])
    assert (np.diff(mapped[tissue][order]) >= 0).all()
    median = np.median(harmonise(unit, tissue, Harmonisation.EXPONENT)[tissue])
    assert float(median) == pytest.approx(REFERENCE[3], abs=0.01)


@pytest.mark.parametrize("kind", Harmonisation)
def test_a_flat_image_stays_finite_and_in_range(kind: Harmonisation) -> None:
    for value in (0.0, 0.5, 1.0):
        mapped = harmonise(np.full((8, 8), value, np.float32), np.ones((8, 8), bool), kind)
        assert np.isfinite(mapped).all() and mapped.min() >= 0 and mapped.max() <= 1


@pytest.mark.parametrize("kind", Harmonisation)
def test_the_settings_that_a_model_keeps_give_the_pixels_of_training(kind: Harmonisation) -> None:
    config = CONFIG.replace(harmonisation=kind)
    kept = PreprocessConfig.from_json(json.loads(json.dumps(config.to_json())))
    image = make_film(5, label=Label.BENIGN, laterality=Laterality.RIGHT, height=512, width=416)
    mammogram = Mammogram(image.pixels, Laterality.RIGHT, View.MLO)
    assert kept == config
    assert np.array_equal(preprocess(mammogram, kept).pixels, preprocess(mammogram, config).pixels)


def test_without_harmonisation_settings_and_digest_are_those_of_earlier_models() -> None:
    assert "harmonisation" not in CONFIG.to_json()
    assert PreprocessConfig.from_json(CONFIG.to_json()).harmonisation is Harmonisation.NONE
    assert len({CONFIG.replace(harmonisation=kind).digest for kind in Harmonisation}) == len(Harmonisation)


def test_the_setting_reaches_the_segment_job() -> None:
    config: Settings = PipelineConfig.load(assignments=["segmentation.harmonisation=quantiles"]).segmentation
    assert getattr(config, "harmonisation") is Harmonisation.QUANTILES  # noqa: B009
