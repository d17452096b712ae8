"""One mammogram from a file or its bytes: pixels on one scale, side, view, spacing, and facts that identify nobody.

The only reader of DICOM, PGM and PNG in the project: training and serving both come through `read_mammogram`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from processing.image_rules import (
    CorruptImageError,
    ImageTooLargeError,
    Limits,
    NotAMammogramError,
    UnsupportedImageError,
)
from processing.raster import PNG_SIGNATURE, read_pgm, read_png, write_png
from processing.records import ImageRecord, Laterality, View

__all__ = [
    "CorruptImageError",
    "ImageTooLargeError",
    "Limits",
    "Mammogram",
    "NotAMammogramError",
    "UnsupportedImageError",
    "read_mammogram",
    "write_png",
]

Fact = str | int | float | bool


@dataclass(frozen=True)
class Mammogram:
    """One 2-D mammogram of one breast."""

    pixels: NDArray[np.uint16]
    """Rows x columns, C-contiguous, on the scale 0..65535 whatever the source; 0 is air, bright is dense."""
    laterality: Laterality | None = None
    view: View | None = None
    pixel_spacing_mm: float | None = None
    """Millimetres between the centres of neighbouring pixels."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """Where the values come from; an allow-list, so that nothing here identifies a patient."""


def read_mammogram(source: Path | bytes, *, record: ImageRecord | None = None, limits: Limits = Limits()) -> Mammogram:
    """Return the mammogram in a PGM or PNG file, or in the bytes of one.

    `record` fills in laterality, view and spacing where the file says nothing of them. Raises the `ImageError`
    subclasses of `processing.image_rules`; their messages name the file (`<bytes>` for bytes), the value and the rule.
    """
    where, data = _load(source, limits)
    if data.startswith(PNG_SIGNATURE):
        pixels, facts = read_png(data, where=where, limits=limits)
    elif data[:1] == b"P" and data[1:2].isdigit():
        pixels, facts = read_pgm(data, where=where, limits=limits)
    else:
        raise UnsupportedImageError(f"{where}: neither PGM nor PNG: the file starts with {data[:8].hex(' ')}")
    return Mammogram(pixels, record.laterality if record else None, record.view if record else None,
                     record.pixel_spacing_mm if record else None, facts)


def _load(source: Path | bytes, limits: Limits) -> tuple[str, bytes]:
    """Return the name used in errors and the bytes, no more of them than the limits allow."""
    if isinstance(source, bytes):
        limits.check_bytes(len(source), "<bytes>")
        return "<bytes>", source
    where = str(source)
    try:
        limits.check_bytes(source.stat().st_size, where)
        return where, source.read_bytes()
    except OSError as error:
        raise CorruptImageError(f"{where}: cannot be read: {error.strerror}") from None
