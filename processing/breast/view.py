"""Infers the view of a mammogram from its pixels, with a confidence, where file and table do not name it.

In an oblique view the image's upper edge cuts off the axilla, and the pectoral muscle is a bright wedge in that corner.
In a craniocaudal view the breast narrows towards both ends, and there is no wedge.
"""

from dataclasses import dataclass

import numpy as np

from mammopipe.processing.breast.outline import row_ends
from mammopipe.processing.breast.working_copy import Grey, Mask
from mammopipe.processing.datasets.manifest import View

SURE = 0.9
"""Least confidence at which an inferred view is used."""
CROPPED = 0.75
"""The image cuts off the lower end, too, if it is wider than this share of the breast's greatest width."""
_WEDGE = 0.18
"""Size of the compared triangular corner: its share of the breast's width, and 0.9 times its share of the height."""


@dataclass(frozen=True)
class InferredView:
    """A view inferred from the image."""

    view: View
    """The likelier of `View.MLO` and `View.CC`."""
    confidence: float
    """Confidence in the view, 0.5 to 1."""

    @property
    def is_confident(self) -> bool:
        """Whether the confidence is high enough to use the view."""
        return self.confidence >= SURE


def infer_view(grey: Grey, mask: Mask, *, chest_left: bool, upper_edge: int = 0) -> InferredView:
    """Return the view, MLO or CC, that the image shows.

    The weights were set on the 322 oblique films of mini-MIAS, on files of both views, and on phantoms.

    Args:
        grey: The working copy, float32, (rows, columns), 0..1.
        mask: The breast, of the same shape.
        chest_left: Whether the chest wall is at the left.
        upper_edge: First row of the exposed field.
    """
    turn = slice(None) if chest_left else slice(None, None, -1)
    grey, mask = grey[:, turn], mask[:, turn]
    rows, first, last = row_ends(mask)
    widths = last - first + 1
    upper = float(widths[: max(2, rows.size // 25)].mean() / widths.max())
    lower = float(widths[-max(2, rows.size // 25) :].mean() / widths.max())
    if lower > CROPPED:
        # The image cuts off both ends, so a wide upper end is no evidence of an oblique view.
        upper = min(upper, 0.45)
    at_edge = rows[0] <= upper_edge + 0.01 * mask.shape[0]
    score = 8 * (upper - 0.36) + 5 * (_wedge(grey, mask) - 0.15) + (0.5 if at_edge else -2.0)
    oblique = float(1 / (1 + np.exp(-score)))
    return InferredView(View.MLO, oblique) if oblique >= 0.5 else InferredView(View.CC, 1 - oblique)


def _wedge(grey: Grey, mask: Mask) -> float:
    """Return the median grey (0..1) of the upper corner at the chest wall minus that of the tissue beside it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    upper = np.s_[rows[0] : rows[0] + max(rows.size // 4, 2), columns[0] : columns[-1] + 1]
    down = np.arange(upper[0].stop - upper[0].start)[:, None] / rows.size
    across = np.arange(columns[-1] + 1 - columns[0])[None, :] / columns.size
    slant = across + 0.9 * down
    corner, beside = (mask[upper] & where for where in (slant < _WEDGE, slant > 0.4))
    if not corner.any() or not beside.any():
        return 0.0
    return float(np.median(grey[upper][corner]) - np.median(grey[upper][beside]))
