"""Finds the side of the chest wall: the header's, unless the image clearly contradicts it."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.outline import row_ends
from mammopipe.processing.breast.working_copy import Mask
from mammopipe.processing.datasets.manifest import Laterality

CLEAR_EVIDENCE = 0.2
"""Least absolute evidence (-1..1) at which the image alone shows the chest wall's side."""
CURVED = 0.3
"""A side is skin, not chest wall, if at most this share of the breast's rows ends at one column there."""
STRAIGHT = 0.5
"""A side is a straight cut if at least this share of the breast's rows ends at one column there."""


class Side(StrEnum):
    """A side of the image as the viewer sees it."""

    LEFT = "left"
    RIGHT = "right"

    @classmethod
    def of(cls, laterality: Laterality) -> "Side":
        """Return the chest wall's side in mini-MIAS and RSNA images: a left breast has it at the left."""
        return cls.RIGHT if laterality is Laterality.RIGHT else cls.LEFT


@dataclass(frozen=True)
class ChestSide:
    """The chest wall's side and the evidence for it."""

    side: Side
    evidence: float
    """The image's evidence: -1 (right) to 1 (left)."""
    unclear: bool
    """Whether the side is uncertain: the image shows none clearly and no header names one, or both differ."""
    against_laterality: bool
    """Whether the image clearly contradicts the header; then the image decides."""


def find_chest_side(mask: Mask, field: tuple[int, int], laterality: Laterality | None) -> ChestSide:
    """Return the chest wall's side of a breast.

    At the chest wall the image cuts straight through the breast. Most rows of the breast end at one column there, even
    where black was added beside it, and most of the breast lies in that half of the image. The brightness of the sides
    is no evidence: a skin line can be brighter than fat at the chest wall.

    Args:
        mask: The breast, (rows, columns).
        field: Columns of padding at the left and at the right.
        laterality: The side of the body that the header names; `None` if it names none.
    """
    left, right = field[0], mask.shape[1] - 1 - field[1]
    rows, first, last = row_ends(mask)
    straight = {Side.LEFT: _straight(first), Side.RIGHT: _straight(last)}
    columns = mask.sum(axis=0)
    middle = (left + right + 1) // 2
    balance = float(columns[:middle].sum() - columns[middle:].sum()) / max(int(columns.sum()), 1)
    evidence = 0.5 * (straight[Side.LEFT] - straight[Side.RIGHT]) + 0.5 * balance
    shown = Side.LEFT if evidence > 0 else Side.RIGHT
    if laterality is None:
        return ChestSide(shown, evidence, abs(evidence) < CLEAR_EVIDENCE, against_laterality=False)
    stated = Side.of(laterality)
    differs = shown is not stated and abs(evidence) >= CLEAR_EVIDENCE
    against = differs and straight[stated] <= CURVED and straight[shown] >= STRAIGHT
    return ChestSide(
        shown if against else stated, evidence, unclear=differs and not against, against_laterality=against
    )


def _straight(ends: NDArray[np.intp]) -> float:
    """Return the largest share of the rows that end at one column or its neighbours."""
    return float(np.convolve(np.bincount(ends), np.ones(3)).max() / ends.size)
