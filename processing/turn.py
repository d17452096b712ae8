"""Mirrors and turns stored images into the orientation in which mammograms are read, and back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Turn:
    """How a stored image is turned: first rows and columns are exchanged, then the image is mirrored."""

    transposed: bool = False
    """Whether rows and columns are exchanged."""
    left_right: bool = False
    """Whether the image is then mirrored left to right."""
    top_bottom: bool = False
    """Whether the image is then mirrored top to bottom."""
    rows: int = 0
    """Rows of the turned image, at the size that the file announces."""
    columns: int = 0
    """Columns of the turned image, at the size that the file announces."""

    def __bool__(self) -> bool:
        """Return whether the image changes."""
        return self.transposed or self.left_right or self.top_bottom

    def apply(self, pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return the turned pixels, C-contiguous; `pixels` may have any resolution."""
        turned = pixels.T if self.transposed else pixels
        turned = turned[:, ::-1] if self.left_right else turned
        turned = turned[::-1] if self.top_bottom else turned
        return np.ascontiguousarray(turned)

    def undo(self, turned: NDArray[Any]) -> NDArray[Any]:
        """Return the pixels of the turned image as stored in the file, C-contiguous; the inverse of `apply`."""
        stored = turned[::-1] if self.top_bottom else turned
        stored = stored[:, ::-1] if self.left_right else stored
        return np.ascontiguousarray(stored.T if self.transposed else stored)

    def from_stored(self, x: float, y: float) -> tuple[float, float]:
        """Return the position in the turned image of a point in the stored image.

        Args:
            x: Column, at the size that the file announces; the centre of the first pixel is at 0.
            y: Row, likewise.

        Returns:
            Column and row in the turned image.
        """
        x, y = (y, x) if self.transposed else (x, y)
        x = self.columns - 1 - x if self.left_right else x
        y = self.rows - 1 - y if self.top_bottom else y
        return x, y
