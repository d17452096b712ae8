"""Raw images: refused by name, or converted so that the network's input is nearly that of the processed image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.images.mammogram import (
    CorruptImageError,
    Mammogram,
    NotAMammogramError,
    ReadConfig,
    UnsupportedImageError,
    read_mammogram,
)
from mammopipe.processing.read_config import ForProcessing
from tests.support.clinical_phantoms import Kind, make_clinical_phantom

MakeDicom = Callable[..., bytes]
CONVERT = ReadConfig(for_processing=ForProcessing.CONVERT)
RAW = {"PresentationIntentType": "FOR PROCESSING", "Modality": "MG", "ImageLaterality": "L", "ViewPosition": "CC"}
INPUT = PreprocessConfig(height=256, width=128, max_height=512)
AIR = 9000


def phantom(seed: int) -> NDArray[np.uint16]:
    return make_clinical_phantom(seed, Kind.DARK_FAT, view=View.CC, bits=12).pixels


def exposed(pixels: NDArray[np.uint16], seed: int = 0) -> NDArray[np.uint16]:
    """Return raw counts of 14 bits whose attenuation, 0.5 to 4, is that of the processed pixels, with Poisson noise."""
    attenuation = np.where(pixels > 0, 0.5 + 3.5 * pixels / 65535, 0)
    return np.random.default_rng(seed).poisson(AIR * np.exp(-attenuation)).astype(np.uint16)


def network_input(pixels: NDArray[np.uint16]) -> NDArray[np.float32]:
    return preprocess(Mammogram(pixels, Laterality.LEFT, View.CC), INPUT).image


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sign", [1, -1, None])
def test_a_converted_image_is_nearly_the_processed_one(make_dicom: MakeDicom, seed: int, sign: int | None) -> None:
    processed = phantom(seed)
    raw = exposed(processed, seed)
    stored = 16383 - raw if sign == -1 else raw
    values = {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": ("SS", sign)} if sign else {}
    image = read_mammogram(make_dicom(stored, bits=14, **RAW, **values), config=CONVERT)
    assert "for-processing-converted" in image.flags and image.facts["for_processing"] == "converted"
    assert (image.pixels[processed == 0] < 3000).all()
    expected, found = network_input(processed), network_input(image.pixels)
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.98
    assert np.abs(expected - found).mean() < 0.03


def test_without_the_setting_it_is_refused_by_name(make_dicom: MakeDicom) -> None:
    data = make_dicom(exposed(phantom(0)), bits=14, **RAW)
    with pytest.raises(NotAMammogramError, match="PresentationIntentType .* raw pixels for processing"):
        read_mammogram(data)


def test_a_processed_image_is_read_alike_with_the_setting(make_dicom: MakeDicom) -> None:
    data = make_dicom(phantom(0) >> 4, bits=12, Modality="MG", WindowCenter="2048", WindowWidth="4096")
    assert np.array_equal(read_mammogram(data).pixels, read_mammogram(data, config=CONVERT).pixels)
    assert read_mammogram(data, config=CONVERT).flags == read_mammogram(data).flags


def test_collimator_and_padding_become_air(make_dicom: MakeDicom) -> None:
    raw = exposed(phantom(0))
    raw[:20], raw[-20:] = 0, 16383
    image = read_mammogram(make_dicom(raw, bits=14, PixelPaddingValue=16383, **RAW), config=CONVERT)
    assert not image.pixels[:20].any() and not image.pixels[-20:].any()
    assert image.pixels[20:-20].max() == 65535


def test_logarithmic_values_keep_their_order(make_dicom: MakeDicom) -> None:
    processed = phantom(1)
    logarithm = (np.log(exposed(processed) + 1.0) * 1000).astype(np.uint16)
    data = make_dicom(logarithm, bits=14, PixelIntensityRelationship="LOG", **RAW)
    found = network_input(read_mammogram(data, config=CONVERT).pixels)
    assert np.corrcoef(network_input(processed).ravel(), found.ravel())[0, 1] > 0.97


@pytest.mark.parametrize(
    ("cells", "values", "error", "message"),
    [
        (np.full((64, 64), 9000, np.uint16), {}, CorruptImageError, "raw pixels without tissue"),
        (np.full((64, 64), 7, np.uint16), {"PixelPaddingValue": 7}, CorruptImageError, "every pixel is padding"),
        (
            np.full((64, 64), 7, np.uint16),
            {"PixelIntensityRelationship": "DISP"},
            UnsupportedImageError,
            "PixelIntensityRelationship .* is 'DISP'; LIN and LOG are converted",
        ),
    ],
)
def test_images_that_are_no_raw_mammograms_are_refused(
    make_dicom: MakeDicom, cells: Any, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_mammogram(make_dicom(cells, bits=14, **RAW, **values), config=CONVERT)
