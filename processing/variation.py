"""Varies a segmented image at random each time that training uses it; lesions move with the pixels.

Segment puts the chest wall of every breast on the same side, and serving does the same. So images are not mirrored left
to right here. Only craniocaudal views are mirrored top to bottom, which swaps medial and lateral; in other views it
would give an anatomy that does not exist. Air stays exactly 0, in training and in serving.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import Lesion, View

Image = NDArray[np.float32]

# The ranges of the variations at full strength, as `Variation` describes them.
_DEGREES, _SCALE, _SHIFT = 30.0, 0.15, 0.05
_CROPPED = 0.5
_TONE = 0.2
_BLUR = 1.5
_REDUCED = 0.5
_DISPLACEMENT = 0.01
_SMOOTHNESS = 24
"""Pixels between the points of the coarse grid on which elastic displacements are drawn."""
_SOMETIMES = 0.3
"""Probability of the variations that are not applied at each use."""
DARKEST = 1 / 65535
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


@dataclass(frozen=True)
class Drawn:
    """The random numbers of one variation of one image; `apply`, or a GPU, makes the image from them."""

    degrees: float = 0.0
    """Rotation about the centre, counter-clockwise on the screen."""
    scale: float = 1.0
    right: float = 0.0
    """Shift in pixels, after rotation and scaling."""
    down: float = 0.0
    mirrored: bool = False
    """Whether the image is mirrored top to bottom before everything else."""
    displacement: NDArray[np.float32] | None = None
    """Elastic displacement in x and y, (2, h, w), on a coarse grid over the image; `None` displaces nothing."""
    reach: float = 0.0
    """Pixels of an elastic displacement of 1."""
    window: tuple[int, int, int, int] | None = None
    """Top, left, rows and columns of what is not blackened; `None` blackens nothing."""
    tone: tuple[float, float, float] | None = None
    """Logarithm of gamma, change of contrast, change of brightness; `None` changes nothing."""
    sigma: float = 0.0
    """Standard deviation of the blur in pixels; 0 does not blur."""
    reduction: float = 1.0
    """Factor of the resolution; 1 does not reduce it."""

    def matrix(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the affine transform of points (x, y), 2 x 3, for an image of `shape` (H, W)."""
        height, width = shape
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.degrees, self.scale)
        matrix[:, 2] += np.array([self.right, self.down])
        if self.mirrored:
            matrix = matrix @ np.array([[1.0, 0, 0], [0, -1.0, height - 1], [0, 0, 1]])
        return np.asarray(matrix, np.float64)


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
    drawn, moved = draw(image.shape, lesions, random, variation, craniocaudal=craniocaudal)
    return apply(image, drawn), moved


def draw(
    shape: tuple[int, ...],
    lesions: Sequence[Lesion],
    random: np.random.Generator,
    variation: Variation,
    *,
    craniocaudal: bool,
) -> tuple[Drawn, tuple[Lesion, ...]]:
    """Draw a variation of an image of `shape` (H, W); the other arguments are those of `vary`.

    Returns:
        The variation, and the lesions as they lie in the varied image, if their centres lie in it.
    """
    height, width = shape
    strength = variation.strength
    drawn = _geometry(height, width, random, variation, craniocaudal=craniocaudal)
    moved = [_moved(lesion, drawn.matrix(shape)) for lesion in lesions]
    if variation.elastic and random.random() < _SOMETIMES:
        coarse = random.standard_normal((2, *coarse_shape(height, width)), np.float32)
        drawn = replace(drawn, displacement=coarse, reach=_DISPLACEMENT * height * strength / 2)
        moved = _displaced(moved, drawn, height, width)
    inside = tuple(lesion for lesion in moved if 0 <= lesion.x < width and 0 <= lesion.y < height)
    window = _window(height, width, inside, random, strength) if variation.crop else None
    gamma, contrast, brightness = map(float, random.uniform(-1, 1, 3) * strength * _TONE)
    blurs, reduces, sigma, factor = random.random(4)
    drawn = replace(
        drawn,
        window=window,
        tone=(gamma, contrast, brightness) if variation.tone else None,
        sigma=float(sigma * strength * _BLUR) + 1e-3 if variation.blur and blurs < _SOMETIMES and strength else 0.0,
        reduction=float(1 - _REDUCED * strength * factor) if variation.downscale and reduces < _SOMETIMES else 1.0,
    )
    return drawn, inside


