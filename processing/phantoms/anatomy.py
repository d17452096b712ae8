"""Draws the anatomy of a synthetic mammogram: outline, fat, gland, fibres and pectoral muscle, chest wall at the left.

Lengths are in units of the image's height; grey ranges from 0 (air) to 1.
"""

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.manifest import View
from mammopipe.processing.phantoms.muscle import MuscleTrait, draw_muscle

Mask = npt.NDArray[np.bool_]
Grey = npt.NDArray[np.float32]


class Density(StrEnum):
    """Density of the background tissue, as in the MIAS table."""

    FATTY = "F"
    GLANDULAR = "G"
    DENSE = "D"


_GLAND = {
    Density.FATTY: (0.55, (0.03, 0.12)),
    Density.GLANDULAR: (0.85, (0.10, 0.20)),
    Density.DENSE: (1.05, (0.20, 0.32)),
}
"""Size of the gland (1 fills most of the breast) and the range of grey that it adds to fat."""


@dataclass(frozen=True)
class Shape:
    """The shape of a breast; lengths in heights of the image, measured from the chest wall and from the top."""

    nipple_x: float
    nipple_y: float
    upper: float
    lower: float
    axilla: float
    muscle_width: float
    muscle_height: float
    muscle_curve: float
    fade: float
    """Distance from the skin over which the compressed breast reaches its full thickness."""


@dataclass(frozen=True)
class Canvas:
    """The image while it is drawn, chest wall at the left."""

    grey: Grey
    breast: Mask
    depth: Grey
    """Distance from the skin in pixels; the edge of the image does not count as skin."""
    pectoral: Mask


def draw_shape(patient: np.random.Generator, image: np.random.Generator, view: View, aspect: float) -> Shape:
    """Return the shape of a breast of `patient` with small differences for each image.

    Args:
        patient: The patient's random generator.
        image: The image's random generator.
        view: CC or MLO.
        aspect: Greatest width of the breast, in heights of the image.
    """

    def draw(low: float, high: float) -> float:
        return float(patient.uniform(low, high) * image.uniform(0.96, 1.04))

    nipple_x = min(draw(0.34, 0.56), 0.90 * aspect)
    axilla = min(draw(0.26, 0.42), 0.85 * nipple_x)
    muscle_width = min(draw(0.16, 0.32), 0.85 * axilla)
    oblique = view.shows_pectoral
    return Shape(
        nipple_x=nipple_x,
        nipple_y=draw(0.55, 0.66) if oblique else draw(0.46, 0.53),
        upper=draw(0.42, 0.54) if oblique else draw(0.33, 0.42),
        lower=draw(0.29, 0.37) if oblique else draw(0.33, 0.42),
        axilla=axilla if oblique else 0.0,
        muscle_width=muscle_width if oblique else 0.0,
        muscle_height=draw(0.38, 0.75),
        muscle_curve=draw(0.75, 1.25),
        fade=draw(0.09, 0.16),
    )


