"""Connected objects of a mask and morphology with octagons, on uint8 arrays of 0 and 1."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Objects = NDArray[np.uint8]


def by_size(objects: Objects) -> Iterator[Objects]:
    """Yield the objects, each in its own array, from the largest to the smallest.

    The size is the area inside the outline, including holes and objects inside holes.
    """
    outlines, _ = cv2.findContours(objects, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for outline in sorted(outlines, key=cv2.contourArea, reverse=True):
        yield filled([outline], objects) & objects


def filled(outlines: Sequence[cv2.typing.MatLike], like: Objects) -> Objects:
    """Return the area inside the outlines as an array of the shape of `like`."""
    return np.asarray(cv2.drawContours(np.zeros_like(like), outlines, -1, 1, cv2.FILLED), np.uint8)


def without_holes(objects: Objects) -> Objects:
    """Return the objects with their holes filled."""
    outlines, _ = cv2.findContours(objects, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return filled(outlines, objects)


def dilated(objects: Objects, radius: float) -> Objects:
    """Return the objects dilated by an octagon."""
    return _octagon(objects, radius, cv2.MORPH_DILATE)


def eroded(objects: Objects, radius: float) -> Objects:
    """Return the objects eroded by an octagon."""
    return _octagon(objects, radius, cv2.MORPH_ERODE)


def opened(objects: Objects, radius: float) -> Objects:
    """Return the objects opened by an octagon: parts thinner than the octagon are removed."""
    return dilated(eroded(objects, radius), radius)


def _octagon(objects: Objects, radius: float, morph: int) -> Objects:
    """Dilate or erode by an octagon: a square, then a diamond, which cost a tenth of a disk of that size."""
    steps = max(1, round(radius))
    square = round(0.414 * steps)
    diamond = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    result = cv2.morphologyEx(objects, morph, diamond, iterations=steps - square)
    return np.asarray(cv2.morphologyEx(result, morph, np.ones((2 * square + 1, 2 * square + 1), np.uint8)), np.uint8)
