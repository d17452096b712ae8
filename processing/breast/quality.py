"""Flags segmentations that a person should check, and computes the measures behind the flags."""

from enum import StrEnum

import numpy as np

from mammopipe.processing.breast.air import Air
from mammopipe.processing.breast.chest_side import ChestSide
from mammopipe.processing.breast.outline import row_ends
from mammopipe.processing.breast.view import InferredView
from mammopipe.processing.breast.working_copy import Grey, Mask
from mammopipe.processing.datasets.manifest import View

COVERAGE_LIMITS = (0.10, 0.90)
"""Normal range of the breast's share of the image without padding; images outside the range are flagged."""
CUT_ROWS = 0.03
"""The skin counts as cut off if more than this share of the breast's rows reaches the image's far edge."""
STRAIGHT_ROWS = 0.25
"""The outline is a straight cut if more than this share of the breast's rows ends at one column inside the image.

Around the nipple the outline is nearly vertical, too, but for at most 0.17 of the rows on mini-MIAS.
"""


class Flag(StrEnum):
    """A flag of `BreastRegion.quality`."""

    COVERAGE_LOW = "coverage-low"
    """The breast covers an unusually small share of the image."""
    COVERAGE_HIGH = "coverage-high"
    """The breast covers an unusually large share of the image."""
    SKIN_CUT_OFF = "skin-cut-off"
    """The breast reaches the edge of the image or field opposite the chest wall."""
    CHEST_SIDE_UNCLEAR = "chest-side-unclear"
    """The chest wall's side is uncertain."""
    CHEST_SIDE_AGAINST_LATERALITY = "chest-side-against-laterality"
    """The image clearly contradicts the stated laterality."""
    PECTORAL_NOT_FOUND = "pectoral-not-found"
    """The view normally shows the pectoral muscle, but none was found."""
    VIEW_INFERRED = "view-inferred"
    """The view is not stated and was inferred from the image with high confidence."""
    VIEW_UNCLEAR = "view-unclear"
    """The view is not stated, and the image does not show it clearly."""
    IMPLANT = "implant"
    """The breast shows an implant."""


def coverage(mask: Mask, air: Air, *, chest_left: bool) -> float:
    """Return the mask's share of the image without padding.

    On the side away from the chest wall, dark air and padding look the same. Films have equal padding on both sides, so
    this side counts at most as much padding as the chest side, where the breast shows the width of the padding.
    """
    chest, far = air.field if chest_left else air.field[::-1]
    width = mask.shape[1] - chest - min(far, chest)
    return float(mask.sum() / (width * mask.shape[0]))


def is_skin_cut_off(grey: Grey, mask: Mask, air: Air, *, chest_left: bool) -> bool:
    """Return whether the breast reaches the far edge of the exposed field, so that part of it is missing.

    The far edge is the edge of the image, the edge of a film inside its padding, or a straight cut that was later
    padded with black.
    """
    turn = slice(None) if chest_left else slice(None, None, -1)
    rows, _, last = row_ends(mask[:, turn])
    far = air.field[1] if chest_left else air.field[0]
    at_edge = last >= mask.shape[1] - far - 2
    if at_edge.sum() > CUT_ROWS * rows.size:
        return True
    straight = last == np.bincount(last).argmax()
    inside = grey[:, turn][rows[straight], np.maximum(last[straight] - 2, 0)]
    return bool(straight.sum() > STRAIGHT_ROWS * rows.size and np.median(inside) > air.threshold + 0.05)


def quality_flags(
    *,
    share: float,
    skin_cut_off: bool,
    chest: ChestSide,
    view: View | None,
    inferred: InferredView | None,
    muscle_found: bool,
    implant: bool,
) -> list[str]:
    """Return the flags that hold, in the order of `Flag`.

    Args:
        share: The breast's share of the image (`coverage`).
        skin_cut_off: Whether the breast reaches the far edge.
        chest: The side of the chest wall.
        view: The view, where it is known.
        inferred: The view inferred from the image, where it is not known.
        muscle_found: Whether a pectoral muscle was found.
        implant: Whether an implant was found.
    """
    low, high = COVERAGE_LIMITS
    conditions = {
        Flag.COVERAGE_LOW: share < low,
        Flag.COVERAGE_HIGH: share > high,
        Flag.SKIN_CUT_OFF: skin_cut_off,
        Flag.CHEST_SIDE_UNCLEAR: chest.unclear,
        Flag.CHEST_SIDE_AGAINST_LATERALITY: chest.against_laterality,
        Flag.PECTORAL_NOT_FOUND: view is not None and view.shows_pectoral and not muscle_found,
        Flag.VIEW_INFERRED: inferred is not None and inferred.is_confident,
        Flag.VIEW_UNCLEAR: inferred is not None and not inferred.is_confident,
        Flag.IMPLANT: implant,
    }
    return [str(flag) for flag, holds in conditions.items() if holds]
