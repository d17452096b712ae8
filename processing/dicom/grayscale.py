"""Applies the grey-scale pipeline of PS3.3 as one look-up table: stored value -> modality -> VOI -> presentation.

Presentation values are 0 to 65535.

Order and formulas: PS3.3 C.7.6.3 (stored values), C.7.5.1.1.2 (pixel padding), C.11.1 (modality), C.11.2 (VOI;
C.11.2.1.2.1 LINEAR, C.11.2.1.3.1 SIGMOID, C.11.2.1.3.2 LINEAR_EXACT), C.8.11.3.1.2 (Presentation LUT Shape).
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
FULL_SCALE = 65535
SMALLEST, GREATEST = 1e-12, 1e12
"""Plausible magnitudes of slopes and window widths; `GREATEST` also limits intercepts and window centers."""
AIR = FULL_SCALE // 256
"""Greatest presentation value that is black in 8 bits."""


class VoiFunction(StrEnum):
    """VOI LUT Function (0028,1056)."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True)
class Rescale:
    """Rescaling: modality value = `slope` times stored value plus `intercept` (C.11.1.1.2)."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, values: Values) -> Values:
        """Return the modality values of stored values."""
        return values * self.slope + self.intercept

    def scale(self, stored_low: int, stored_high: int) -> tuple[float, float]:
        """Return the least and the greatest modality value for stored values of this range."""
        ends = (stored_low * self.slope + self.intercept, stored_high * self.slope + self.intercept)
        return min(ends), max(ends)


@dataclass(frozen=True, eq=False)
class Lut:
    """A Modality LUT or a VOI LUT (C.11.1.1.1, C.11.2.1.1)."""

    first: int
    """The input value of the first entry; lower inputs use the first entry, too high inputs use the last."""
    bits: int
    entries: NDArray[np.uint16]

    @property
    def top(self) -> int:
        """The greatest output value of `bits` bits."""
        return (1 << self.bits) - 1

    def __call__(self, values: Values) -> Values:
        """Return the table's outputs, 0 to `top`; fractional inputs use the nearest entry, halves are rounded up."""
        index = np.clip(np.floor(values - self.first + 0.5), 0, len(self.entries) - 1).astype(np.int64)
        return self.entries.astype(np.float64)[index]

    def scale(self, stored_low: int, stored_high: int) -> tuple[float, float]:
        """Return 0 and `top`: the bits of the entries determine the output range, whatever the input."""
        return 0.0, float(self.top)


@dataclass(frozen=True)
class Window:
    """Window Center, Window Width and VOI LUT Function; the output is 0 to 1."""

    function: VoiFunction
    center: float
    width: float

    def __call__(self, values: Values) -> Values:
        """Return the windowed values, 0 to 1."""
        if self.function is VoiFunction.SIGMOID:
            # Clipped so that float64 does not overflow; at this limit the result is 0 or 1 in 16 bits.
            return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700))))
        if self.function is VoiFunction.LINEAR_EXACT:
            return np.clip((values - self.center) / self.width + 0.5, 0, 1)
        center, width = self.center - 0.5, self.width - 1
        if width == 0:
            return np.asarray(values > center, np.float64)
        return np.clip((values - center) / width + 0.5, 0, 1)


@dataclass(frozen=True)
class Chain:
    """All steps from a stored value to its presentation value."""

    modality: Rescale | Lut
    voi: Window | Lut | None
    """`None` if the file has none: the full range of stored values then becomes the full range of presentation."""
    inverted: bool
    """Whether the last step inverts the values (MONOCHROME1, or Presentation LUT Shape INVERSE)."""
    padding: tuple[int, int] | None = None
    """First and last stored value of padding; padding becomes air, whatever the other steps give."""


def presentation(stored: NDArray[np.int64], bits_stored: int, signed: bool, chain: Chain) -> NDArray[np.uint16]:
    """Return the presentation values, 0 to 65535, of stored values; halves are rounded up.

    Args:
        stored: int64, the stored values.
        bits_stored: Bits Stored; it determines the full range if the chain has no VOI step.
        signed: Whether stored values are signed.
        chain: The steps.
    """
    values = chain.modality(stored.astype(np.float64))
    if isinstance(chain.voi, Window):
        share = chain.voi(values)
    elif isinstance(chain.voi, Lut):
        share = chain.voi(values) / chain.voi.top
    else:
        low, high = chain.modality.scale(*stored_range(bits_stored, signed))
        share = np.clip((values - low) / (high - low), 0, 1)
    result = np.floor(share * FULL_SCALE + 0.5).astype(np.uint16)
    if chain.inverted:
        result = FULL_SCALE - result
    if chain.padding:
        result[(stored >= chain.padding[0]) & (stored <= chain.padding[1])] = 0
    return result


def padding_shows(bits_stored: int, signed: bool, chain: Chain) -> bool:
    """Return whether the chain without its padding step would make padding brighter than air."""
    if not chain.padding:
        return False
    low, high = stored_range(bits_stored, signed)
    stored = np.arange(max(chain.padding[0], low), min(chain.padding[1], high) + 1, dtype=np.int64)
    shown = presentation(stored, bits_stored, signed, replace(chain, padding=None))
    return bool(shown.size) and int(shown.max()) > AIR


def stored_range(bits: int, signed: bool) -> tuple[int, int]:
    """Return the least and the greatest stored value of this number of bits."""
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def apply(
    cells: NDArray[Any], bits: int, shift: int, *, bits_stored: int, signed: bool, chain: Chain
) -> NDArray[np.uint16]:
    """Return the presentation values, uint16, of the cells of a decoded frame.

    Args:
        cells: uint8 or uint16. Writeable uint16 cells are overwritten.
        bits: Number of bits of the stored value in a cell: `bits_stored`, or more where values are beyond its range
            (scanners write 12 stored bits in 16-bit codestreams).
        shift: The lowest of these bits.
        bits_stored: Bits Stored; it determines the full range if the chain has no VOI step.
        signed: Whether stored values are signed.
        chain: The steps.
    """
    patterns = np.arange(1 << bits, dtype=np.int64)
    if signed:
        patterns[1 << bits - 1 :] -= 1 << bits
    table = presentation(patterns, bits_stored, signed, chain)
    if table.size != 1 << 8 * cells.itemsize:
        every_cell = np.arange(1 << 8 * cells.itemsize)
        table = table[(every_cell >> shift) & ((1 << bits) - 1)]
    # In place if the cells are a decoder's own output: new memory of this size would cost more than the look-up.
    own = cells.dtype == np.uint16 and cells.flags.writeable and cells.flags.c_contiguous
    return np.asarray(cv2.LUT(cells, table, dst=cells if own else None), np.uint16)
