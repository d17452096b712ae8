"""Segments a mammogram: the breast without labels, tape and borders, the chest wall's side, the pectoral muscle.

The segmentation works on a small copy (`mammopipe.processing.breast.working_copy`); only the final masks are enlarged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.air import BLACKENED, Air, find_air, is_air
from mammopipe.processing.breast.chest_side import ChestSide, Side, find_chest_side
from mammopipe.processing.breast.focal import without_focal_structures
from mammopipe.processing.breast.implant import find_implant
from mammopipe.processing.breast.outline import (
    breast_outline,
    without_abdomen,
    without_band,
    without_fold,
    without_overhang,
    without_pockets,
    without_tab,
)
from mammopipe.processing.breast.pectoral import Pectoral, find_pectoral
from mammopipe.processing.breast.quality import coverage, is_skin_cut_off, quality_flags
from mammopipe.processing.breast.view import InferredView, infer_view
from mammopipe.processing.breast.working_copy import Grey, Mask, enlarge, working_copy
from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.errors import NoBreastError

__all__ = ["BreastRegion", "Side", "segment_breast"]

SMALLEST_SHARE = 0.03
"""Least share of the image that a breast covers; a smaller object is a label or a scratch."""


@dataclass(frozen=True)
class BreastRegion:
    """The result of `segment_breast`; both masks have the shape of the pixels."""

    mask: Mask
    """The breast, including the pectoral muscle."""
    pectoral: Mask
    """The pectoral muscle, part of `mask`; empty where there is none."""
    chest_side: Side
    quality: Mapping[str, Any]
    """JSON values: shares and levels in 0..1, the view, and `flags` (`mammopipe.processing.breast.quality.Flag`)."""


@dataclass(frozen=True)
class _Found:
    """The breast, the air and the chest wall's side on the working copy."""

    mask: Mask
    air: Air
    chest: ChestSide
    upper_edge: int
    """First row of the exposed field, below a band across the film's upper edge."""

    @property
    def chest_left(self) -> bool:
        return self.chest.side is Side.LEFT


def segment_breast(
    pixels: NDArray[np.uint16], *, laterality: Laterality | None = None, view: View | None = None
) -> BreastRegion:
    """Return masks of the breast and of the pectoral muscle, of the shape of the image.

    Args:
        pixels: uint16, (rows, columns), air dark.
        laterality: The side of the body that the header or the label table names, if any. It determines the chest
            wall's side unless the image clearly contradicts it (`mammopipe.processing.breast.chest_side`).
        view: The view, if known. A view that does not show the pectoral muscle (CC) keeps all tissue. An unknown view
            is inferred from the image; a muscle is then reported only where the image is oblique with high confidence.

    Returns:
        The masks, the chest wall's side and quality measures.

    Raises:
        ValueError: `pixels` is not a 2-D uint16 array.
        NoBreastError: The image shows no breast.
    """
    grey = working_copy(pixels)
    found = _find_breast(grey, laterality)
    mask = found.mask
    if mask.mean() < SMALLEST_SHARE:
        raise NoBreastError(
            f"no breast: the largest object covers {mask.mean():.1%} of the image; "
            f"at least {SMALLEST_SHARE:.0%} is needed"
        )
    inferred = None
    if view is None:
        inferred = infer_view(grey, mask, chest_left=found.chest_left, upper_edge=found.upper_edge)
    implant = find_implant(grey, mask)
    pectoral = _pectoral(grey, mask if implant is None else mask & ~implant, found.chest_left, view, inferred)
    muscle = np.zeros_like(mask)
    if pectoral is not None:
        muscle = without_focal_structures(grey, mask, pectoral.mask, pectoral.contrast)
    quality: dict[str, Any] = {
        "coverage": round(coverage(mask, found.air, chest_left=found.chest_left), 4),
        "air_level": round(found.air.level, 4),
        "threshold": round(found.air.threshold, 4),
        "chest_side_evidence": round(found.chest.evidence, 4),
        "pectoral_share": round(float(muscle.sum() / mask.sum()), 4),
        "pectoral_contrast": round(pectoral.contrast, 4) if pectoral else 0.0,
    }
    if inferred is not None:
        quality["view_inferred"] = str(inferred.view)
        quality["view_confidence"] = round(inferred.confidence, 4)
    quality["flags"] = quality_flags(
        share=quality["coverage"],
        skin_cut_off=is_skin_cut_off(grey, mask, found.air, chest_left=found.chest_left),
        chest=found.chest,
        view=view,
        inferred=inferred,
        muscle_found=pectoral is not None,
        implant=implant is not None,
    )
    full = enlarge(mask, pixels.shape)
    return BreastRegion(full, enlarge(muscle, pixels.shape, within=full), found.chest.side, quality)


def _pectoral(
    grey: Grey, mask: Mask, chest_left: bool, view: View | None, inferred: InferredView | None
) -> Pectoral | None:
    """Return the pectoral muscle if the view, known or inferred with confidence, shows one."""
    seen = inferred.view if inferred is not None and inferred.is_confident else view
    if seen is None or not seen.shows_pectoral:
        return None
    return find_pectoral(grey, mask, chest_left=chest_left)


def _find_breast(grey: Grey, laterality: Laterality | None) -> _Found:
    """Return the breast; if the supposed air turns out to be tissue, the breast fills the image."""
    air = find_air(grey)
    try:
        found = _outlined(grey, air, laterality)
    except NoBreastError:
        if air.blackened:
            raise
    else:
        if air.blackened or is_air(grey, found.mask, air):
            return found
    return _outlined(grey, BLACKENED, laterality)


def _outlined(grey: Grey, air: Air, laterality: Laterality | None) -> _Found:
    mask, upper_edge = without_band(grey, breast_outline(grey, air))
    chest = find_chest_side(mask, air.field, laterality)
    left = chest.side is Side.LEFT
    if air.fog:
        mask = without_overhang(mask, chest_left=left)
    mask = without_abdomen(without_pockets(mask, chest_left=left))
    mask = without_fold(grey, without_tab(mask, chest_left=left), chest_left=left)
    return _Found(mask, air, chest, upper_edge)
