"""Files that contradict themselves: an attribute with several values, and values that are not where High Bit says."""

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.encaps import encapsulate

from mammopipe.processing.errors import CorruptImageError, UnsupportedImageError
from mammopipe.processing.images.mammogram import read_mammogram

MakeDicom = Callable[..., bytes]
MakeItem = Callable[..., Any]
SYNTAX = "1.2.840.10008.1.2."
CELLS = (np.add.outer(np.arange(64), np.arange(48)) * 36).astype(np.uint16)
SIGNED = (CELLS.astype(np.int32) - 2000).astype(np.int16)


def shown(stored: NDArray[Any], least: int = 0, most: int = 4095) -> NDArray[np.uint16]:
    """Return the presentation of stored values, by the range of Bits Stored."""
    share = np.clip((stored.astype(np.float64) - least) / (most - least), 0, 1)
    return np.floor(share * 65535 + 0.5).astype(np.uint16)


# ---- one value is needed ----

DIFFERENT: dict[str, Any] = {
    "RescaleSlope": ["1", "2"], "RescaleIntercept": ["0", "5"], "Rows": ("US", [64, 32]), "Columns": ("US", [48, 24]),
    "HighBit": ("US", [11, 15]), "PixelRepresentation": ("US", [0, 1]), "SamplesPerPixel": ("US", [1, 3]),
    "PhotometricInterpretation": ["MONOCHROME2", "MONOCHROME1"], "PresentationLUTShape": ["IDENTITY", "INVERSE"],
    "NumberOfFrames": ["1", "2"], "PixelPaddingValue": ("US", [0, 4095]), "ImageLaterality": ["L", "R"],
    "FrameLaterality": ["L", "R"], "ViewPosition": ["CC", "MLO"], "VOILUTFunction": ["LINEAR", "SIGMOID"],
    "PresentationIntentType": ["FOR PRESENTATION", "FOR PROCESSING"], "BodyPartExamined": ["BREAST", "HAND"],
    "EstimatedRadiographicMagnificationFactor": ["1", "1.8"], "CalibrationImage": ["NO", "YES"],
    "Modality": ["MG", "CT"], "SOPClassUID": ["1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.1.2.1"],
    "PartialView": ["NO", "YES"],
}  # fmt: skip
PLAIN = {"WindowCenter": "2048", "WindowWidth": "4096", "RescaleSlope": "1", "RescaleIntercept": "0"}


@pytest.mark.parametrize("keyword", DIFFERENT)
def test_an_attribute_of_one_value_has_no_other_one(make_dicom: MakeDicom, keyword: str) -> None:
    vr, values = DIFFERENT[keyword] if isinstance(DIFFERENT[keyword], tuple) else (None, DIFFERENT[keyword])
    with pytest.raises(CorruptImageError, match=rf"{keyword} \(.* has 2 values that differ; it must have one"):
        read_mammogram(make_dicom(CELLS, bits=12, **{**PLAIN, keyword: DIFFERENT[keyword]}))
    twice = [values[0]] * 2
    image = read_mammogram(make_dicom(CELLS, bits=12, **{**PLAIN, keyword: (vr, twice) if vr else twice}))
    assert np.array_equal(image.pixels, shown(CELLS))


def test_an_empty_value_beside_one_is_none_and_free_text_may_hold_the_separator(make_dicom: MakeDicom) -> None:
    image = read_mammogram(make_dicom(CELLS, bits=12, ViewPosition=["", "MLO"], ImageLaterality=["", "R"]))
    assert (image.view, image.laterality) == ("MLO", "R")
    texts = {"Manufacturer": ["ACME", "Inc"], "SeriesDescription": ["L CC", "Routine"]}
    assert read_mammogram(make_dicom(CELLS, bits=12, **texts)).pixels.any()


def test_frames_are_counted_from_one_but_none_counts_as_absent(make_dicom: MakeDicom) -> None:
    assert read_mammogram(make_dicom(CELLS, bits=12, NumberOfFrames="0")).pixels.any()


