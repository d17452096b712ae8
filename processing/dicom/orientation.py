"""Reads Patient Orientation, which says how to turn a stored image, and the display shutter, which hides parts of it.

Mammograms are read with the chest wall of a left breast at the left edge and that of a right breast at the right edge.
The head end (MLO, ML, LM) or the outer side (CC) is at the top. Patient Orientation names the direction of the rows,
then that of the columns, each by letters of decreasing weight. Sources: PS3.3 C.7.6.1.1.1, PS3.17 annex A (explanation
of patient orientation), PS3.3 C.7.6.11 (Display Shutter).
"""

import re

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.dicom.attributes import Tag, Tags, label, quoted
from mammopipe.processing.dicom.view_text import read_view_text
from mammopipe.processing.errors import CorruptImageError
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.turn import Turn

_OPPOSITE = {"A": "P", "P": "A", "H": "F", "F": "H", "L": "R", "R": "L"}
_DIRECTION = re.compile(r"(?!.*[AP].*[AP])(?!.*[HF].*[HF])(?!.*[LR].*[LR])[APHFLR]{1,3}")
"""A direction has at most one letter of each axis."""
_DEPTH = "AP"
"""Letters of the axis from the chest wall to the nipple: anterior and posterior."""
_OUTWARDS = {Laterality.LEFT: "A", Laterality.RIGHT: "P"}
"""Direction of the rows of an image of each side, oriented for reading."""
_INWARDS = {Laterality.LEFT: "R", Laterality.RIGHT: "L"}
"""Direction of the columns of a CC image of each side: from the outer to the inner side."""


class Orientation:
    """Patient Orientation (0020,0020) of one image; an unusable value leaves the image as it is."""

    def __init__(self, tags: Tags) -> None:
        """Read the attribute; adds `attribute-ignored` to `flags` if it is stated without two usable directions."""
        self._tags = tags
        self.flags: set[ImageFlag] = set()
        self._row = self._column = ""
        self._transposed = False
        values = tags.codes(Tag.PATIENT_ORIENTATION)
        self._misplaced_view = read_view_text(values[0]).view if len(values) == 1 else None
        if not values or self._misplaced_view:
            return
        usable = len(values) == 2 and all(_DIRECTION.fullmatch(value) for value in values)
        # Exactly one of the two directions must run along the axis from the chest wall to the nipple.
        if not usable or (values[0][0] in _DEPTH) == (values[1][0] in _DEPTH):
            self.flags.add(ImageFlag.ATTRIBUTE_IGNORED)
            return
        self._transposed = values[1][0] in _DEPTH
        self._row, self._column = values[::-1] if self._transposed else values

    @property
    def laterality(self) -> Laterality | None:
        """The side that the columns of an oblique image show: they run inwards and down, or outwards and up."""
        if self._column[:1] not in ("H", "F"):
            return None
        across = next((letter for letter in self._column[1:] if letter in "LR"), "")
        inwards = across if self._column[0] == "F" else _OPPOSITE.get(across, "")
        return next((side for side, letter in _INWARDS.items() if letter == inwards), None)

    @property
    def view(self) -> View | None:
        """The view that the columns show: MLO if they run obliquely up or down, CC if they run across the body.

        Some collections (CBIS-DDSM) store the name of the view instead of the directions.
        """
        if self._misplaced_view:
            return self._misplaced_view
        if self._column[:1] in ("H", "F"):
            return View.MLO if self.laterality else None
        return View.CC if self._column[:1] in ("L", "R") else None

    def turn(self, laterality: Laterality | None, rows: int, columns: int) -> Turn:
        """Return how to turn the stored image.

        Args:
            laterality: The side of the breast, if known.
            rows: Rows of the stored image.
            columns: Columns of the stored image.

        Raises:
            CorruptImageError: The columns of an oblique image show the other side.
        """
        if not self._row:
            return Turn(rows=rows, columns=columns)
        shown = self.laterality
        if shown and laterality and shown is not laterality:
            text = "\\".join(self._tags.codes(Tag.PATIENT_ORIENTATION))
            raise CorruptImageError(
                f"{self._tags.where}: {label(Tag.PATIENT_ORIENTATION)} is {quoted(text)}, the orientation of a "
                f"{shown} breast, but the laterality is {laterality}"
            )
        side = laterality or shown
        left_right = side is not None and self._row[0] != _OUTWARDS[side]
        if self._column[0] in "HF":
            top_bottom = self._column[0] == "H"
        else:
            top_bottom = side is not None and self._column[0] != _INWARDS[side]
        if self._transposed:
            rows, columns = columns, rows
        return Turn(self._transposed, left_right, top_bottom, rows, columns)


