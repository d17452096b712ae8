"""Varies a segmented image at random each time that training uses it; lesions move with the pixels.

Segment puts the chest wall of every breast on the same side, so images are not mirrored left to right here: served
images never are. Only craniocaudal views are mirrored top to bottom, which swaps medial and lateral; in other views it
would give an anatomy that does not exist. Air stays exactly 0, in training and in serving.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import Lesion

Image = NDArray[np.float32]

_DEGREES, _SCALE, _SHIFT = 30.0, 0.15, 0.05
_CROPPED = 0.5
_TONE = 0.2
_BLUR = 1.5
_REDUCED = 0.5
_DISPLACEMENT, _SMOOTHNESS = 0.01, 24
_SOMETIMES = 0.3
_DARKEST = 1 / 65535
"""Darkest value of tissue; 0 is air."""


@dataclass(frozen=True)
class Variation:
    """Which variations are applied, and how strongly."""

    strength: float = 1.0
    """Factor of the ranges below, 0 to 1."""
    crop: bool = True
    """Blacken the image outside a window of 50 % to 100 % of its area; the window holds a lesion if there are any."""
    flip: bool = True
    """Mirror craniocaudal views top to bottom, in half of the uses."""
    affine: bool = True
    """Rotate by up to 30 degrees, scale by up to 15 %, shift by up to 5 % of the sides."""
    elastic: bool = True
    """Displace pixels smoothly by up to about 1 % of the height, in 30 % of the uses."""
    tone: bool = True
    """Change gamma, contrast and brightness by up to 20 %."""
    blur: bool = True
    """Blur with a Gaussian of up to 1.5 pixels, in 30 % of the uses."""
    downscale: bool = True
    """Reduce the resolution by up to a half, in 30 % of the uses."""


def vary(
    image: Image,
    lesions: Sequence[Lesion],
    random: np.random.Generator,
    variation: Variation,
    *,
    craniocaudal: bool,
) -> tuple[Image, tuple[Lesion, ...]]:
    """Return a variation of an image with its lesions.

    Args:
        image: float32, (H, W), in [0, 1], 0 = air; it is not changed.
        lesions: Circles in pixels of the image.
        random: The source of all random numbers.
        variation: The variations to apply.
        craniocaudal: Whether the view is CC, which may be mirrored top to bottom.

    Returns:
        The varied image, of the same shape, and the lesions whose centres lie in it.
    """
    strength = variation.strength
    matrix = _matrix(image.shape, random, variation, craniocaudal=craniocaudal)
    varied = np.asarray(cv2.warpAffine(image, matrix, image.shape[::-1], flags=cv2.INTER_LINEAR), np.float32)
    moved = [_moved(lesion, matrix) for lesion in lesions]
    if variation.elastic and random.random() < _SOMETIMES:
        varied, moved = _elastic(varied, moved, random, strength)
    height, width = image.shape
    inside = tuple(lesion for lesion in moved if 0 <= lesion.x < width and 0 <= lesion.y < height)
    if variation.crop:
        varied = _cropped(varied, inside, random, strength)
    return _photometric(varied, random, variation), inside


def _matrix(
    shape: tuple[int, ...], random: np.random.Generator, variation: Variation, *, craniocaudal: bool
) -> NDArray[np.float64]:
    """Return a random affine transform of points, 2 x 3, about the centre of an image of this shape."""
    height, width = shape
    strength = variation.strength if variation.affine else 0.0
    degrees, scale, right, down = (
        random.uniform(-1, 1, 4) * strength * (_DEGREES, _SCALE, _SHIFT * width, _SHIFT * height)
    )
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), float(degrees), 1 + float(scale))
    matrix[:, 2] += right, down
    # Always draw the random numbers, so that switching one variation off does not change the others.
    if random.random() < 0.5 and variation.flip and craniocaudal and variation.strength > 0:
        mirror = np.array([[1.0, 0, 0], [0, -1.0, height - 1], [0, 0, 1]])
        matrix = matrix @ mirror
    return np.asarray(matrix, np.float64)


def _moved(lesion: Lesion, matrix: NDArray[np.float64]) -> Lesion:
    x, y = matrix @ (lesion.x, lesion.y, 1.0)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    return replace(lesion, x=float(x), y=float(y), radius=lesion.radius * scale)


def _elastic(
    image: Image, lesions: Sequence[Lesion], random: np.random.Generator, strength: float
) -> tuple[Image, list[Lesion]]:
    height, width = image.shape
    coarse = random.standard_normal((2, max(2, height // _SMOOTHNESS), max(2, width // _SMOOTHNESS)), np.float32)
    pixels = np.float32(_DISPLACEMENT * height * strength / 2)
    dx, dy = (np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC)) * pixels for part in coarse)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = cv2.remap(image, columns + dx, rows + dy, cv2.INTER_LINEAR)
    placed = []
    for lesion in lesions:
        # The map gives the source of each pixel. Where it is smooth, a point moves in the opposite direction.
        row, column = (int(np.clip(round(at), 0, side - 1)) for at, side in ((lesion.y, height), (lesion.x, width)))
        placed.append(replace(lesion, x=lesion.x - float(dx[row, column]), y=lesion.y - float(dy[row, column])))
    return np.asarray(moved, np.float32), placed


def _cropped(image: Image, lesions: Sequence[Lesion], random: np.random.Generator, strength: float) -> Image:
    height, width = image.shape
    share = np.sqrt(1 - _CROPPED * strength * random.random())
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top = int(random.integers(0, height - rows, endpoint=True))
    left = int(random.integers(0, width - columns, endpoint=True))
    seen = [item for item in lesions if top <= item.y < top + rows and left <= item.x < left + columns]
    if lesions and not seen:
        return image
    window = np.zeros_like(image)
    window[top : top + rows, left : left + columns] = image[top : top + rows, left : left + columns]
    return window


def _photometric(image: Image, random: np.random.Generator, variation: Variation) -> Image:
    strength, tissue = variation.strength, image > 0
    gamma, contrast, brightness = random.uniform(-1, 1, 3) * strength * _TONE
    blurs, reduces, sigma, factor = random.random(4)
    if variation.tone:
        curve = np.power(image, np.float32(np.exp(gamma))) - 0.5
        toned = curve * np.float32(1 + contrast) + np.float32(0.5 + brightness / 2)
        image = np.asarray(np.clip(toned, _DARKEST, 1), np.float32)
    if variation.blur and blurs < _SOMETIMES and sigma * strength > 0:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(sigma * strength * _BLUR) + 1e-3), np.float32)
    if variation.downscale and reduces < _SOMETIMES:
        height, width = image.shape
        share = 1 - _REDUCED * strength * factor
        size = max(1, round(width * share)), max(1, round(height * share))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return np.asarray(np.where(tissue, image, np.float32(0)), np.float32)
