"""Makes the small copy on which the breast is segmented, and enlarges masks of the copy to full size.

The outline of a breast has no finer detail than a copy of `WORKING_SIZE` pixels a side shows. With the copy, an image
of 2776 x 2082 pixels takes milliseconds instead of a tenth of a second.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.errors import NoBreastError

Mask = NDArray[np.bool_]
Grey = NDArray[np.float32]

WORKING_SIZE = 320
"""Pixels of the longer side of the working copy."""
SMALLEST_SIDE = 32
"""Pixels of the shortest side of a mammogram; smaller images are refused."""
LEAST_RANGE = 2 * 257
"""Least range of the 16-bit values, two steps of 8 bits; an image with a smaller range shows nothing."""
BLUR_REACH = 6
"""Reach, in working pixels, of the blur that smooths a mask's boundary."""


def working_copy(pixels: NDArray[np.uint16]) -> Grey:
    """Return a copy of at most `WORKING_SIZE` pixels a side; 0 is the darkest value, 1 the 99th percentile.

    Args:
        pixels: uint16, (rows, columns).

    Returns:
        float32, (rows, columns) of the copy, 0 to 1.2.

    Raises:
        ValueError: `pixels` is not a 2-D uint16 array.
        NoBreastError: The image is too small for a mammogram, or all its pixels have nearly the same value.
    """
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise ValueError(f"pixels must be a 2-D uint16 array, not {pixels.dtype} of shape {pixels.shape}")
    if min(pixels.shape) < SMALLEST_SIDE:
        raise NoBreastError(
            f"no breast: the image measures {pixels.shape[1]} x {pixels.shape[0]} pixels; "
            f"at least {SMALLEST_SIDE} a side are needed"
        )
    scale = min(1.0, WORKING_SIZE / max(pixels.shape))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    # Averaging every pixel of a large image would cost more than everything else; every n-th pixel is enough.
    skip = max(1, int(1 / (2 * scale)))
    thinned = np.ascontiguousarray(pixels[skip // 2 :: skip, skip // 2 :: skip])
    grey = cv2.GaussianBlur(cv2.resize(thinned, size, interpolation=cv2.INTER_AREA).astype(np.float32), (0, 0), 0.8)
    grey -= grey.min()
    lit = grey[grey > 0]
    top = float(np.partition(lit, round(0.99 * (lit.size - 1)))[round(0.99 * (lit.size - 1))]) if lit.size else 0.0
    if top < LEAST_RANGE:
        raise NoBreastError("no breast: all pixels have nearly one value")
    return np.asarray(np.minimum(grey / np.float32(top), np.float32(1.2)), np.float32)


def enlarge(mask: Mask, shape: tuple[int, ...], *, within: Mask | None = None) -> Mask:
    """Return a mask of the working copy at full size, with a smooth boundary.

    Only the region around the mask is computed.

    Args:
        mask: bool, of the shape of the working copy.
        shape: Rows and columns of the full image.
        within: bool, of shape `shape`; the result is false where it is false.
    """
    result = np.zeros(shape, np.uint8)
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return result.view(np.bool_)
    rows, full_rows = _window(y, y + height, mask.shape[0], shape[0])
    columns, full_columns = _window(x, x + width, mask.shape[1], shape[1])
    box = result[full_rows, full_columns]
    soft = cv2.GaussianBlur(mask[rows, columns].astype(np.uint8) * 254, (0, 0), 1.2, borderType=cv2.BORDER_REPLICATE)
    # Written directly into the result: allocating memory of this size costs as much as the enlargement.
    cv2.resize(soft, box.shape[::-1], dst=box, interpolation=cv2.INTER_LINEAR)
    cv2.threshold(box, 127, 1, cv2.THRESH_BINARY, dst=box)
    if within is not None:
        box &= within.view(np.uint8)[full_rows, full_columns]
    return result.view(np.bool_)


def _window(first: int, last: int, small: int, full: int) -> tuple[slice, slice]:
    """Return a range around `first` to `last` in the working copy, and the same range in the full image.

    `small` and `full` are the lengths of the axis. Among a few candidates, the ends are those closest to a boundary
    between full pixels, so that enlarging shifts nothing.
    """
    scale, choice = full / small, range(BLUR_REACH, 3 * BLUR_REACH)

    def beside(end: int) -> float:
        return abs(end * scale - round(end * scale))

    start = min((max(first - margin, 0) for margin in choice), key=beside)
    stop = min((min(last + margin, small) for margin in choice), key=beside)
    return slice(start, stop), slice(round(start * scale), round(stop * scale))
