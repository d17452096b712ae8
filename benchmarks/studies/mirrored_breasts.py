"""Aligns the feature maps of a patient's other breast with an image by the outlines of the two breasts."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def edges(tissue: NDArray[np.bool_], grid: tuple[int, int]) -> tuple[float, float, NDArray[np.float64]]:
    """Return the first and last row of the tissue, and its left and right edge in each row of places.

    Args:
        tissue: (H, W).
        grid: (h, w), number of places.

    Returns:
        The two rows, and the edges, (2, h), all as proportions of the image. Rows without tissue get the edges of the
        nearest row with tissue.
    """
    rows = np.flatnonzero(tissue.any(axis=1))
    height, width = tissue.shape
    left = tissue.argmax(axis=1)
    right = width - tissue[:, ::-1].argmax(axis=1)
    found = np.empty((2, grid[0]))
    for place in range(grid[0]):
        inside = rows[(rows * grid[0] // height) == place]
        if not len(inside):
            inside = rows[[np.abs(rows - (place + 0.5) * height / grid[0]).argmin()]]
        found[:, place] = np.median(left[inside]) / width, np.median(right[inside]) / width
    return rows[0] / height, (rows[-1] + 1) / height, found


def where_in_other(own: NDArray[np.bool_], other: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Return the position in the other breast of each place, (h, w, 2) as x and y from -1 to 1.

    A place keeps its proportion of the breast's height, and of the breast's width at its height. Both images have the
    chest wall on the left, so the breasts mirror each other.
    """
    top, bottom, sides = edges(own, grid)
    other_top, other_bottom, other_sides = edges(other, grid)
    ys = (np.arange(grid[0]) + 0.5) / grid[0]
    xs = (np.arange(grid[1]) + 0.5) / grid[1]
    rows = other_top + np.clip((ys - top) / max(bottom - top, 1e-6), 0, 1) * (other_bottom - other_top)
    share = np.clip((xs[None, :] - sides[0][:, None]) / np.maximum(sides[1] - sides[0], 1e-6)[:, None], 0, 1)
    there = [np.interp(rows, ys, side) for side in other_sides]
    columns = there[0][:, None] + share * (there[1] - there[0])[:, None]
    found = np.stack([columns, np.broadcast_to(rows[:, None], columns.shape)], axis=-1)
    return (2 * found - 1).astype(np.float32)


def aligned(maps: Tensor, tissue: NDArray[np.bool_], other: NDArray[np.int64]) -> Tensor:
    """Return the other breast's maps, aligned with each image, (images, channels, h, w); the own maps if there is none.

    Args:
        maps: (images, channels, h, w).
        tissue: (images, H, W).
        other: (images,), the position of the image of the other breast; -1 without one.
    """
    found = maps.clone()
    grid = (maps.shape[2], maps.shape[3])
    for place, partner in enumerate(other.tolist()):
        if partner >= 0:
            where = torch.from_numpy(where_in_other(tissue[place], tissue[partner], grid))
            found[place] = functional.grid_sample(
                maps[partner][None], where[None], mode="bilinear", padding_mode="border", align_corners=False
            )[0]
    return found
