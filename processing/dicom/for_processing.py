"""Converts raw detector data (images for processing) into values in which air is black and dense tissue is bright.

Raw pixels are proportional to the X-ray exposure of the detector, so that air is the brightest. The conversion is the
textbook one, not a manufacturer's: the logarithm turns exposure into attenuation, and a window from the histogram puts
the tissue on the full scale. It equalises no thickness and sharpens nothing. Images that were converted differ from
those that the manufacturer made of the same data, so they have the flag `for-processing-converted`.

    exposure      the stored value, or its distance from the greatest one that Bits Stored allows (Pixel Intensity
                  Relationship Sign -1)
    attenuation   ln(exposure of air / exposure); air's exposure is the 99.5th percentile. Values that are already
                  logarithmic (Pixel Intensity Relationship LOG) give the difference from air directly
    window        black: half of the least attenuation of tissue (1st percentile); white: its 99.9th percentile.
                  Tissue attenuates more than `LEAST_ATTENUATION` and less than `MOST_ATTENUATION`

Padding, and pixels that attenuate more than any breast (collimator, edges), become air.
Source: PS3.3 C.8.11.3.1.2 and C.8.11.7 (Pixel Intensity Relationship and its sign).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.dicom.attributes import Tag, Tags, label, quoted
from mammopipe.processing.dicom.grayscale import FULL_SCALE
from mammopipe.processing.dicom.pixel_data import Cells
from mammopipe.processing.errors import CorruptImageError, UnsupportedImageError

AIR_SHARE = 0.995
LEAST_ATTENUATION, MOST_ATTENUATION = 0.25, 7.0
"""Attenuation of tissue, the natural logarithm of a ratio: some millimetres of fat, and more than 9 cm of gland."""
LEAST_TISSUE = 0.005
"""Least share of the pixels that must attenuate like tissue."""


def convert_raw(cells: Cells, tags: Tags, *, signed: bool, padding: tuple[int, int] | None) -> NDArray[np.uint16]:
    """Return the converted pixels of a decoded raw image, uint16, (rows, columns).

    Args:
        cells: The decoded frame.
        tags: The attributes of the image.
        signed: Whether stored values are signed.
        padding: First and last stored value of padding, if there is padding.

    Raises:
        UnsupportedImageError: As `conversion_table`.
        CorruptImageError: As `conversion_table`.
    """
    stored = (cells.array >> cells.shift) & ((1 << cells.bits) - 1)
    patterns = np.arange(1 << cells.bits, dtype=np.int64)
    values = np.where(patterns >= 1 << cells.bits - 1, patterns - (1 << cells.bits), patterns) if signed else patterns
    histogram = np.bincount(stored.ravel(), minlength=patterns.size)
    order = np.argsort(values)
    table = np.empty(patterns.size, np.uint16)
    table[order] = conversion_table(histogram[order], values[order], tags, padding)
    return np.asarray(table[stored], np.uint16)


def conversion_table(
    histogram: NDArray[np.int64], values: NDArray[np.int64], tags: Tags, padding: tuple[int, int] | None
) -> NDArray[np.uint16]:
    """Return the converted value of each stored value, uint16, 0 to 65535.

    Args:
        histogram: (n,) number of pixels of each stored value.
        values: (n,) the stored values, increasing.
        tags: The attributes of the image.
        padding: First and last stored value of padding, if there is padding.

    Raises:
        UnsupportedImageError: Pixel Intensity Relationship is neither LIN nor LOG.
        CorruptImageError: The values do not look like raw data of a breast.
    """
    kind = tags.code(Tag.PIXEL_INTENSITY_RELATIONSHIP)
    if kind not in ("", "LIN", "LOG"):
        raise UnsupportedImageError(
            f"{tags.where}: {label(Tag.PIXEL_INTENSITY_RELATIONSHIP)} is {quoted(kind)}; LIN and LOG are converted"
        )
    counted = histogram.astype(np.float64)
    if padding:
        counted[(values >= padding[0]) & (values <= padding[1])] = 0
    present = np.flatnonzero(counted)
    if not present.size:
        raise CorruptImageError(f"{tags.where}: every pixel is padding")
    lowest, highest = float(values[present[0]]), float(values[present[-1]])
    sign = tags.number(Tag.PIXEL_INTENSITY_RELATIONSHIP_SIGN)
    greatest = max(highest, 2.0 ** tags.integer(Tag.BITS_STORED) - 1)
    exposure = greatest - values if sign == -1 else values - min(0.0, lowest)
    attenuation = _attenuation(exposure.astype(np.float64), counted, logarithmic=kind == "LOG", span=highest - lowest)
    tissue = (attenuation > LEAST_ATTENUATION) & (attenuation < MOST_ATTENUATION) & (counted > 0)
    if counted[tissue].sum() < LEAST_TISSUE * counted.sum():
        raise CorruptImageError(f"{tags.where}: raw pixels without tissue: fewer than {LEAST_TISSUE:.1%} attenuate")
    least, most = (_percentile(attenuation, np.where(tissue, counted, 0), share) for share in (0.01, 0.999))
    black = least / 2
    shown = np.clip((attenuation - black) / max(most - black, 1e-6), 0, 1) * FULL_SCALE
    table = np.floor(shown + 0.5).astype(np.uint16)
    table[attenuation >= MOST_ATTENUATION] = 0
    if padding:
        table[(values >= padding[0]) & (values <= padding[1])] = 0
    return table


def _attenuation(
    exposure: NDArray[np.float64], counted: NDArray[Any], *, logarithmic: bool, span: float
) -> NDArray[np.float64]:
    """Return the attenuation of each stored value.

    The unit of logarithmic values is not stated. So `span`, the range of values in the image, is equated with
    `MOST_ATTENUATION` - 1.
    """
    air = _percentile(exposure, counted, AIR_SHARE)
    if logarithmic:
        return np.asarray((air - exposure) / max(span, 1.0) * (MOST_ATTENUATION - 1))
    return np.asarray(np.log((air + 1) / (np.maximum(exposure, 0) + 1)))


def _percentile(values: NDArray[np.float64], counted: NDArray[Any], share: float) -> float:
    """Return the value below which a share of the pixels lies."""
    order = np.argsort(values)
    below = np.cumsum(counted[order])
    return float(values[order][np.searchsorted(below, share * below[-1])])
