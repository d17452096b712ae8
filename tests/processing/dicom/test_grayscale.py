"""Every stored value against a slow float64 reference, written from PS3.3 C.11 one value at a time."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mammopipe.processing.images.mammogram import CorruptImageError, ReadConfig, UnsupportedImageError, read_mammogram

MakeDicom = Callable[..., bytes]
Case = dict[str, Any]


# ---- the reference: no arrays, no tables; one stored value in, one share of full scale (0 to 1) out ----


def table(lut: tuple[int, int, list[int]], value: float) -> int:
    """C.11.1.1.1 and C.11.2.1.1: below the first mapped value the first entry, beyond the last the last."""
    first, _, entries = lut
    index = math.floor(value - first + 0.5)
    return entries[min(max(index, 0), len(entries) - 1)]


def modality(case: Case, stored: int) -> float:
    if case["modality_lut"]:
        return table(case["modality_lut"], stored)
    slope, intercept = case["rescale"] or (1.0, 0.0)
    return slope * stored + intercept


def window(function: str, c: float, w: float, x: float) -> float:
    """The pseudo-code of C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1 with y from 0 to 1."""
    if function == "SIGMOID":
        exponent = -4 * (x - c) / w
        return 0.0 if exponent > 700 else 1 / (1 + math.exp(exponent))
    if function == "LINEAR_EXACT":
        if x <= c - w / 2:
            return 0.0
        return 1.0 if x > c + w / 2 else (x - c) / w + 0.5
    if x <= c - 0.5 - (w - 1) / 2:
        return 0.0
    if x > c - 0.5 + (w - 1) / 2:
        return 1.0
    return (x - (c - 0.5)) / (w - 1) + 0.5


def full_range(case: Case, value: float) -> float:
    """No VOI: the identity, from the least to the greatest value that the stored bits can give."""
    if case["modality_lut"]:
        return value / (2 ** case["modality_lut"][1] - 1)
    low = -(2 ** (case["bits"] - 1)) if case["signed"] else 0
    ends = sorted((modality(case, low), modality(case, low + 2 ** case["bits"] - 1)))
    return (value - ends[0]) / (ends[1] - ends[0])


def voi_top(lut: tuple[int, int, list[int]]) -> int:
    """Full scale of a VOI LUT: that of its bits, or of fewer where its entries leave two or more of them unused."""
    used = max(8, max(lut[2]).bit_length())
    return 2 ** (used if used <= lut[1] - 2 else lut[1]) - 1


def reference(case: Case, stored: int) -> float:
    if case["padding"] and min(case["padding"]) <= stored <= max(case["padding"]):
        return 0.0
    value = modality(case, stored)
    if case["voi_lut"]:
        share = table(case["voi_lut"], value) / voi_top(case["voi_lut"])
    elif case["window"]:
        share = window(case["function"] or "LINEAR", *case["window"], value)
    else:
        share = full_range(case, value)
    return 1 - share if case["photometric"] == "MONOCHROME1" or case["shape"] == "INVERSE" else share


# ---- generated files ----


@st.composite
def luts(draw: st.DrawFn, low: int, high: int) -> tuple[int, int, list[int]]:
    bits = draw(st.integers(8, 16))
    count = draw(st.integers(1, 40))
    entries = draw(st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count))
    return draw(st.integers(max(-32768, low), min(32767 if low < 0 else 65535, high))), bits, entries


def lowest_modality(case: Case) -> float:
    """The least input of the VOI stage; its sign decides whether LUT Descriptor is US or SS (C.11.2.1.1)."""
    high = case["low"] + 2 ** case["bits"] - 1
    return 0.0 if case["modality_lut"] else min(modality(case, case["low"]), modality(case, high))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    allocated = draw(st.sampled_from([8, 16]))
    bits = draw(st.integers(8, allocated))
    signed = draw(st.booleans())
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    stored = draw(st.lists(st.one_of(st.integers(low, high), st.sampled_from([low, high])), min_size=30, max_size=30))
    numbers = st.floats(-5000, 70000, allow_nan=False).map(lambda value: round(value, 3))
    function = draw(st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]))
    case: Case = {
        "allocated": allocated,
        "bits": bits,
        "signed": signed,
        "stored": stored,
        "low": low,
        "modality_lut": draw(st.none() | luts(low, high)),
        "rescale": draw(st.none() | st.tuples(st.sampled_from([1.0, -1.0, 0.25, 2.5, -0.7]), numbers)),
        "window": draw(st.none() | st.tuples(numbers, st.floats(1, 70000).map(lambda value: round(value, 3)))),
        "function": function,
        "photometric": draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"])),
        "shape": draw(st.sampled_from([None, "IDENTITY", "INVERSE"])),
        "padding": draw(st.none() | st.lists(st.integers(low, high), min_size=1, max_size=2)),
        "syntax": draw(st.integers(0, 11)),
        "noise": draw(st.booleans()),
        "shift": draw(st.integers(0, allocated - bits)),
    }
    lowest = min(max(math.floor(lowest_modality(case)), -32768), 65000)
    return case | {"voi_lut": draw(st.none() | luts(lowest, lowest + 2**bits))}


def attributes(case: Case, make_item: Callable[..., Any], last_bit: int) -> dict[str, Any]:
    values: dict[str, Any] = {
        "PhotometricInterpretation": case["photometric"],
        "HighBit": last_bit,
        "BitsStored": case["bits"],
        "PixelRepresentation": int(case["signed"]),
    }
    for keyword, lut, lowest in (
        ("ModalityLUTSequence", case["modality_lut"], case["low"]),
        ("VOILUTSequence", case["voi_lut"], lowest_modality(case)),
    ):
        if lut:
            descriptor = ("SS" if lowest < 0 else "US", [len(lut[2]), lut[0], lut[1]])
            values[keyword] = [make_item(LUTDescriptor=descriptor, LUTData=("US", lut[2]))]
    if case["rescale"]:
        values["RescaleSlope"], values["RescaleIntercept"] = map(str, case["rescale"])
    if case["window"]:
        values["WindowCenter"], values["WindowWidth"] = map(str, case["window"])
    if case["padding"]:
        vr = "SS" if case["signed"] else "US"
        names = ("PixelPaddingValue", "PixelPaddingRangeLimit")
        values |= {name: (vr, value) for name, value in zip(names, case["padding"], strict=False)}
    named = {"VOILUTFunction": case["function"], "PresentationLUTShape": case["shape"]}
    return values | {name: value for name, value in named.items() if value}


def has_overlay(case: Case, shift: int) -> bool:
    """Unused bits that an overlay is declared in are no part of the value; none lie below the value then."""
    return bool(case["noise"] and not shift)


def cells_of(case: Case, shift: int) -> NDArray[Any]:
    """Return the cells: the stored value's bits moved up by `shift`, noise in the bits that do not count."""
    pattern = np.array(case["stored"], np.int64) & (2 ** case["bits"] - 1)
    others = (2 ** case["allocated"] - 1) & ~((2 ** case["bits"] - 1) << shift)
    noise = others & 0x5A5A if has_overlay(case, shift) else 0
    return ((pattern << shift) | noise).astype(f"u{case['allocated'] // 8}").reshape(5, 6)


