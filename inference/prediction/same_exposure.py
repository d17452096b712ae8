"""Recognises one exposure in two files of an exam, whatever the encoding; two exposures of one breast are two.

An exposure may be in an exam as DICOM and as PNG, with 16 and with 8 bits, with two windows, in two sizes, mirrored, or
stored again with another SOP Instance UID. Its score would then count twice. Two tests decide:

1. The brightness of the tissue, averaged over a coarse grid and replaced by its rank, must agree. Ranks stay the same
   under every window and every other rising change of the grey scale.
2. The fine detail, with the same contrast everywhere, must agree, too. Two exposures of one breast have different
   noise, and the breast moves between them. Files of different shapes (one was cropped) are not aligned: for these the
   first test decides alone, with a stricter limit.

Measured: the 51,681 pairs of mini-MIAS, mirrored to one side, differ by at least 0.043 in the first test; the detail of
the 400 most similar and of all 161 pairs of one woman correlates by 0.08 at most. Other encodings of phantoms with at
least 512 rows correlate by 0.86 at least.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.chest_side import Side
from mammopipe.processing.breast.preprocess import Preprocessed
from mammopipe.processing.images.fine_detail import DetailScales
from mammopipe.processing.images.mammogram import Mammogram

CELLS = 32
"""Cells of the coarse grid along each side of the breast's bounding box."""
ROWS = 512
"""Most rows of the copy that is kept of an image."""
MOST_DIFFERENCE, MOST_DIFFERENCE_ALONE = 0.1, 0.03
"""Greatest mean difference of the cells' ranks, 0 to 1, between two encodings of one exposure: where the detail is
compared, too, and where the files' shapes differ."""
LEAST_CORRELATION = 0.85
"""Least correlation of the fine detail between two encodings of one exposure."""
_SCALES = DetailScales(fine=0.7, coarse=2.0, contrast=12.0, floor=1.0, tissue_only=False)
_RIM = 15
"""Width of the breast's rim that is left out, in pixels, because outlines resemble each other."""


@dataclass(frozen=True)
class Exposure:
    """What is kept of an image, with the chest wall at the left."""

    cells: NDArray[np.float32]
    """(`CELLS`, `CELLS`): the rank of each cell's brightness among the tissue's cells, above 0 to 1; 0 outside."""
    pixels: NDArray[np.uint16]
    """The whole image, reduced to at most `ROWS` rows."""
    inside: NDArray[np.uint8]
    """The breast in `pixels`, 0 or 255."""

    @classmethod
    def of(cls, mammogram: Mammogram, prepared: Preprocessed) -> "Exposure":
        """Return what is kept of a mammogram; `prepared` is the network's input made from it."""
        rows, columns = mammogram.pixels.shape
        height = min(rows, ROWS)
        size = (max(1, round(columns * height / rows)), height)
        pixels = np.asarray(cv2.resize(mammogram.pixels, size, interpolation=cv2.INTER_AREA), np.uint16)
        mask = prepared.region.mask.astype(np.uint8) * np.uint8(255)
        inside = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.uint8)
        if prepared.region.chest_side is Side.RIGHT:
            pixels, inside = np.ascontiguousarray(pixels[:, ::-1]), np.ascontiguousarray(inside[:, ::-1])
        return cls(_cells(pixels, inside), pixels, inside)

    def is_of(self, other: "Exposure") -> bool:
        """Return whether two images show the same exposure."""
        difference = float(np.abs(self.cells - other.cells).mean())
        if not _same_frame(self, other):
            return difference <= MOST_DIFFERENCE_ALONE
        return difference <= MOST_DIFFERENCE and _correlation(self, other) >= LEAST_CORRELATION


class Exposures:
    """The exposures of an exam, one after the other."""

    def __init__(self) -> None:
        self._seen: list[Exposure] = []

    def has(self, mammogram: Mammogram, prepared: Preprocessed) -> bool:
        """Return whether an earlier image shows the same exposure; remember this image."""
        exposure = Exposure.of(mammogram, prepared)
        found = any(map(exposure.is_of, self._seen))
        self._seen.append(exposure)
        return found


def _cells(pixels: NDArray[np.uint16], inside: NDArray[np.uint8]) -> NDArray[np.float32]:
    left, top, width, height = cv2.boundingRect(inside)
    box = np.s_[top : top + height, left : left + width]
    weight = (inside[box] >= 128).astype(np.float32)
    share = cv2.resize(weight, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    total = cv2.resize(pixels[box] * weight, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    # `total / share` is the mean brightness of the tissue in a cell; an `argsort` of an `argsort` gives ranks.
    tissue = share >= 0.5
    ranks = np.zeros((CELLS, CELLS), np.float32)
    order = np.argsort(total[tissue] / share[tissue], kind="stable")
    ranks[tissue] = (np.argsort(order) + 1) / max(1, len(order))
    return ranks


def _same_frame(one: Exposure, other: Exposure) -> bool:
    """Return whether the shapes of two files differ by no more than the rounding of a size to whole pixels."""
    (rows, columns), (other_rows, other_columns) = one.pixels.shape, other.pixels.shape
    return bool(abs(rows * other_columns / (columns * other_rows) - 1) <= 1 / min(columns, other_columns))


def _correlation(one: Exposure, other: Exposure) -> float:
    """Return the correlation of the detail inside both breasts, at the size of the smaller image."""
    rows, columns = min((one.pixels.shape, other.pixels.shape))
    views = [
        [cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA) for part in (each.pixels, each.inside)]
        for each in (one, other)
    ]
    inside = cv2.erode(np.minimum(views[0][1], views[1][1]), np.ones((_RIM, _RIM), np.uint8), borderValue=(0,)) >= 128
    first, second = (_SCALES.of(pixels.astype(np.float32), inside) for pixels, _ in views)
    power = float(np.sqrt((first**2).sum()) * np.sqrt((second**2).sum()))
    return float((first * second).sum()) / power if power else 1.0
