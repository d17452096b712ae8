"""Draws pectoral muscles that are hard to find, each with one trait that real oblique views show.

Lengths are in units of the image's height; the chest wall is at the left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Grey = npt.NDArray[np.float32]
Values = npt.NDArray[np.floating]


class MuscleTrait(StrEnum):
    """What makes a muscle hard to find."""

    CONVEX = "convex"
    """The edge bulges into the breast."""
    CONCAVE = "concave"
    """The edge is hollow: the muscle is wide at the top and has a thin tail."""
    S_SHAPED = "s-shaped"
    """The upper half of the edge bulges, the lower half is hollow."""
    KNEE = "knee"
    """Two straight pieces meet at an angle."""
    FAINT = "faint"
    """The muscle is little brighter than the fat beside it."""
    FADING = "fading"
    """The muscle's brightness falls towards its lower end."""
    LAYERED = "layered"
    """A second, brighter muscle (pectoralis minor) lies on the upper part of the first."""
    NODE = "node"
    """Lymph nodes lie on the muscle and beside it."""
    SKIN_FOLD = "skin-fold"
    """A bright line, a fold of skin, crosses the muscle."""
    SEAM = "seam"
    """A bright vertical strip runs along the whole chest wall."""
    STEEP = "steep"
    """A narrow muscle that runs down to the lower third of the image."""
    SHALLOW = "shallow"
    """A wide muscle that ends high: its edge is nearly horizontal."""
    CUT_CORNER = "cut-corner"
    """The upper corner of the image is black: the collimator or the film's edge cuts off a part of the muscle."""
    SMALL = "small"
    """Only a small corner of the muscle is in the image."""
    GLAND_BESIDE = "gland-beside"
    """Gland as bright as the muscle touches the middle of its edge."""


@dataclass(frozen=True)
class DrawnMuscle:
    """A muscle, as arrays of the image's size."""

    mask: Mask
    grey: Grey
    """Grey of the muscle at full thickness of the breast."""
    lift: Grey
    """Grey that nodes, folds, a seam and gland add to the image."""
    bare: Mask
    """True where the image is not cut off."""


_Range = tuple[float, float]
_SIZES: dict[MuscleTrait, tuple[_Range, _Range]] = {
    MuscleTrait.STEEP: ((0.12, 0.22), (0.85, 1.25)),
    MuscleTrait.SHALLOW: ((0.34, 0.50), (0.28, 0.42)),
    MuscleTrait.SMALL: ((0.09, 0.16), (0.16, 0.30)),
    MuscleTrait.SEAM: ((0.20, 0.34), (0.40, 0.65)),
}
"""Range of a muscle's width at the upper edge and of its height; other traits have the middle range."""
_MIDDLE = (0.18, 0.36), (0.40, 0.85)


def draw_muscle(trait: MuscleTrait, axilla: float, tissue: Grey, rng: np.random.Generator) -> DrawnMuscle:
    """Return a muscle with a trait.

    Args:
        trait: What makes it hard to find.
        axilla: Width of the breast at the upper edge; no muscle is wider than 0.85 of it.
        tissue: Grey of fat and gland at full thickness, float32, (rows, columns).
        rng: The image's random generator.
    """
    rows, columns = tissue.shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32) / rows
    widths, heights = _SIZES.get(trait, _MIDDLE)
    width, height = min(rng.uniform(*widths), 0.85 * axilla), rng.uniform(*heights)
    edge = width * _profile(trait, rng)(y[:, 0] / height)
    edge = edge + 0.004 * np.sin(y[:, 0] * rng.uniform(10, 40) + rng.uniform(0, 6)) * (edge > 0)
    mask = x < edge[:, None]
    fat = float(np.median(tissue))
    excess = rng.uniform(0.06, 0.12) if trait is MuscleTrait.FAINT else rng.uniform(0.16, 0.32)
    level = np.float32(fat + excess) + rng.uniform(0.15, 0.4) * (tissue - tissue.mean())
    if trait is MuscleTrait.FADING:
        level = level - rng.uniform(0.5, 0.85) * excess * np.minimum(y / height, 1)
    if trait is MuscleTrait.LAYERED:
        inner = x < (rng.uniform(0.45, 0.7) * width * np.maximum(1 - y / (rng.uniform(0.5, 0.8) * height), 0))
        level = level + rng.uniform(0.06, 0.15) * cv2.GaussianBlur(inner.astype(np.float32), (0, 0), 0.006 * rows)
    bare = np.ones((rows, columns), np.bool_)
    if trait is MuscleTrait.CUT_CORNER:
        bare = _without_corner(x, y, width, rng)
    return DrawnMuscle(mask, level.astype(np.float32), _lift(trait, x, y, edge, height, rng), bare)


