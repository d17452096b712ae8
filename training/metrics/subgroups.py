"""Metrics by subgroup: dataset, site, machine, density, age, view, side, implant, finding, lesion size and flags."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.manifest import ImageRecord, Label
from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.metric import mean_metric
from mammopipe.training.metrics.scorecard import figure, undefined
from mammopipe.training.metrics.thresholds import sensitivity_at, specificity_at
from mammopipe.training.model.exam_scores import Cases
from mammopipe.training.model.predictions import Integers

LEAST_PATIENTS = 10
"""Minimum number of patients with malignant (or other) images for a metric about such images. With fewer, an interval
would be meaningless."""

UNKNOWN = "not stated"

AGE_BANDS = (("under 50", 50), ("50 to 59", 60), ("60 to 69", 70), ("70 and over", np.inf))
"""Name and exclusive upper bound, in years, of each band."""


SIZE_BANDS = (("under 10 mm", 10), ("10 to 19 mm", 20), ("20 to 49 mm", 50), ("50 mm and over", np.inf))
"""Name and exclusive upper bound, in mm of diameter, of each band. 20 mm and 50 mm are the limits of T1 and T2 in the
TNM classification."""

AGAINST_ALL = ("finding", "lesion size")
"""Attributes of a lesion. Images without a lesion do not have them, so the AUC compares the subgroup's malignant images
with all images that are not malignant."""

right_share = mean_metric("accuracy", lambda right, scores: right, needs="at least one image", share=True)
"""The proportion of images whose predicted class is the true class; each image's value is 0 or 1."""


def _lesion_size(record: ImageRecord) -> str:
    """Return the size band of the largest lesion's circle; "none" for a normal image."""
    if not record.lesions:
        return "none" if record.label is Label.NORMAL else UNKNOWN
    if record.pixel_spacing_mm is None:
        return UNKNOWN
    diameter = 2 * max(lesion.radius for lesion in record.lesions) * record.pixel_spacing_mm
    return next(name for name, end in SIZE_BANDS if diameter < end)


def _age_band(age: float | None) -> str:
    return UNKNOWN if age is None else next(name for name, end in AGE_BANDS if age < end)


def _image_flags(quality: Mapping[str, Any]) -> tuple[str, ...]:
    if "flags" not in quality:
        return (UNKNOWN,)
    return tuple(sorted(set(quality["flags"]))) or ("none",)


ATTRIBUTES: Mapping[str, Callable[[ImageRecord], tuple[str, ...]]] = {
    "dataset": lambda record: (record.dataset or UNKNOWN,),
    "site": lambda record: (record.site_id or UNKNOWN,),
    "machine": lambda record: (record.machine_id or UNKNOWN,),
    "density": lambda record: (record.density or UNKNOWN,),
    "age": lambda record: (_age_band(record.age),),
    "view": lambda record: (str(record.view or UNKNOWN),),
    "side": lambda record: (str(record.laterality or UNKNOWN),),
    "implant": lambda record: (UNKNOWN if record.implant is None else "yes" if record.implant else "no",),
    "finding": lambda record: (record.finding or "none",),
    "lesion size": lambda record: (_lesion_size(record),),
    "film flags": lambda record: _image_flags(record.quality),
    "image flags": lambda record: record.image_flags or ("none",),
}
"""The attributes that divide images into subgroups. An image has one value of each attribute, but may have several
flags."""


def subgroups(
    records: Sequence[ImageRecord], images: Cases, right: Integers, threshold: float, resamples: Resamples
) -> dict[str, Any]:
    """Return the metrics of every subgroup, for each attribute with more than one stated value.

    The malignant AUC of the attributes in `AGAINST_ALL` compares the subgroup's malignant images with all images that
    are not malignant.

    Args:
        records: The images.
        images: The image-level cases, in the order of the records.
        right: (images,) 0 or 1, whether the predicted class is the true class.
        threshold: Threshold on the malignancy score, fixed on validation.
        resamples: Bootstrap draws of the images' patients.

    Returns:
        JSON values {"least_patients", "threshold", "by": {attribute: a list with one entry for each value}}.
    """
    found = {name: _members([of(record) for record in records]) for name, of in ATTRIBUTES.items()}
    return {
        "least_patients": LEAST_PATIENTS,
        "threshold": threshold,
        "by": {
            name: [
                {
                    "value": value,
                    **_subgroup(members, images, right, threshold, resamples),
                    "malignant_auc": _auc(members, images, resamples, against_all=name in AGAINST_ALL),
                }
                for value, members in values.items()
            ]
            for name, values in found.items()
            if len(values.keys() - {UNKNOWN}) > 1
        },
    }


def _members(values: Sequence[tuple[str, ...]]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the positions of the images with each value, the values in their natural order."""
    names = sorted({name for several in values for name in several}, key=_order)
    return {name: np.flatnonzero([name in several for several in values]) for name in names}


def _order(value: str) -> tuple[bool, int, int, str]:
    """Return a sort key: numbers by size, bands in their order, `UNKNOWN` last."""
    bands = [name for name, _ in (*AGE_BANDS, *SIZE_BANDS)]
    return value == UNKNOWN, bands.index(value) if value in bands else 0, int(value) if value.isdecimal() else 0, value


def _subgroup(
    members: Integers, images: Cases, right: Integers, threshold: float, resamples: Resamples
) -> dict[str, Any]:
    malignant, scores, draws = images.malignant[members], images.scores[members], resamples.of(members)
    few = _too_few(malignant, draws)
    return {
        "images": len(members),
        "patients": draws.patients,
        "malignant": int(malignant.sum()),
        "sensitivity": few(1) or figure(sensitivity_at(threshold), malignant, scores, draws),
        "specificity": few(0) or figure(specificity_at(threshold), malignant, scores, draws),
        "accuracy": few(0, 1, either=True) or figure(right_share, right[members], scores, draws),
    }


def _auc(members: Integers, images: Cases, resamples: Resamples, *, against_all: bool) -> dict[str, Any]:
    if against_all:
        members = np.union1d(members[images.malignant[members] == 1], np.flatnonzero(images.malignant == 0))
    malignant, draws = images.malignant[members], resamples.of(members)
    return _too_few(malignant, draws)(0, 1) or figure(classification.roc_auc, malignant, images.scores[members], draws)


def _too_few(malignant: Integers, draws: Resamples) -> Callable[..., dict[str, Any] | None]:
    """Return a function that checks whether there are enough patients for a metric about given kinds of image."""
    patients = {kind: len(np.unique(draws.groups[malignant == kind])) for kind in (0, 1)}

    def check(*kinds: int, either: bool = False) -> dict[str, Any] | None:
        """Return an undefined metric that states how many patients there are, or `None` where they suffice.

        With `either`, patients with images of any kind count together.
        """
        if either:
            few = [f"{draws.patients} patients"] if draws.patients < LEAST_PATIENTS else []
        else:
            few = [f"{patients[kind]} with {_KINDS[kind]} image" for kind in kinds if patients[kind] < LEAST_PATIENTS]
        return undefined(f"too few: {' and '.join(few)}, of {LEAST_PATIENTS} patients needed") if few else None

    return check


_KINDS = {0: "a non-malignant", 1: "a malignant"}
