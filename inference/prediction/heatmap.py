"""Heatmaps: maps the class activation back to the original image, finds its regions and draws overlays."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.inference.contract import heat_colours
from mammopipe.inference.contract.schema import Region
from mammopipe.processing.breast.preprocess import Preprocessed
from mammopipe.training.model.class_activation import within_tissue

Heat = NDArray[np.float32]

_COLOURS = np.array(heat_colours.table(), np.uint8)[:, ::-1]
"""Colours in OpenCV's channel order, one for each 8-bit level of heat."""
REGION_LEVEL = 0.5
"""Least heat of a region's pixels, as a share of the maximum."""
LARGEST_REGIONS = 5
"""Most regions in an answer, the strongest first."""
OUTSIDE_LIMIT = 0.5
"""Share of all heat outside the tissue above which the answer carries a warning."""


@dataclass(frozen=True)
class Evidence:
    """The evidence for a class over the original image."""

    heat: Heat
    """Heat over the image, float32 of the image's shape, 0 to 1; 0 outside the tissue."""
    outside: float
    """Share of the heat outside the tissue before it was removed, 0 to 1; high if the model learnt the wrong thing."""


def evidence(heat: Heat, prepared: Preprocessed, shape: tuple[int, ...]) -> Evidence:
    """Return the evidence over the original image.

    Args:
        heat: Heat over the network's input, float32 (H, W), 0 to 1.
        prepared: The network's input.
        shape: Shape of the original image (rows, columns).
    """
    inside = within_tissue(heat, prepared.pixels)
    total = float(heat.sum())
    outside = 1 - float(inside.sum()) / total if total > 0 else 0.0
    return Evidence(to_image(inside, prepared.to_original, shape), outside)


def to_image(heat: Heat, to_original: Callable[[float, float], tuple[float, float]], shape: tuple[int, ...]) -> Heat:
    """Return the heat over the original image, float32; 0 outside the area that the network saw.

    Args:
        heat: Heat over the network's input, float32 (H, W), 0 to 1.
        to_original: Affine map from pixel positions (x, y) of the network's input to those of the original image.
        shape: Shape of the original image (rows, columns).
    """
    # An affine map is determined by the images of three points.
    origin, right, down = (np.array(to_original(*point)) for point in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)))
    matrix = np.stack([right - origin, down - origin, origin], axis=1)
    image = cv2.warpAffine(heat, matrix, (shape[1], shape[0]), flags=cv2.INTER_LINEAR, borderValue=0.0)
    return np.asarray(image, np.float32)


def eight_bits(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return the image without heat, as 8-bit grey of the same shape."""
    return (pixels >> 8).astype(np.uint8)


def overlay(pixels: NDArray[np.uint16], heat: Heat) -> NDArray[np.uint8]:
    """Return the image with its heat in colour and a line around each region.

    The colour's opacity grows with the heat, so an image without evidence stays grey.

    Args:
        pixels: The image, uint16 (rows, columns).
        heat: Heat over the image, 0 to 1, of the same shape.

    Returns:
        uint8 (rows, columns, 3) in OpenCV's channel order.
    """
    grey = cv2.cvtColor(eight_bits(pixels), cv2.COLOR_GRAY2BGR)
    eight_bit = _eight_bit(heat)
    colour = _COLOURS[eight_bit]
    weight = (eight_bit.astype(np.float32) * np.float32(heat_colours.OPACITY / 255))[..., None]
    blended = (grey + (colour.astype(np.float32) - grey) * weight).astype(np.uint8)
    outlines, _ = cv2.findContours(_warm(heat), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(blended, outlines, -1, (255, 255, 255), max(1, round(max(heat.shape) / 512)), cv2.LINE_AA)
    return np.asarray(blended, np.uint8)


def _eight_bit(heat: Heat) -> NDArray[np.uint8]:
    return np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)


def _warm(heat: Heat) -> NDArray[np.uint8]:
    """Return a mask of the regions: 1 inside, 0 outside; all 0 if there is no heat."""
    top = float(heat.max())
    # Without heat every pixel would reach half of the maximum.
    return (heat >= REGION_LEVEL * top).astype(np.uint8) * np.uint8(top > 0)


def regions(heat: Heat) -> list[Region]:
    """Return the connected areas whose heat reaches half of the maximum, strongest peak first.

    Heat that is 0 everywhere has no regions.

    Args:
        heat: Heat over the image, 0 to 1.
    """
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(_warm(heat))
    found = [_region(heat, labels, index, boxes[index]) for index in range(1, count)]
    return sorted(found, key=lambda region: -region.strength)[:LARGEST_REGIONS]


def _region(heat: Heat, labels: NDArray[Any], index: int, box: NDArray[Any]) -> Region:
    left, top, width, height = map(int, box[:4])
    inside = np.s_[top : top + height, left : left + width]
    # The box may contain pixels of another region; -1 keeps the peak inside this one.
    of_region = np.where(labels[inside] == index, heat[inside], np.float32(-1))
    y, x = divmod(int(of_region.argmax()), width)
    return Region(
        left=left,
        top=top,
        right=left + width,
        bottom=top + height,
        peak_x=left + x,
        peak_y=top + y,
        strength=round(float(of_region[y, x]), 4),
    )


def grey_png(heat: Heat) -> bytes:
    """Return heat (0 to 1) as an 8-bit greyscale PNG (0 to 255)."""
    return png(_eight_bit(heat))


def png(image: NDArray[np.uint8]) -> bytes:
    """Return an 8-bit image, grey or in OpenCV's channel order, as a PNG of the same size."""
    written, encoded = cv2.imencode(".png", image)
    if not written:
        raise ValueError(f"OpenCV could not encode an image of shape {image.shape} as PNG")
    return bytes(encoded.tobytes())