def test_a_presentation_lut_is_refused(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    lut = make_item(LUTDescriptor=("US", [16, 0, 8]), LUTData=("US", list(range(0, 256, 16))))
    with pytest.raises(UnsupportedImageError, match=r"PresentationLUTSequence \(2050,0010\) is present"):
        read_mammogram(make_dicom(CELLS, bits=12, PresentationLUTSequence=[lut]))
    assert read_mammogram(make_dicom(CELLS, bits=12, PresentationLUTSequence=[])).pixels.any()


# ---- where the values stand ----


@pytest.mark.parametrize("suffix", ["1", "5", "4.80", "4.90"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_values_aligned_to_the_left_need_the_highest_bit(make_dicom: MakeDicom, suffix: str, bits: int) -> None:
    values = CELLS.astype(np.int64) * (2**bits - 1) // 4095
    cells = (values << (16 - bits)).astype(np.uint16)
    data = {"4.80": imagecodecs.jpegls_encode, "4.90": lambda each: imagecodecs.jpeg2k_encode(each, codecformat="j2k")}
    coded = {"pixel_data": encapsulate([bytes(data[suffix](cells))])} if suffix in data else {}
    with pytest.raises(CorruptImageError, match=r"HighBit \(0028,0102\) is .* aligned to the left"):
        read_mammogram(make_dicom(cells, bits=bits, syntax=SYNTAX + suffix, **coded))
    if not coded:
        image = read_mammogram(make_dicom(cells, bits=bits, syntax=SYNTAX + suffix, HighBit=15))
        assert np.array_equal(image.pixels, shown(values, most=2**bits - 1))


@pytest.mark.parametrize("suffix", ["1", "5"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_exchanged_bytes_are_refused(make_dicom: MakeDicom, suffix: str, bits: int) -> None:
    cells = (CELLS.astype(np.int64) * (2**bits - 1) // 4095).astype(np.uint16).byteswap()
    with pytest.raises(CorruptImageError, match=r"BitsStored \(0028,0101\) .* two bytes of each are exchanged"):
        read_mammogram(make_dicom(cells, bits=bits, syntax=SYNTAX + suffix))


@pytest.mark.parametrize("suffix", ["1", "2", "5", "4.90"])
def test_signed_values_beyond_bits_stored_do_not_wrap(make_dicom: MakeDicom, suffix: str) -> None:
    cells = SIGNED.copy()
    cells[0, :3] = (2100, -2100, 2047)
    coded = {}
    if suffix == "4.90":
        coded["pixel_data"] = encapsulate([bytes(imagecodecs.jpeg2k_encode(cells, codecformat="j2k", level=0))])
    image = read_mammogram(make_dicom(cells, bits=12, syntax=SYNTAX + suffix, **coded))
    assert np.array_equal(image.pixels, shown(cells, -2048, 2047)) and "values-beyond-bits" in image.flags


def test_signed_values_need_no_extended_sign(make_dicom: MakeDicom) -> None:
    cells = SIGNED.view(np.uint16) & 0xFFF
    image = read_mammogram(make_dicom(cells, bits=12, PixelRepresentation=1))
    assert np.array_equal(image.pixels, shown(SIGNED, -2048, 2047)) and image.flags == ()


@pytest.mark.parametrize("value", [("SS", -2048), ("US", 63488), ("US", 2048), ("DS", "-2048")])
def test_padding_of_signed_pixels_in_every_form(make_dicom: MakeDicom, value: Any) -> None:
    cells = SIGNED.copy()
    cells[:, -3:] = -2048
    inverse = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": value}
    pixels = read_mammogram(make_dicom(cells, bits=12, **inverse)).pixels
    assert np.array_equal(pixels, np.where(cells == -2048, 0, 65535 - shown(cells, -2048, 2047)))
