"""Finds the breasts that images show: the views of each, those of its other side, and its label."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mammopipe.processing.classes import class_index
from mammopipe.processing.datasets.manifest import ImageRecord, Laterality, breast_id, shows_side
from mammopipe.training.model.views.attention import ViewMask

_OPPOSITE = {Laterality.LEFT: Laterality.RIGHT, Laterality.RIGHT: Laterality.LEFT}


@dataclass(frozen=True)
class Breast:
    """A breast with the positions of its images."""

    record: ImageRecord
    """Represents the breast: the manifest row of its original with the most serious label, without the view."""
    own: tuple[tuple[int, ...], ...]
    """For each view, the positions of its original and of the original's augmented copies."""
    other: tuple[tuple[int, ...], ...]
    """The same for the patient's other breast; empty if it is not used or not known."""

    @property
    def views(self) -> list[tuple[tuple[int, ...], ViewMask]]:
        """The views of both sides."""
        return [*((view, ViewMask.OWN) for view in self.own), *((view, ViewMask.OTHER) for view in self.other)]


def breasts_of(records: Sequence[ImageRecord], classes: Sequence[str], *, other_side: bool) -> list[Breast]:
    """Return the breasts that images show, in the order of their first image.

    The label of a breast is the most serious one of its own images; labels of the other side are not used. A patient's
    images of unknown laterality count as one breast, without another side.

    Args:
        records: Manifest rows of images of one split.
        classes: The model's classes, the most serious one last.
        other_side: Whether to include the views of the patient's other breast.
    """
    views: dict[str, dict[str, list[int]]] = {}
    for place, record in enumerate(records):
        variants = views.setdefault(breast_id(record), {}).setdefault(record.original_id, [])
        # The original comes first, because evaluation judges the first variant.
        variants.insert(0 if not record.source_image_id else len(variants), place)
    found = {name: tuple(map(tuple, members.values())) for name, members in views.items()}
    breasts = []
    for name, own in found.items():
        worst = max((records[view[0]] for view in own), key=lambda record: class_index(record.label, classes))
        opposite = _OPPOSITE.get(worst.laterality) if worst.laterality else None
        other = found.get(f"{worst.patient_id}-{opposite}", ()) if other_side and shows_side(name) else ()
        breasts.append(Breast(replace(worst, view=None), own, other))
    return breasts
