"""What a reader should look at: the flags of a segmentation, and the measures behind them."""

from enum import StrEnum

import numpy as np

from mammopipe.processing.breast.air import Air
from mammopipe.processing.breast.chest_side import ChestSide
from mammopipe.processing.breast.outline import row_ends
from mammopipe.processing.breast.view import InferredView
from mammopipe.processing.breast.working_copy import Grey, Mask
from mammopipe.processing.datasets.manifest import View

COVERAGE_LIMITS = (0.10, 0.90)
"""Share of the image without its padding that a breast normally covers; outside, the image is flagged."""
CUT_ROWS = 0.03
"""Share of the breast's rows that must run into the image's far edge before its skin counts as cut off."""
STRAIGHT_ROWS = 0.25
"""Share of the breast's rows that end at one column inside the image, from which on the outline is a straight cut.

Around the nipple an outline is nearly upright, too: 0.17 of the rows at most on mini-MIAS.
"""


class Flag(StrEnum):
    """A flag of `BreastRegion.quality`."""

    COVERAGE_LOW = "coverage-low"
    COVERAGE_HIGH = "coverage-high"
    SKIN_CUT_OFF = "skin-cut-off"
    CHEST_SIDE_UNCLEAR = "chest-side-unclear"
    CHEST_SIDE_AGAINST_LATERALITY = "chest-side-against-laterality"
    PECTORAL_NOT_FOUND = "pectoral-not-found"
    VIEW_INFERRED = "view-inferred"
    VIEW_UNCLEAR = "view-unclear"
    IMPLANT = "implant"


def coverage(mask: Mask, air: Air, *, chest_left: bool) -> float:
    """Return the mask's share of the image without its padding.

    Dark air cannot be told from padding, but films are padded alike on both sides: the far side gets no more of it
    than the chest side, where the breast shows how wide it is.
    """
    chest, far = air.field if chest_left else air.field[::-1]
    width = mask.shape[1] - chest - min(far, chest)
    return float(mask.sum() / (width * mask.shape[0]))


def is_skin_cut_off(grey: Grey, mask: Mask, air: Air, *, chest_left: bool) -> bool:
    """Say whether the breast runs into the far edge of what was exposed, so that some of it is missing.

    The far edge is the image's, that of a film within its padding, or a straight cut that was padded with black later.
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
        share: The breast's coverage of the image.
        skin_cut_off: Whether the breast runs into the far edge.
        chest: Where the chest wall lies.
        view: What is known of the view.
        inferred: What the picture shows of it, where nothing is known.
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
        Flag.VIEW_INFERRED: inferred is not None and inferred.sure,
        Flag.VIEW_UNCLEAR: inferred is not None and not inferred.sure,
        Flag.IMPLANT: implant,
    }
    return [str(flag) for flag, holds in conditions.items() if holds]
