"""Reads the attributes of the grey-scale pipeline: modality, VOI, inversion and padding.

Sources: PS3.3 C.7.5.1.1.2 (pixel padding), C.8.11.3.1.2 (Presentation LUT Shape), C.11.1 (modality), C.11.2 (VOI).
"""

from typing import Any, TypeVar

import numpy as np

from mammopipe.processing.dicom.attributes import Facts, Tag, Tags, label, quoted
from mammopipe.processing.dicom.grayscale import (
    GREATEST,
    SMALLEST,
    Chain,
    Lut,
    Rescale,
    VoiFunction,
    Window,
    stored_range,
)
from mammopipe.processing.dicom.pixel_data import Layout
from mammopipe.processing.errors import UnsupportedImageError
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.read_config import ReadConfig

Choice = TypeVar("Choice")


def read_chain(tags: Tags, layout: Layout, config: ReadConfig) -> tuple[Chain, Facts, set[ImageFlag]]:
    """Return the chain from stored to presentation values, facts that record its choices, and flags.

    If one attribute of a pair is missing or empty, the pair counts as absent (PS3.5 7.4), with a flag.

    Raises:
        CorruptImageError: An attribute breaks a rule of PS3.3 C.11.
        UnsupportedImageError: The file has no window or LUT of the configured index, or uses a function or shape that
            is not supported.
    """
    facts: Facts = {}
    flags: set[ImageFlag] = set()
    low, high = stored_range(layout.bits_stored, layout.signed)
    modality = _modality(tags, low, facts, flags)
    voi = _voi(tags, modality.scale(low, high)[0], config, facts, flags)
    shape = tags.code(Tag.PRESENTATION_LUT_SHAPE)
    if shape not in ("", "IDENTITY", "INVERSE"):
        raise UnsupportedImageError(
            f"{tags.where}: {label(Tag.PRESENTATION_LUT_SHAPE)} is {quoted(shape)}; IDENTITY and INVERSE are read"
        )
    if tags.has(Tag.PRESENTATION_LUT_SEQUENCE):
        raise UnsupportedImageError(
            f"{tags.where}: {label(Tag.PRESENTATION_LUT_SEQUENCE)} is present; of the two, only "
            f"{label(Tag.PRESENTATION_LUT_SHAPE)} is read"
        )
    photometric = tags.code(Tag.PHOTOMETRIC_INTERPRETATION)
    # C.8.11.3.1.2 requires INVERSE with MONOCHROME1: both mean the same inversion, so it is applied once.
    inverted = photometric == "MONOCHROME1" or shape == "INVERSE"
    padding = _padding(tags, layout, flags)
    facts |= {"photometric": photometric, "presentation_lut_shape": shape, "inverted": inverted}
    if padding:
        facts |= {"padding_low": padding[0], "padding_high": padding[1]}
    return Chain(modality, voi, inverted, padding), facts, flags


def _modality(tags: Tags, lowest_input: int, facts: Facts, flags: set[ImageFlag]) -> Rescale | Lut:
    """Read the modality step; a Modality LUT Sequence replaces rescaling (C.11.1)."""
    luts = _filled_luts(tags, Tag.MODALITY_LUT_SEQUENCE)
    slope, intercept = tags.number(Tag.RESCALE_SLOPE), tags.number(Tag.RESCALE_INTERCEPT)
    if luts:
        facts["modality_transform"] = "LUT"
        return _lut(luts[0], lowest_input)
    if slope is None or intercept is None:
        if slope is not None or intercept is not None:
            flags.add(ImageFlag.RESCALE_UNUSABLE)
        facts["modality_transform"] = "IDENTITY"
        return Rescale()
    if slope == 0:
        raise tags.corrupt(Tag.RESCALE_SLOPE, "is 0; every pixel would have the same value")
    _check_magnitude(tags, Tag.RESCALE_SLOPE, slope, least=SMALLEST)
    _check_magnitude(tags, Tag.RESCALE_INTERCEPT, intercept)
    facts |= {"modality_transform": "RESCALE", "rescale_slope": slope, "rescale_intercept": intercept}
    return Rescale(slope, intercept)


def _filled_luts(tags: Tags, sequence: Tag) -> tuple[Tags, ...]:
    """Return the items of a LUT sequence that hold a LUT; an empty item counts as absent."""
    return tuple(item for item in tags.items(sequence) if item.has(Tag.LUT_DESCRIPTOR) or item.has(Tag.LUT_DATA))


def _voi(
    tags: Tags, lowest_input: float, config: ReadConfig, facts: Facts, flags: set[ImageFlag]
) -> Window | Lut | None:
    luts, windows = _filled_luts(tags, Tag.VOI_LUT_SEQUENCE), _windows(tags, flags)
    if len(luts) < len(tags.items(Tag.VOI_LUT_SEQUENCE)):
        flags.add(ImageFlag.WINDOW_UNUSABLE)
    facts |= {"voi_windows": len(windows), "voi_luts": len(luts)}
    if luts and (config.prefer_lut or not windows):
        lut = _lut(_select(luts, config.lut_index, Tag.VOI_LUT_SEQUENCE, tags), lowest_input, fit=True)
        facts |= {"voi_function": "LUT", "voi_index": config.lut_index, "voi_lut_bits": lut.bits}
        return lut
    if windows:
        center, width = _select(windows, config.window_index, Tag.WINDOW_CENTER, tags)
        window = _window(tags, center, width)
        facts |= {
            "voi_function": str(window.function),
            "voi_index": config.window_index,
            "window_center": center,
            "window_width": width,
        }
        return window
    facts["voi_function"] = "NONE, full range of stored values"
    return None