@settings(max_examples=400)
@given(case=cases())
def test_every_combination_equals_the_reference(
    make_dicom: MakeDicom, make_item: Callable[..., Any], syntaxes: dict[str, tuple[str, ...]], case: Case
) -> None:
    syntax = syntaxes["lossless"][case["syntax"]]
    native = syntax in syntaxes["native"]
    shift = case["shift"] if native else 0
    if native:
        cells = cells_of(case, shift)
    else:
        kind = "i" if case["signed"] else "u"
        cells = np.array(case["stored"], f"{kind}{case['allocated'] // 8}").reshape(5, 6)
    values = attributes(case, make_item, case["bits"] - 1 + shift)
    if native and has_overlay(case, shift):
        values["OverlayBitPosition"] = ("US", case["bits"])
    pixels = read_mammogram(make_dicom(cells, syntax=syntax, **values)).pixels
    assert pixels.dtype == np.uint16 and pixels.shape == (5, 6) and pixels.flags.c_contiguous
    for stored, pixel in zip(case["stored"], pixels.ravel().tolist(), strict=True):
        assert abs(pixel - 65535 * reference(case, stored)) <= 0.5 + 1e-6, stored


# ---- single rules, by hand ----

RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)


def read(make_dicom: MakeDicom, cells: NDArray[Any] = RAMP, *, config: ReadConfig | None = None, **values: Any) -> Any:
    options = {"config": config} if config else {}
    return read_mammogram(make_dicom(cells, **{"bits": 12, **values}), **options)


def test_values_above_32767_do_not_wrap(make_dicom: MakeDicom) -> None:
    cells = np.array([[0, 32767, 32768, 65535]], np.uint16)
    assert read(make_dicom, cells, bits=16).pixels.tolist() == [[0, 32767, 32768, 65535]]