def read_shutter(tags: Tags, rows: int, columns: int) -> tuple[NDArray[np.bool_] | None, set[ImageFlag]]:
    """Return which stored pixels a display shutter leaves visible, and flags; `None` if it hides none.

    A pixel is visible if every shape leaves it visible. Edges and vertices are counted from 1 and are themselves
    visible. A shutter that is incomplete or hides every pixel is ignored, with a flag.

    Returns:
        bool, (rows, columns), true for visible pixels, or `None`; and the flags.
    """
    shapes = tags.codes(Tag.SHUTTER_SHAPE)
    if not shapes:
        return None, set()
    visible = np.ones((rows, columns), np.bool_)
    try:
        for shape in shapes:
            visible &= _SHAPES[shape](tags, rows, columns)
    except (CorruptImageError, KeyError):
        return None, {ImageFlag.ATTRIBUTE_IGNORED}
    if not visible.any():
        return None, {ImageFlag.ATTRIBUTE_IGNORED}
    return (None, set()) if visible.all() else (visible, {ImageFlag.SHUTTER})


def _values(tags: Tags, tag: Tag, least: int) -> tuple[float, ...]:
    values = tags.numbers(tag)
    if len(values) < least or max(map(abs, values)) > 1e6:
        raise tags.corrupt(tag, f"has {len(values)} values; {least} are needed")
    return values


def _rectangle(tags: Tags, rows: int, columns: int) -> NDArray[np.bool_]:
    edges = (Tag.SHUTTER_UPPER, Tag.SHUTTER_LOWER, Tag.SHUTTER_LEFT, Tag.SHUTTER_RIGHT)
    upper, lower, left, right = (_values(tags, tag, 1)[0] for tag in edges)
    row, column = np.arange(1, rows + 1), np.arange(1, columns + 1)
    return np.outer((row >= upper) & (row <= lower), (column >= left) & (column <= right))


def _circle(tags: Tags, rows: int, columns: int) -> NDArray[np.bool_]:
    (y, x), radius = _values(tags, Tag.SHUTTER_CENTER, 2)[:2], _values(tags, Tag.SHUTTER_RADIUS, 1)[0]
    # Half the width of the circle in each row; -1 in rows outside the circle.
    squares = radius**2 - (np.arange(1, rows + 1) - y) ** 2
    half = np.where(squares >= 0, np.sqrt(squares.clip(0)), -1)
    return np.asarray(np.abs(np.arange(1, columns + 1) - x)[None] <= half[:, None])


def _polygon(tags: Tags, rows: int, columns: int) -> NDArray[np.bool_]:
    values = _values(tags, Tag.SHUTTER_VERTICES, 6)
    if len(values) % 2:
        raise tags.corrupt(Tag.SHUTTER_VERTICES, f"has {len(values)} values; pairs of row and column are needed")
    corners = np.array([(x - 1, y - 1) for y, x in zip(values[::2], values[1::2], strict=True)], np.int32)
    filled = cv2.fillPoly(np.zeros((rows, columns), np.uint8), [corners], 1)
    return np.asarray(filled, np.bool_)


_SHAPES = {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}


def darken(pixels: NDArray[np.uint16], visible: NDArray[np.bool_]) -> None:
    """Set the pixels that a shutter hides to air, in place.

    Args:
        pixels: uint16, (rows, columns), of the size that the file announces or of half that size.
        visible: bool, of the size that the file announces.
    """
    if visible.shape != pixels.shape:
        rows, columns = pixels.shape
        padded = np.pad(visible, ((0, 2 * rows - visible.shape[0]), (0, 2 * columns - visible.shape[1])), mode="edge")
        # A half-size pixel is visible if any of its four pixels is.
        visible = np.asarray(padded.reshape(rows, 2, columns, 2).any((1, 3)))
    pixels[~visible] = 0
