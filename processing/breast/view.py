"""The view of a mammogram from its picture alone, with a confidence, for files and tables that do not name it.

An oblique view is cut off by the image's upper edge at the axilla, where the pectoral muscle lies in the corner as a
bright wedge; a craniocaudal breast closes towards both ends and has no wedge.
"""

from dataclasses import dataclass

import numpy as np

from mammopipe.processing.breast.outline import row_ends
from mammopipe.processing.breast.working_copy import Grey, Mask
from mammopipe.processing.datasets.manifest import View

SURE = 0.9
"""Confidence from which on an inferred view is acted on."""
CROPPED = 0.75
"""Width of a breast's lower end, in its greatest width, from which on the image cuts it off there, too."""
_WEDGE = 0.18
"""Size of the corner that is compared, in widths of the breast; 0.9 times as much in heights."""


@dataclass(frozen=True)
class InferredView:
    """A view that was taken from the picture."""

    view: View
    """`View.MLO` or `View.CC`, whichever is likelier."""
    confidence: float
    """0.5 to 1."""

    @property
    def sure(self) -> bool:
        """Whether the view may be acted on."""
        return self.confidence >= SURE


def infer_view(grey: Grey, mask: Mask, *, chest_left: bool) -> InferredView:
    """Return whether a breast is seen obliquely or from above.

    The weights were set on the 322 oblique films of mini-MIAS, on files of both views and on phantoms.

    Args:
        grey: The working copy, float32, (rows, columns), 0..1.
        mask: The breast, of the same shape.
        chest_left: Whether the chest wall lies at the left.
    """
    turn = slice(None) if chest_left else slice(None, None, -1)
    grey, mask = grey[:, turn], mask[:, turn]
    rows, first, last = row_ends(mask)
    widths = last - first + 1
    upper = float(widths[: max(2, rows.size // 25)].mean() / widths.max())
    lower = float(widths[-max(2, rows.size // 25) :].mean() / widths.max())
    if lower > CROPPED:
        # Cut off at both ends: how wide the upper end is shows nothing.
        upper = min(upper, 0.45)
    at_edge = rows[0] <= 0.01 * mask.shape[0]
    score = 8 * (upper - 0.36) + 5 * (_wedge(grey, mask) - 0.15) + (0.5 if at_edge else -2.0)
    oblique = float(1 / (1 + np.exp(-score)))
    return InferredView(View.MLO, oblique) if oblique >= 0.5 else InferredView(View.CC, 1 - oblique)


def _wedge(grey: Grey, mask: Mask) -> float:
    """Return how much brighter the upper corner at the chest wall is than the tissue beside it (medians, grey 0..1)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    upper = np.s_[rows[0] : rows[0] + max(rows.size // 4, 2), columns[0] : columns[-1] + 1]
    down = np.arange(upper[0].stop - upper[0].start)[:, None] / rows.size
    across = np.arange(columns[-1] + 1 - columns[0])[None, :] / columns.size
    slant = across + 0.9 * down
    corner, beside = (mask[upper] & where for where in (slant < _WEDGE, slant > 0.4))
    if not corner.any() or not beside.any():
        return 0.0
    return float(np.median(grey[upper][corner]) - np.median(grey[upper][beside]))