def apply(image: Image, drawn: Drawn) -> Image:
    """Return the variation of an image, (H, W) float32 in [0, 1], of the same shape."""
    height, width = image.shape
    warped = cv2.warpAffine(image, drawn.matrix(image.shape), (width, height), flags=cv2.INTER_LINEAR)
    varied = np.asarray(warped, np.float32)
    if drawn.displacement is not None:
        dx, dy = _fields(drawn.displacement, drawn.reach, height, width)
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        varied = np.asarray(cv2.remap(varied, columns + dx, rows + dy, cv2.INTER_LINEAR), np.float32)
    if drawn.window is not None:
        top, left, high, wide = drawn.window
        inside = np.s_[top : top + high, left : left + wide]
        window = np.zeros_like(varied)
        window[inside] = varied[inside]
        varied = window
    return _photometric(varied, drawn)


def _geometry(
    height: int, width: int, random: np.random.Generator, variation: Variation, *, craniocaudal: bool
) -> Drawn:
    strength = variation.strength if variation.affine else 0.0
    degrees, scale, right, down = map(
        float, random.uniform(-1, 1, 4) * strength * (_DEGREES, _SCALE, _SHIFT * width, _SHIFT * height)
    )
    # Always draw the random numbers, so that switching one variation off does not change the others.
    mirrored = random.random() < 0.5 and variation.flip and craniocaudal and variation.strength > 0
    return Drawn(degrees, 1 + scale, right, down, mirrored)


def _moved(lesion: Lesion, matrix: NDArray[np.float64]) -> Lesion:
    x, y = matrix @ (lesion.x, lesion.y, 1.0)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    return replace(lesion, x=float(x), y=float(y), radius=lesion.radius * scale)


def may_be_mirrored(view: View | None) -> bool:
    """Return whether a view's mirror image, top to bottom, shows an anatomy that exists: only in craniocaudal views."""
    return view is View.CC


def coarse_shape(height: int, width: int) -> tuple[int, int]:
    """Return the shape (h, w) of the coarse grid of elastic displacements of an image."""
    return max(2, height // _SMOOTHNESS), max(2, width // _SMOOTHNESS)


def _fields(displacement: NDArray[np.float32], reach: float, height: int, width: int) -> list[NDArray[np.float32]]:
    """Return the displacement of every pixel in x and in y, (H, W) each, in pixels."""
    fine = (cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in displacement)
    return [np.asarray(field) * np.float32(reach) for field in fine]


def _displaced(lesions: Sequence[Lesion], drawn: Drawn, height: int, width: int) -> list[Lesion]:
    if not lesions or drawn.displacement is None:
        return list(lesions)
    dx, dy = _fields(drawn.displacement, drawn.reach, height, width)
    placed = []
    for lesion in lesions:
        # The map gives the source of each pixel. Where it is smooth, a point moves in the opposite direction.
        row, column = (int(np.clip(round(at), 0, side - 1)) for at, side in ((lesion.y, height), (lesion.x, width)))
        placed.append(replace(lesion, x=lesion.x - float(dx[row, column]), y=lesion.y - float(dy[row, column])))
    return placed


def _window(
    height: int, width: int, lesions: Sequence[Lesion], random: np.random.Generator, strength: float
) -> tuple[int, int, int, int] | None:
    share = np.sqrt(1 - _CROPPED * strength * random.random())
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top = int(random.integers(0, height - rows, endpoint=True))
    left = int(random.integers(0, width - columns, endpoint=True))
    seen = [item for item in lesions if top <= item.y < top + rows and left <= item.x < left + columns]
    return None if lesions and not seen else (top, left, rows, columns)


def _photometric(image: Image, drawn: Drawn) -> Image:
    tissue = image > 0
    if drawn.tone is not None:
        gamma, contrast, brightness = drawn.tone
        curve = np.power(image, np.float32(np.exp(gamma))) - 0.5
        toned = curve * np.float32(1 + contrast) + np.float32(0.5 + brightness / 2)
        image = np.asarray(np.clip(toned, DARKEST, 1), np.float32)
    if drawn.sigma > 0:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), drawn.sigma), np.float32)
    if drawn.reduction < 1:
        height, width = image.shape
        size = reduced_size(height, width, drawn.reduction)
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return np.asarray(np.where(tissue, image, np.float32(0)), np.float32)


def reduced_size(height: int, width: int, reduction: float) -> tuple[int, int]:
    """Return (height, width) in pixels of an image whose resolution is reduced by a factor."""
    return max(1, round(height * reduction)), max(1, round(width * reduction))
