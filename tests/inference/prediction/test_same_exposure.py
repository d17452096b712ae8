"""One exposure in several encodings is recognised; two exposures, also of one breast, are two."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.inference.prediction.same_exposure import Exposures
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.images.mammogram import Mammogram, read_mammogram
from mammopipe.processing.phantoms.film import make_film
from tests.processing.conftest import write_dicom

CONFIG = PreprocessConfig(height=96, width=64)
Pixels = NDArray[Any]


def drawn(seed: int, laterality: Laterality = Laterality.LEFT, **more: Any) -> Pixels:
    """Return the pixels of a phantom, uint16 on the full scale."""
    size = {"height": 512, "width": 410, "bits": 12}
    return make_film(seed, label=Label.NORMAL, laterality=laterality, **{**size, **more}).pixels


def png(pixels: Pixels) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def has(exposures: Exposures, data: bytes) -> bool:
    mammogram: Mammogram = read_mammogram(data)
    return exposures.has(mammogram, preprocess(mammogram, CONFIG))


def eight(pixels: Pixels) -> Pixels:
    return (pixels >> 8).astype(np.uint8)


def windowed(pixels: Pixels) -> Pixels:
    return (np.clip((pixels / 65535 - 0.04) / 0.86, 0, 1) * 255).round().astype(np.uint8)


def by_a_curve(pixels: Pixels) -> Pixels:
    return (255 * (pixels / 65535) ** 0.8).round().astype(np.uint8)


def compressed(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", eight(pixels), [cv2.IMWRITE_JPEG_QUALITY, 85])[1], 0))


ENCODINGS: dict[str, Callable[[Pixels], bytes]] = {
    "8 bits": lambda pixels: png(eight(pixels)),
    "10 bits": lambda pixels: b"P5 %d %d 1023\n" % pixels.shape[::-1] + (pixels >> 6).astype(">u2").tobytes(),
    "DICOM of 12 bits": lambda pixels: write_dicom(pixels >> 4, bits=12),
    "a window": lambda pixels: png(windowed(pixels)),
    "a curve": lambda pixels: png(by_a_curve(pixels)),
    "JPEG": lambda pixels: png(compressed(pixels)),
    "half the size": lambda pixels: png(cv2.resize(eight(pixels), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "three tenths larger": lambda pixels: png(cv2.resize(eight(pixels), None, fx=1.3, fy=1.3)),
    "mirrored": lambda pixels: png(np.ascontiguousarray(eight(pixels)[:, ::-1])),
    "cropped": lambda pixels: png(np.ascontiguousarray(eight(pixels)[5:])),
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("seed", [3, 4])
def test_one_exposure_in_two_encodings_is_one(name: str, seed: int) -> None:
    pixels, exposures = drawn(seed), Exposures()
    assert not has(exposures, png(pixels))
    assert has(exposures, ENCODINGS[name](pixels))


def test_different_images_are_different_exposures() -> None:
    exposures = Exposures()
    kinds = ((Laterality.LEFT, View.MLO), (Laterality.RIGHT, View.MLO), (Laterality.LEFT, View.CC))
    for number, (side, view) in enumerate(kinds * 6):
        pixels = drawn(number, side, view=view, patient_seed=number // 3, height=256, width=205)
        assert not has(exposures, png(eight(pixels))), (number, side, view)


def test_two_exposures_of_one_breast_are_two() -> None:
    """The same breast in the same place, but with the noise of each exposure, or moved by two pixels."""
    pixels, noise = drawn(3), np.random.default_rng(0)
    tissue = pixels > 0

    def exposed(moved: int) -> bytes:
        noisy = pixels + noise.normal(0, 0.02 * 65535, pixels.shape) * tissue
        return png(np.roll(np.clip(noisy, 0, 65535), moved, axis=0).astype(np.uint16))

    for first, second in combinations([exposed(0), exposed(0), exposed(2)], 2):
        exposures = Exposures()
        assert not has(exposures, first)
        assert not has(exposures, second)