def test_the_example_of_the_standard(make_dicom: MakeDicom) -> None:
    """C.11.2.1.2.1 Note: center 2048 and width 4096 map 0..4095 on the whole output."""
    pixels = read(make_dicom, WindowCenter="2048", WindowWidth="4096").pixels
    assert np.array_equal(pixels.ravel(), np.floor(np.arange(4096) * 65535 / 4095 + 0.5))


def test_monochrome1_is_inverted_once_and_after_the_window(make_dicom: MakeDicom) -> None:
    window = {"WindowCenter": "1000", "WindowWidth": "500"}
    plain = read(make_dicom, **window)
    for shape in ({}, {"PresentationLUTShape": "INVERSE"}):
        inverted = read(make_dicom, PhotometricInterpretation="MONOCHROME1", **window, **shape)
        assert np.array_equal(inverted.pixels, 65535 - plain.pixels)
        assert inverted.facts["inverted"] is True and plain.facts["inverted"] is False


def test_padding_is_air_on_both_sides_of_the_inversion(make_dicom: MakeDicom) -> None:
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        image = read(
            make_dicom,
            PhotometricInterpretation=photometric,
            PixelPaddingValue=("US", 4000),
            PixelPaddingRangeLimit=("US", 3990),
        )
        assert (image.pixels.ravel()[3990:4001] == 0).all() and (image.pixels.ravel()[[3989, 4001]] != 0).all()


def test_padding_declared_in_the_other_sign_means_the_same_bits(make_dicom: MakeDicom) -> None:
    cells = np.array([[-2000, 5]], np.int16)
    assert read(make_dicom, cells, bits=16, PixelPaddingValue=("US", 65536 - 2000)).pixels.tolist()[0][0] == 0


def test_which_window_is_used_is_configured_and_recorded(make_dicom: MakeDicom) -> None:
    windows = {"WindowCenter": ["2048", "1000"], "WindowWidth": ["4096", "200"]}
    first, second = (read(make_dicom, config=ReadConfig(window_index=index), **windows) for index in (0, 1))
    assert (first.facts["window_center"], second.facts["window_center"]) == (2048, 1000)
    assert second.pixels.ravel()[1100] == 65535 != first.pixels.ravel()[1100]
    with pytest.raises(UnsupportedImageError, match=r"WindowCenter \(0028,1050\) gives 2 .* number 2"):
        read(make_dicom, config=ReadConfig(window_index=2), **windows)


def test_a_voi_lut_goes_before_a_window_unless_configured(make_dicom: MakeDicom, make_item: Callable[..., Any]) -> None:
    lut = make_item(LUTDescriptor=("US", [2, 100, 8]), LUTData=("US", [0, 255]))
    values = {"VOILUTSequence": [lut], "WindowCenter": "2048", "WindowWidth": "4096"}
    assert read(make_dicom, **values).facts["voi_function"] == "LUT"
    assert set(read(make_dicom, **values).pixels.ravel()) == {0, 65535}
    assert read(make_dicom, config=ReadConfig(prefer_lut=False), **values).facts["voi_function"] == "LINEAR"


def test_lut_entries_of_8_bits_may_be_packed_and_bits_may_be_understated(
    make_dicom: MakeDicom, make_item: Callable[..., Any]
) -> None:
    packed = make_item(LUTDescriptor=("US", [4, 0, 8]), LUTData=("OW", bytes([0, 51, 102, 255])))
    cells = np.array([[0, 1, 2, 3]], np.uint16)
    assert read(make_dicom, cells, VOILUTSequence=[packed]).pixels.tolist() == [[0, 13107, 26214, 65535]]
    understated = make_item(LUTDescriptor=("US", [4, 0, 10]), LUTData=("US", [0, 1000, 2000, 4095]))
    image = read(make_dicom, cells, VOILUTSequence=[understated])
    assert image.facts["voi_lut_bits"] == 12 and image.pixels[0, 3] == 65535


def test_a_lut_of_65536_entries(make_dicom: MakeDicom, make_item: Callable[..., Any]) -> None:
    entries = np.arange(65535, -1, -1, dtype="<u2")
    lut = make_item(LUTDescriptor=("US", [0, 0, 16]), LUTData=("OW", entries.tobytes()))
    cells = np.array([[0, 1, 40000, 65535]], np.uint16)
    assert read(make_dicom, cells, bits=16, VOILUTSequence=[lut]).pixels.tolist() == [[65535, 65534, 25535, 0]]


