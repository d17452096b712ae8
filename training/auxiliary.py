"""Auxiliary targets: additional labels that a network learns to predict, which improves its features.

The loss of each target is multiplied by a weight and added to the loss of the classes; a weight of 0 turns the target
off. Images without a value do not contribute to the loss. The heads of auxiliary targets exist only in training; no
saved model contains them.

Source: the winning solutions of the RSNA 2023 challenge, which trained on such targets in addition to cancer.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from pydantic import Field

from mammopipe.processing.datasets.manifest import ImageRecord, Label
from mammopipe.processing.settings import Settings

LARGEST_WEIGHT = 10.0
_RSNA = "rsna"


class Auxiliary(StrEnum):
    """An auxiliary target."""

    BIRADS = "birads"
    DENSITY = "density"
    AGE = "age"
    """In years; the only target with a regression head. All others have classification heads."""
    VIEW = "view"
    LATERALITY = "laterality"
    BIOPSY = "biopsy"
    INVASIVE = "invasive"
    IMPLANT = "implant"


VALUES: Mapping[Auxiliary, Callable[[ImageRecord], str | float | None]] = {
    Auxiliary.BIRADS: lambda record: record.birads or None,
    Auxiliary.DENSITY: lambda record: record.density or None,
    Auxiliary.AGE: lambda record: record.age,
    Auxiliary.VIEW: lambda record: record.view and str(record.view),
    Auxiliary.LATERALITY: lambda record: record.laterality and str(record.laterality),
    # Only RSNA's table has the columns biopsy and invasive; its reader stores them as label and finding.
    Auxiliary.BIOPSY: lambda record: str(record.label is not Label.NORMAL) if record.dataset == _RSNA else None,
    Auxiliary.INVASIVE: lambda record: str(record.finding == "invasive") if record.dataset == _RSNA else None,
    Auxiliary.IMPLANT: lambda record: None if record.implant is None else str(record.implant),
}
"""The value of each target for an image; `None` where the manifest has none."""


def _weight(what: str) -> float:
    text = f"weight of the loss for {what}, an auxiliary target that is learnt with the classes; 0 turns it off"
    weight: float = Field(default=0.0, ge=0, le=LARGEST_WEIGHT, description=text)
    return weight


class AuxiliarySettings(Settings):
    """The weights of the auxiliary targets."""

    auxiliary_birads: float = _weight("the BI-RADS category")
    auxiliary_density: float = _weight("the breast density")
    auxiliary_age: float = _weight("the age, by regression")
    auxiliary_view: float = _weight("the view")
    auxiliary_laterality: float = _weight("the side of the body")
    auxiliary_biopsy: float = _weight("whether there was a biopsy (RSNA)")
    auxiliary_invasive: float = _weight("whether the cancer is invasive (RSNA)")
    auxiliary_implant: float = _weight("whether there is an implant")

    @property
    def auxiliary_weights(self) -> dict[Auxiliary, float]:
        """The targets that are learnt, with their weights."""
        weights = {target: float(getattr(self, f"auxiliary_{target}")) for target in Auxiliary}
        return {target: weight for target, weight in weights.items() if weight}