def draw_anatomy(
    shape: Shape,
    size: tuple[int, int],
    density: Density,
    rng: np.random.Generator,
    view: View,
    trait: MuscleTrait | None = None,
) -> Canvas:
    """Return the image without lesions and artefacts, as arrays of `size` (rows, columns).

    With a `trait`, the muscle of an oblique view has this trait in place of the size and curve of `shape`.
    """
    breast = _breast_mask(shape, size, rng)
    depth = _depth(breast)
    thickness = 1 - (1 - np.minimum(depth / (shape.fade * size[0]), 1)) ** 2.5
    tissue = _tissue(shape, size, density, rng)
    background = rng.uniform(0.012, 0.035) + 0.004 * _noise(rng, size, size[0] // 3)
    grey = np.where(breast, 0.10 + (tissue - 0.10) * thickness, background)
    muscle = np.zeros(size, np.bool_)
    if view.shows_pectoral and trait is not None:
        drawn = draw_muscle(trait, shape.axilla, tissue, rng)
        muscle, breast = drawn.mask, breast & drawn.bare
        soft = _blur(muscle.astype(np.float32), rng.uniform(0.003, 0.010) * size[0])
        faded = np.minimum(depth / (0.03 * size[0]), 1)
        soft *= faded
        grey = grey * (1 - soft) + np.maximum(grey, drawn.grey) * soft + drawn.lift * faded
        grey = np.where(drawn.bare, grey, background)
    elif view.shows_pectoral:
        muscle = _muscle_mask(shape, size, rng)
        soft = _blur(muscle.astype(np.float32), rng.uniform(0.004, 0.010) * size[0])
        soft *= np.minimum(depth / (0.03 * size[0]), 1)
        level = rng.uniform(0.70, 0.80) + 0.02 * _noise(rng, size, size[0] // 4) + 0.25 * (tissue - tissue.mean())
        grey = grey * (1 - soft) + np.maximum(grey, level) * soft
    grey = _blur(grey.astype(np.float32), 0.0013 * size[0])
    return Canvas(grey, breast, depth, muscle & breast)


def _breast_mask(shape: Shape, size: tuple[int, int], rng: np.random.Generator) -> Mask:
    """Return the inside of the outline: two quarter ellipses that meet at the nipple, and the axilla above them."""
    rows, columns = size
    y = np.arange(rows, dtype=np.float32) / rows - shape.nipple_y
    reach = np.where(y < 0, shape.upper, shape.lower)
    extent = shape.nipple_x * np.sqrt(np.maximum(1 - np.abs(y / reach) ** 2.1, 0))
    tail = shape.axilla * (1 - 0.15 * np.clip((y + shape.nipple_y) / shape.nipple_y, 0, 1))
    extent = np.where(y < 0, np.maximum(extent, tail), extent) * rows
    extent += 0.004 * rows * _noise(rng, (rows, 1), rows // 8)[:, 0] * (extent > 0.05 * rows)
    inside = (np.arange(columns) < extent[:, None]).astype(np.float32)
    # The blur rounds the corner between axilla and breast, where real skin is round, too.
    inside = _blur(inside, 0.030 * rows)
    nipple = np.zeros(size, np.float32)
    centre = (int((shape.nipple_x - 0.004) * rows), int(shape.nipple_y * rows))
    cv2.circle(nipple, centre, max(2, int(rng.uniform(0.010, 0.017) * rows)), 1.0, -1)
    return np.asarray((inside > 0.5) | (_blur(nipple, 0.003 * rows) > 0.5))


def _depth(breast: Mask) -> Grey:
    """Return the distance from the skin; the breast is continued beyond the image, whose edge is not skin."""
    margin = breast.shape[0] // 4
    wide = cv2.copyMakeBorder(breast.astype(np.uint8), margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(wide, cv2.DIST_L2, 5)
    return np.asarray(distance[margin:-margin, margin:-margin], np.float32)


def _tissue(shape: Shape, size: tuple[int, int], density: Density, rng: np.random.Generator) -> Grey:
    """Return the grey of fat, gland and fibres at full thickness of the breast."""
    rows, columns = size
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32) / rows
    spread, amount = _GLAND[density]
    fat = rng.uniform(0.40, 0.54) + (0.04 if density is Density.DENSE else 0.0)
    centre_x, centre_y = rng.uniform(0.46, 0.60) * shape.nipple_x, shape.nipple_y - rng.uniform(0.0, 0.06)
    radial = np.hypot((x - centre_x) / (0.50 * spread * shape.nipple_x), (y - centre_y) / (0.27 * spread))
    edge = 0.26 * _noise(rng, size, rows // 6) + 0.13 * _noise(rng, size, rows // 16)
    gland = 1 / (1 + np.exp(rng.uniform(5, 9) * (radial + edge - 1)))
    cloud = 0.6 * _noise(rng, size, rows // 12) + 0.4 * _noise(rng, size, rows // 26)
    cloud += 0.25 * _noise(rng, size, rows // 70)
    web = _ridge(_noise(rng, size, rows // 20) + 0.4 * _noise(rng, size, rows // 50), 0.30)
    fibres = _fibres(shape, x, y, rng)
    lobes = np.clip(0.80 + rng.uniform(0.12, 0.26) * cloud + 0.13 * web + 0.25 * fibres, 0.1, 1.35)
    patchy = np.clip(0.7 + 0.6 * _noise(rng, size, rows // 7), 0, 1.6)
    strands = patchy * (rng.uniform(0.03, 0.07) * fibres + rng.uniform(0.005, 0.02) * web) + 0.012 * cloud
    return np.asarray(fat + strands + rng.uniform(*amount) * gland * lobes, np.float32)


def _ridge(noise: Grey, width: float) -> Grey:
    """Return thin bright lines along the zero crossings of smooth noise; 1 at their centre."""
    return np.asarray(np.exp(-((noise / np.float32(width)) ** 2)), np.float32)


def _fibres(shape: Shape, x: Grey, y: Grey, rng: np.random.Generator) -> Grey:
    """Return thin strands, 0 to 1, that run towards the nipple like ducts and Cooper's ligaments."""
    grid = (64, 512)
    plane = 0.7 * _ridge(_noise(rng, grid, 9), 0.22) + 0.6 * _ridge(_noise(rng, grid, 5), 0.18)
    dx, dy = shape.nipple_x + 0.08 - x, y - shape.nipple_y
    size = (x.shape[0], x.shape[1])
    bend = 9 * _noise(rng, size, size[0] // 4) + 3 * _noise(rng, size, size[0] // 16)
    angle = (np.arctan2(dy, dx) / np.pi + 0.5) * (grid[1] - 1) + bend
    reach = np.hypot(dx, dy) * (grid[0] - 1)
    strands = cv2.remap(
        plane, angle.astype(np.float32), reach.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(strands, np.float32)


def _muscle_mask(shape: Shape, size: tuple[int, int], rng: np.random.Generator) -> Mask:
    rows, columns = size
    y = np.arange(rows, dtype=np.float32) / rows / shape.muscle_height
    edge = shape.muscle_width * np.maximum(1 - y, 0) ** shape.muscle_curve
    edge = edge + 0.004 * _noise(rng, (rows, 1), rows // 6)[:, 0] * (y < 0.9)
    return np.asarray(np.arange(columns) < (edge * rows)[:, None])


def _noise(rng: np.random.Generator, size: tuple[int, int], cell: int) -> Grey:
    """Return smooth noise of about unit standard deviation with structures about `cell` pixels wide."""
    coarse = (size[0] // max(cell, 1) + 3, size[1] // max(cell, 1) + 3)
    grid = rng.standard_normal(coarse, dtype=np.float32) * 1.3
    return np.asarray(cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _blur(image: Grey, sigma: float) -> Grey:
    """Return the image blurred by a Gaussian; a wide one is applied to a reduced copy, which is much faster."""
    rows, columns = image.shape
    step = max(int(sigma / 4), 1)
    small = cv2.resize(image, (columns // step, rows // step), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(sigma / step, 0.3), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(small, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)