def _select(choices: tuple[Choice, ...], index: int, tag: Tag, tags: Tags) -> Choice:
    if index >= len(choices):
        raise UnsupportedImageError(
            f"{tags.where}: {label(tag)} gives {len(choices)} to choose from; number {index} "
            "(counted from 0) is configured"
        )
    return choices[index]


def _windows(tags: Tags, flags: set[ImageFlag]) -> tuple[tuple[float, float], ...]:
    centers, widths = tags.numbers(Tag.WINDOW_CENTER), tags.numbers(Tag.WINDOW_WIDTH)
    if not (centers and widths):
        if centers or widths:
            flags.add(ImageFlag.WINDOW_UNUSABLE)
        return ()
    if len(centers) != len(widths):
        raise tags.corrupt(
            Tag.WINDOW_CENTER,
            f"has {len(centers)} values and {label(Tag.WINDOW_WIDTH)} has {len(widths)}; they must be as many",
        )
    return tuple(zip(centers, widths, strict=True))


def _window(tags: Tags, center: float, width: float) -> Window:
    name = tags.code(Tag.VOI_LUT_FUNCTION) or VoiFunction.LINEAR
    if name not in list(VoiFunction):
        raise UnsupportedImageError(
            f"{tags.where}: {label(Tag.VOI_LUT_FUNCTION)} is {quoted(name)}; {', '.join(VoiFunction)} are read"
        )
    if not (width >= 1 if name == VoiFunction.LINEAR else width > 0):
        least = "at least 1" if name == VoiFunction.LINEAR else "greater than 0"
        raise tags.corrupt(Tag.WINDOW_WIDTH, f"is {width:g}; it must be {least} for a {name} window")
    _check_magnitude(tags, Tag.WINDOW_WIDTH, width, least=SMALLEST)
    _check_magnitude(tags, Tag.WINDOW_CENTER, center)
    return Window(VoiFunction(name), center, width)


def _check_magnitude(tags: Tags, tag: Tag, value: float, least: float = 0.0) -> None:
    """Raise if a number is implausible for 16-bit pixel values; arithmetic with it could overflow."""
    if not least <= abs(value) <= GREATEST:
        raise tags.corrupt(tag, f"is {value:g}; its magnitude must be from {least:g} to {GREATEST:g}")


def _lut(item: Tags, lowest_input: float, *, fit: bool = False) -> Lut:
    """Read LUT Descriptor and LUT Data (C.11.1.1.1).

    Some writers state the wrong number of bits: 12-bit entries under a descriptor of 16 bits give a nearly black image.
    So the number of bits is increased if entries have more. With `fit` (VOI LUTs, whose greatest output is white), it
    is decreased if no entry uses the two highest bits.
    """
    descriptor = [int(value) for value in item.numbers(Tag.LUT_DESCRIPTOR)]
    if len(descriptor) != 3:
        raise item.corrupt(Tag.LUT_DESCRIPTOR, f"has {len(descriptor)} values; 3 are needed")
    count = descriptor[0] & 0xFFFF or 65536
    first, bits = descriptor[1], descriptor[2] & 0xFFFF
    if first > 0x7FFF and lowest_input < 0:
        first -= 65536  # With signed input, the descriptor's second value is signed, even if its VR is unsigned.
    if not 8 <= bits <= 16:
        raise item.corrupt(Tag.LUT_DESCRIPTOR, f"says {bits} bits an entry; it must be between 8 and 16")
    entries = _entries(item, count)
    needed = max(8, int(entries.max()).bit_length())
    return Lut(first, needed if needed > bits or (fit and needed <= bits - 2) else bits, entries)


def _entries(item: Tags, count: int) -> Any:
    data = item.data(Tag.LUT_DATA)
    if len(data) == 2 * count:
        order = "<u2" if item.little_endian(Tag.LUT_DATA) else ">u2"
        return np.frombuffer(data, order).astype(np.uint16)
    if len(data) in (count, count + 1) and item.little_endian(Tag.LUT_DATA):
        return np.frombuffer(data, np.uint8, count).astype(np.uint16)
    raise item.corrupt(Tag.LUT_DATA, f"has {len(data)} bytes; {count} entries of 16 bits are announced")


def _padding(tags: Tags, layout: Layout, flags: set[ImageFlag]) -> tuple[int, int] | None:
    """Return the first and last stored value of padding: one value, or a range in either order (C.7.5.1.1.2)."""
    value, limit = tags.number(Tag.PIXEL_PADDING_VALUE), tags.number(Tag.PIXEL_PADDING_RANGE_LIMIT)
    if value is None:
        if limit is not None:  # Type 1C: the limit has no meaning without the value.
            flags.add(ImageFlag.ATTRIBUTE_IGNORED)
        return None
    ends = [_as_stored(int(end), layout) for end in (value, value if limit is None else limit)]
    return min(ends), max(ends)


def _as_stored(value: int, layout: Layout) -> int:
    """Return a padding value with the signedness of the pixels, whatever its VR.

    Writers state it as a 16-bit number, or as the bits of a stored value.
    """
    pattern = value & 0xFFFF
    if not layout.signed:
        return pattern
    range_of = 1 << layout.bits_stored if pattern < 1 << layout.bits_stored else 1 << 16
    return pattern - range_of if pattern >= range_of // 2 else pattern
