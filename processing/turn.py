"""How the pixels of a file were mirrored or turned to lie as mammograms are read, and the way back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Turn:
    """Mirrorings of a stored image: rows and columns exchanged first, then mirrored."""

    transposed: bool = False
    """Whether rows became columns."""
    left_right: bool = False
    """Whether the image was then mirrored left to right."""
    top_bottom: bool = False
    """Whether the image was then mirrored top to bottom."""
    rows: int = 0
    """Rows of the turned image at the size that the file announces."""
    columns: int = 0
    """Columns of the turned image at that size."""

    def __bool__(self) -> bool:
        """Return whether anything is changed."""
        return self.transposed or self.left_right or self.top_bottom

    def apply(self, pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return the turned pixels, C-contiguous; at any resolution."""
        turned = pixels.T if self.transposed else pixels
        turned = turned[:, ::-1] if self.left_right else turned
        turned = turned[::-1] if self.top_bottom else turned
        return np.ascontiguousarray(turned)

    def undo(self, turned: NDArray[Any]) -> NDArray[Any]:
        """Return pixels of the turned image as they lie in the file, C-contiguous; the way back of `apply`."""
        stored = turned[::-1] if self.top_bottom else turned
        stored = stored[:, ::-1] if self.left_right else stored
        return np.ascontiguousarray(stored.T if self.transposed else stored)

    def to_stored(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the turned image lies in the file's own pixel matrix.

        Args:
            x: column, at the size that the file announces; the centre of the first pixel is at 0.
            y: row.

        Returns:
            Column and row in the stored image.
        """
        x = self.columns - 1 - x if self.left_right else x
        y = self.rows - 1 - y if self.top_bottom else y
        return (y, x) if self.transposed else (x, y)

    def from_stored(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the file's own pixel matrix lies in the turned image; the way back of `to_stored`."""
        x, y = (y, x) if self.transposed else (x, y)
        x = self.columns - 1 - x if self.left_right else x
        y = self.rows - 1 - y if self.top_bottom else y
        return x, y
