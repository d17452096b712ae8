"""The side of the image where the chest wall lies: as the header says, unless the picture contradicts beyond doubt."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.outline import row_ends
from mammopipe.processing.breast.working_copy import Mask
from mammopipe.processing.datasets.manifest import Laterality

CLEAR_EVIDENCE = 0.2
"""Difference between the image's sides (-1..1) from which on the picture alone shows the chest wall's side."""
CURVED = 0.3
"""Share of the breast's rows that end at one column, up to which that side is skin and no chest wall."""
STRAIGHT = 0.5
"""The same share from which on the other side is a straight cut, so that the picture contradicts the header."""


class Side(StrEnum):
    """A side of the image, as the reader sees it."""

    LEFT = "left"
    RIGHT = "right"

    @classmethod
    def of(cls, laterality: Laterality) -> "Side":
        """Return the side where the chest wall lies in mini-MIAS and RSNA: that of a left breast at the left."""
        return cls.RIGHT if laterality is Laterality.RIGHT else cls.LEFT


@dataclass(frozen=True)
class ChestSide:
    """Where the chest wall lies, and what speaks for it."""

    side: Side
    evidence: float
    """What the picture shows: -1 (right) to 1 (left)."""
    unclear: bool
    """Whether the picture shows no side and no header says one, or shows another than the header, but not for sure."""
    against_laterality: bool
    """Whether the picture contradicts the header beyond doubt; then the picture decides."""


def find_chest_side(mask: Mask, field: tuple[int, int], laterality: Laterality | None) -> ChestSide:
    """Return the chest wall's side of a breast.

    At the chest wall the image cuts straight through the breast: most of its rows end at one column there, whether or
    not black was added beside it, and most of the breast lies in that half of the image. How bright the sides are shows
    nothing, because a skin line can be brighter than fat at the chest wall.

    Args:
        mask: The breast, (rows, columns).
        field: Columns of padding at the left and at the right.
        laterality: What the header says; `None` where it says nothing.
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
    """Return the share of the rows that end at one column or beside it."""
    return float(np.convolve(np.bincount(ends), np.ones(3)).max() / ends.size)