def test_without_voi_the_full_range_of_the_stored_bits_is_used(make_dicom: MakeDicom) -> None:
    image = read(make_dicom, np.array([[100, 200]], np.uint16))
    assert image.pixels.tolist() == [[round(100 * 65535 / 4095), round(200 * 65535 / 4095)]]
    assert image.facts["voi_function"] == "NONE, full range of stored values"


def test_a_16_bit_codestream_of_12_stored_bits_keeps_their_scale(make_dicom: MakeDicom) -> None:
    """As the RSNA files are written."""
    syntax = "1.2.840.10008.1.2.4.90"
    narrow, wide = (make_dicom(RAMP, syntax=syntax, bits=bits, BitsStored=12, HighBit=11) for bits in (12, 16))
    assert np.array_equal(read_mammogram(narrow).pixels, read_mammogram(wide).pixels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"WindowCenter": ["2048", "1"], "WindowWidth": "4096"},
            r"WindowCenter \(0028,1050\) has 2 values and WindowWidth \(0028,1051\) has 1",
        ),
        ({"WindowCenter": "2048", "WindowWidth": "0"}, r"WindowWidth \(0028,1051\) is 0; it must be at least 1"),
        ({"WindowCenter": "2048", "WindowWidth": "-3", "VOILUTFunction": "SIGMOID"}, "must be greater than 0"),
        (
            {"WindowCenter": ("LO", "wide"), "WindowWidth": "3", "syntax": "1.2.840.10008.1.2"},
            r"WindowCenter \(0028,1050\) is text of 4 characters that is no code; a finite",
        ),
        ({"WindowCenter": "nan", "WindowWidth": "3"}, "finite number"),
        ({"RescaleSlope": "0", "RescaleIntercept": "3"}, r"RescaleSlope \(0028,1053\) is 0"),
        ({"RescaleSlope": "1e299", "RescaleIntercept": "0"}, r"RescaleSlope \(0028,1053\) is 1e\+299; its magnitude"),
        ({"RescaleSlope": "1e-200", "RescaleIntercept": "0"}, "its magnitude must be from 1e-12"),
        ({"RescaleSlope": "1", "RescaleIntercept": "-1e200"}, r"RescaleIntercept .* magnitude"),
        ({"WindowCenter": "1e99", "WindowWidth": "9"}, r"WindowCenter .* magnitude"),
        ({"WindowCenter": "1", "WindowWidth": "1e-99", "VOILUTFunction": "SIGMOID"}, r"WindowWidth .* magnitude"),
        ({"BitsStored": 5}, r"BitsStored \(0028,0101\) is 5"),
        ({"BitsStored": 17}, r"BitsStored \(0028,0101\) is 17"),
        ({"HighBit": 5}, r"HighBit \(0028,0102\) is 5"),
        ({"PixelRepresentation": 2}, "must be 0"),
        ({"Rows": ("IS", "64.5")}, "a whole number"),
        ({"Rows": ("LO", "many")}, "is text of 4 characters that is no code; a finite number"),
    ],
)
def test_broken_values_are_refused_by_name(make_dicom: MakeDicom, values: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptImageError, match=message):
        read(make_dicom, **values)


@pytest.mark.parametrize(
    ("descriptor", "data", "message"),
    [
        ([4, 0], [1, 2, 3, 4], "has 2 values; 3 are needed"),
        ([4, 0, 3], [1, 2, 3, 4], "says 3 bits"),
        ([9, 0, 8], [1, 2, 3, 4], "has 8 bytes; 9 entries"),
    ],
)
def test_broken_luts_are_refused_by_name(
    make_dicom: MakeDicom, make_item: Callable[..., Any], descriptor: list[int], data: list[int], message: str
) -> None:
    with pytest.raises(CorruptImageError, match=message):
        read(make_dicom, VOILUTSequence=[make_item(LUTDescriptor=("US", descriptor), LUTData=("US", data))])


@pytest.mark.parametrize(
    "values",
    [
        {"VOILUTFunction": "CUBIC", "WindowCenter": "1", "WindowWidth": "9"},
        {"PresentationLUTShape": "LIN OD"},
        {"BitsAllocated": 32},
    ],
)
def test_what_is_not_implemented_is_named(make_dicom: MakeDicom, values: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedImageError, match=next(iter(values))):
        read(make_dicom, **values)