def _profile(trait: MuscleTrait, rng: np.random.Generator) -> Callable[[Grey], Values]:
    """Return the width of a muscle, as a share of that at the upper edge, by depth as a share of its height."""
    if trait is MuscleTrait.S_SHAPED:
        bend = rng.uniform(0.10, 0.18)
        return lambda t: np.maximum(1 - t + bend * np.sin(2 * np.pi * np.minimum(t, 1)), 0)
    if trait is MuscleTrait.KNEE:
        knee, left = rng.uniform(0.35, 0.65), rng.uniform(0.3, 0.7)
        return lambda t: np.interp(t, [0, knee, 1, 9], [1, left, 0, 0]).astype(np.float32)
    powers = {MuscleTrait.CONVEX: (0.45, 0.75), MuscleTrait.CONCAVE: (1.3, 1.9)}
    power = rng.uniform(*powers.get(trait, (0.8, 1.2)))
    return lambda t: np.maximum(1 - t, 0) ** power


def _without_corner(x: Grey, y: Grey, width: float, rng: np.random.Generator) -> Mask:
    """Return the image without its upper corner, or without a band along its upper edge."""
    if rng.uniform() < 0.5:
        return np.asarray(y > rng.uniform(0.01, 0.06) + 0.05 * rng.uniform(-1, 1) * x)
    return np.asarray(x / (rng.uniform(0.2, 0.7) * width) + y / rng.uniform(0.04, 0.15) > 1)


def _lift(trait: MuscleTrait, x: Grey, y: Grey, edge: Values, height: float, rng: np.random.Generator) -> Grey:
    """Return the grey that a trait adds to the image."""
    rows = x.shape[0]
    lift: Values = np.zeros_like(x)
    if trait is MuscleTrait.NODE:
        for _ in range(int(rng.integers(1, 4))):
            row = rng.uniform(0.05, 0.7) * height
            column = float(edge[min(int(row * rows), rows - 1)]) * rng.uniform(0.3, 1.3)
            shape = ((x - column) / rng.uniform(0.012, 0.03)) ** 2 + ((y - row) / rng.uniform(0.015, 0.04)) ** 2
            lift += rng.uniform(0.1, 0.25) * np.exp(-(shape**2))
    if trait is MuscleTrait.SKIN_FOLD:
        start, slope = rng.uniform(0.05, 0.4) * height, rng.uniform(-0.8, 0.8)
        lift = rng.uniform(0.08, 0.2) * np.exp(-(((y - start - slope * x) / rng.uniform(0.003, 0.008)) ** 2))
    if trait is MuscleTrait.SEAM:
        width = rng.uniform(0.01, 0.04) * (1 + rng.uniform(-0.5, 0.5) * y)
        lift = rng.uniform(0.1, 0.3) / (1 + np.exp(np.clip((x - width) / 0.002, -50, 50)))
    if trait is MuscleTrait.GLAND_BESIDE:
        row = rng.uniform(0.35, 0.75) * height
        column = float(edge[min(int(row * rows), rows - 1)]) + rng.uniform(0.02, 0.07)
        shape = ((x - column) / rng.uniform(0.05, 0.10)) ** 2 + ((y - row) / rng.uniform(0.05, 0.10)) ** 2
        lift = rng.uniform(0.12, 0.25) * np.exp(-(shape**2))
    return np.asarray(lift, np.float32)
