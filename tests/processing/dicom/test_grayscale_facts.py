"""The facts that the grey-scale pipeline records, and its messages about wrong attributes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.images.mammogram import CorruptImageError, ReadConfig, UnsupportedImageError, read_mammogram

MakeDicom = Callable[..., bytes]
MakeItem = Callable[..., Any]
RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)


def read(make_dicom: MakeDicom, cells: NDArray[Any] = RAMP, *, config: ReadConfig | None = None, **values: Any) -> Any:
    options = {"config": config} if config else {}
    return read_mammogram(make_dicom(cells, **{"bits": 12, **values}), **options)


OF_THE_CHAIN = (
    "modality_transform",
    "rescale_slope",
    "rescale_intercept",
    "voi_windows",
    "voi_luts",
    "voi_function",
    "voi_index",
    "voi_lut_bits",
    "window_center",
    "window_width",
    "photometric",
    "presentation_lut_shape",
    "inverted",
    "padding_low",
    "padding_high",
)


def facts(image: Any) -> dict[str, Any]:
    return {name: image.facts[name] for name in OF_THE_CHAIN if name in image.facts}


def test_a_file_without_the_attributes_says_so(make_dicom: MakeDicom) -> None:
    image = read(make_dicom)
    assert facts(image) == {
        "modality_transform": "IDENTITY",
        "voi_windows": 0,
        "voi_luts": 0,
        "voi_function": "NONE, full range of stored values",
        "photometric": "MONOCHROME2",
        "presentation_lut_shape": "",
        "inverted": False,
    }
    used = {ImageFlag.RESCALE_UNUSABLE, ImageFlag.WINDOW_UNUSABLE, ImageFlag.ATTRIBUTE_IGNORED}
    assert not used & set(image.flags)


def test_rescaling_window_and_padding_are_recorded(make_dicom: MakeDicom) -> None:
    image = read(
        make_dicom,
        PhotometricInterpretation="MONOCHROME1",
        PresentationLUTShape="INVERSE",
        RescaleSlope="2",
        RescaleIntercept="-10",
        WindowCenter=["100", "2048"],
        WindowWidth=["10", "4000"],
        VOILUTFunction="SIGMOID",
        PixelPaddingValue=("US", 4000),
        PixelPaddingRangeLimit=("US", 3990),
        config=ReadConfig(window_index=1),
    )
    assert facts(image) == {
        "modality_transform": "RESCALE",
        "rescale_slope": 2,
        "rescale_intercept": -10,
        "voi_windows": 2,
        "voi_luts": 0,
        "voi_function": "SIGMOID",
        "voi_index": 1,
        "window_center": 2048,
        "window_width": 4000,
        "photometric": "MONOCHROME1",
        "presentation_lut_shape": "INVERSE",
        "inverted": True,
        "padding_low": 3990,
        "padding_high": 4000,
    }


def test_luts_are_recorded_and_the_configured_one_is_used(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    modality = make_item(LUTDescriptor=("US", [4096, 0, 12]), LUTData=("US", list(range(4095, -1, -1))))
    lut = make_item(LUTDescriptor=("US", [2, 100, 8]), LUTData=("US", [0, 255]))
    other = make_item(LUTDescriptor=("US", [2, 4000, 10]), LUTData=("US", [0, 1023]))
    values = {"ModalityLUTSequence": [modality], "VOILUTSequence": [lut, other]}
    image = read(make_dicom, **values, RescaleSlope="3", RescaleIntercept="7", config=ReadConfig(lut_index=1))
    assert facts(image) == {
        "modality_transform": "LUT",
        "voi_windows": 0,
        "voi_luts": 2,
        "voi_function": "LUT",
        "voi_index": 1,
        "voi_lut_bits": 10,
        "photometric": "MONOCHROME2",
        "presentation_lut_shape": "",
        "inverted": False,
    }
    white = image.pixels.ravel() == 65535
    assert white[:95].all() and not white[95:].any(), "modality values from 4001 on"
    message = (
        r"^<bytes>: VOILUTSequence \(0028,3010\) gives 2 to choose from; number 2 \(counted from 0\) is configured"
    )
    with pytest.raises(UnsupportedImageError, match=message):
        read(make_dicom, **values, config=ReadConfig(lut_index=2))


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"RescaleSlope": "2"}, ImageFlag.RESCALE_UNUSABLE),
        ({"RescaleIntercept": "2"}, ImageFlag.RESCALE_UNUSABLE),
        ({"WindowCenter": "100"}, ImageFlag.WINDOW_UNUSABLE),
        ({"WindowWidth": "100"}, ImageFlag.WINDOW_UNUSABLE),
        ({"PixelPaddingRangeLimit": ("US", 100)}, ImageFlag.ATTRIBUTE_IGNORED),
    ],
)
def test_an_incomplete_pair_counts_as_absent_with_a_flag(
    make_dicom: MakeDicom, values: dict[str, Any], flag: str
) -> None:
    image = read(make_dicom, **values)
    assert flag in image.flags and np.array_equal(image.pixels, read(make_dicom).pixels)
    assert facts(image)["modality_transform"] == "IDENTITY" and "window_center" not in facts(image)


def test_an_empty_lut_item_counts_as_absent_with_a_flag(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    lut = make_item(LUTDescriptor=("US", [2, 100, 8]), LUTData=("US", [0, 255]))
    image = read(make_dicom, VOILUTSequence=[make_item(LUTExplanation="none"), lut])
    assert facts(image)["voi_luts"] == 1 and ImageFlag.WINDOW_UNUSABLE in image.flags
    whole = read(make_dicom, VOILUTSequence=[lut])
    assert np.array_equal(image.pixels, whole.pixels) and ImageFlag.WINDOW_UNUSABLE not in whole.flags
    for half in ({"LUTDescriptor": ("US", [2, 100, 8])}, {"LUTData": ("US", [0, 255])}):
        with pytest.raises(CorruptImageError, match="LUT"):
            read(make_dicom, VOILUTSequence=[make_item(**half)])


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            {"PresentationLUTShape": "LIN OD"},
            UnsupportedImageError,
            "<bytes>: PresentationLUTShape (2050,0020) is 'LIN OD'; IDENTITY and INVERSE are read",
        ),
        (
            {"VOILUTFunction": "CUBIC", "WindowCenter": "1", "WindowWidth": "9"},
            UnsupportedImageError,
            "<bytes>: VOILUTFunction (0028,1056) is 'CUBIC'; LINEAR, LINEAR_EXACT, SIGMOID are read",
        ),
        (
            {"RescaleSlope": "0", "RescaleIntercept": "3"},
            CorruptImageError,
            "<bytes>: RescaleSlope (0028,1053) is 0; every pixel would have the same value",
        ),
        (
            {"RescaleSlope": "1", "RescaleIntercept": "1e13"},
            CorruptImageError,
            "<bytes>: RescaleIntercept (0028,1052) is 1e+13; its magnitude must be from 0 to 1e+12",
        ),
        (
            {"WindowCenter": ["1", "2"], "WindowWidth": "4"},
            CorruptImageError,
            "<bytes>: WindowCenter (0028,1050) has 2 values and WindowWidth (0028,1051) has 1; they must be as many",
        ),
        (
            {"WindowCenter": "1", "WindowWidth": "0.5"},
            CorruptImageError,
            "<bytes>: WindowWidth (0028,1051) is 0.5; it must be at least 1 for a LINEAR window",
        ),
        (
            {"WindowCenter": "1", "WindowWidth": "0", "VOILUTFunction": "LINEAR_EXACT"},
            CorruptImageError,
            "<bytes>: WindowWidth (0028,1051) is 0; it must be greater than 0 for a LINEAR_EXACT window",
        ),
    ],
)
def test_the_message_names_attribute_value_and_rule(
    make_dicom: MakeDicom, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        read(make_dicom, **values)
    assert str(caught.value) == message


def test_a_presentation_lut_is_refused_beside_every_shape(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    lut = make_item(LUTDescriptor=("US", [16, 0, 8]), LUTData=("US", list(range(0, 256, 16))))
    for shape in ({}, {"PresentationLUTShape": "IDENTITY"}, {"PresentationLUTShape": "INVERSE"}):
        with pytest.raises(UnsupportedImageError) as caught:
            read(make_dicom, PresentationLUTSequence=[lut], **shape)
        assert str(caught.value) == (
            "<bytes>: PresentationLUTSequence (2050,0010) is present; of the two, only PresentationLUTShape "
            "(2050,0020) is read"
        )


def test_numbers_at_the_bounds_of_what_is_plausible_are_read(make_dicom: MakeDicom) -> None:
    for slope, intercept in (("1e12", "-1e12"), ("1e-12", "0"), ("-1e12", "1e12")):
        assert facts(read(make_dicom, RescaleSlope=slope, RescaleIntercept=intercept))["rescale_slope"] == float(slope)
    for width, function in (("1", "LINEAR"), ("1e-12", "SIGMOID"), ("1e12", "LINEAR_EXACT"), ("0.5", "SIGMOID")):
        image = read(make_dicom, WindowCenter="1e12", WindowWidth=width, VOILUTFunction=function)
        assert facts(image)["window_width"] == float(width)


@pytest.mark.parametrize(
    ("descriptor", "entries", "bits"),
    [
        ([4, 0, 16], [0, 1, 2, 4095], 12),  # no entry uses the two highest bits
        ([4, 0, 14], [0, 1, 2, 4095], 12),
        ([4, 0, 13], [0, 1, 2, 4095], 13),  # only one bit is unused
        ([4, 0, 10], [0, 1, 2, 3], 8),
        ([4, 0, 9], [0, 1, 2, 511], 9),
        ([4, 0, 8], [0, 1, 2, 1000], 10),
    ],
)
def test_the_bits_of_a_voi_lut_are_those_of_its_entries(
    make_dicom: MakeDicom, make_item: MakeItem, descriptor: list[int], entries: list[int], bits: int
) -> None:
    item = make_item(LUTDescriptor=("US", descriptor), LUTData=("US", entries))
    image = read(make_dicom, np.array([[0, 1, 2, 3]], np.uint16), VOILUTSequence=[item])
    assert image.facts["voi_lut_bits"] == bits
    assert image.pixels.tolist() == [[int(entry * 65535 / (2**bits - 1) + 0.5) for entry in entries]]


def test_the_bits_of_a_modality_lut_are_those_of_its_descriptor(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    item = make_item(LUTDescriptor=("US", [4, 0, 16]), LUTData=("US", [0, 1, 2, 4095]))
    cells = np.array([[0, 1, 2, 3]], np.uint16)
    assert read(make_dicom, cells, ModalityLUTSequence=[item]).pixels.tolist() == [[0, 1, 2, 4095]]


@pytest.mark.parametrize(
    ("descriptor", "data", "message"),
    [
        ([4, 0], ("US", [1, 2, 3, 4]), "LUTDescriptor (0028,3002) has 2 values; 3 are needed"),
        ([4, 0, 7], ("US", [1] * 4), "LUTDescriptor (0028,3002) says 7 bits an entry; it must be between 8 and 16"),
        ([4, 0, 17], ("US", [1] * 4), "LUTDescriptor (0028,3002) says 17 bits an entry; it must be between 8 and 16"),
        ([5, 0, 8], ("US", [1] * 4), "LUTData (0028,3006) has 8 bytes; 5 entries of 16 bits are announced"),
        ([2, 0, 8], ("OW", b"\0\1\2\3\4\5"), "LUTData (0028,3006) has 6 bytes; 2 entries of 16 bits are announced"),
    ],
)
def test_a_broken_lut_is_named(
    make_dicom: MakeDicom, make_item: MakeItem, descriptor: list[int], data: tuple[str, Any], message: str
) -> None:
    with pytest.raises(CorruptImageError) as caught:
        read(make_dicom, VOILUTSequence=[make_item(LUTDescriptor=("US", descriptor), LUTData=data)])
    assert str(caught.value).endswith(message)


def test_an_odd_number_of_packed_entries_is_padded_by_one_byte(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    packed = make_item(LUTDescriptor=("US", [3, 0, 8]), LUTData=("OW", bytes([0, 51, 255, 0])))
    cells = np.array([[0, 1, 2, 3]], np.uint16)
    assert read(make_dicom, cells, VOILUTSequence=[packed]).pixels.tolist() == [[0, 13107, 65535, 65535]]


def test_packed_entries_are_read_in_little_endian_files_alone(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    packed = make_item(LUTDescriptor=("US", [4, 0, 8]), LUTData=("OW", bytes([0, 51, 102, 255])))
    with pytest.raises(CorruptImageError, match="has 4 bytes; 4 entries of 16 bits are announced"):
        read(make_dicom, VOILUTSequence=[packed], syntax="1.2.840.10008.1.2.2")


def test_lut_entries_follow_the_byte_order_of_the_file(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    item = make_item(LUTDescriptor=("US", [2, 0, 12]), LUTData=("US", [256, 4095]))
    cells = np.array([[0, 1]], np.uint16)
    for syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"):
        pixels = read(make_dicom, cells, VOILUTSequence=[item], syntax=syntax).pixels
        assert pixels.tolist() == [[int(256 * 65535 / 4095 + 0.5), 65535]]


@pytest.mark.parametrize(
    ("intercept", "first", "split"),
    [
        ("-100", 65536 - 50, 50),  # an unsigned VR with signed input: -50
        ("0", 1000, 1000),
        ("-100", 0x7FFF, 4096),  # the greatest value that is not negative
        ("-100", 0x8000, -1),  # the least value
        ("0", 40000, 4096),  # no input is negative, so the descriptor is unsigned
    ],
)
def test_the_first_input_of_a_lut_is_signed_if_its_input_is(
    make_dicom: MakeDicom, make_item: MakeItem, intercept: str, first: int, split: int
) -> None:
    item = make_item(LUTDescriptor=("US", [2, first, 8]), LUTData=("US", [0, 255]))
    image = read(make_dicom, RescaleSlope="1", RescaleIntercept=intercept, VOILUTSequence=[item])
    assert int((image.pixels == 0).sum()) == min(split + 1, 4096)


def test_the_first_input_of_a_lut_is_signed_if_the_pixels_are(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    item = make_item(LUTDescriptor=("US", [2, 65536 - 50, 8]), LUTData=("US", [0, 255]))
    cells = np.array([[-51, -50, -49, 3]], np.int16)
    for sequence in ("ModalityLUTSequence", "VOILUTSequence"):
        assert read(make_dicom, cells, bits=16, **{sequence: [item]}).pixels.tolist() == [[0, 0, 65535, 65535]]


@pytest.mark.parametrize("signed", [False, True])
def test_padding_has_the_sign_of_the_pixels(make_dicom: MakeDicom, signed: bool) -> None:
    value = -5 if signed else 65531
    cells = np.array([[value, value + 1, 7]], np.int16 if signed else np.uint16)
    for vr, stated in (("US", 65531), ("SS", -5)):
        image = read(make_dicom, cells, bits=16, PixelPaddingValue=(vr, stated))
        assert (image.facts["padding_low"], image.facts["padding_high"]) == (value, value)
        assert image.pixels[0, 0] == 0 < image.pixels[0, 1]
    highest = read(make_dicom, np.array([[0x7FFF, 1]], cells.dtype), bits=16, PixelPaddingValue=("US", 0x7FFF))
    assert highest.facts["padding_low"] == 0x7FFF
    lowest = read(make_dicom, np.array([[1, 7]], cells.dtype), bits=16, PixelPaddingValue=("US", 0x8000))
    assert lowest.facts["padding_low"] == (-0x8000 if signed else 0x8000)


@pytest.mark.parametrize(
    ("stated", "value"),
    [(0x7FF, 2047), (0x800, -2048), (0xFFF, -1), (0x1000, 4096), (0x1801, 6145), (0x7FFF, 32767), (0x8000, -32768),
     (0xFFFB, -5)],
)  # fmt: skip
def test_padding_of_signed_pixels_is_the_bits_of_a_stored_value_or_a_number_of_16_bits(
    make_dicom: MakeDicom, stated: int, value: int
) -> None:
    cells = np.array([[-7, 3]], np.int16)
    image = read(make_dicom, cells, PixelPaddingValue=("US", stated))
    assert (image.facts["padding_low"], image.facts["padding_high"]) == (value, value)
