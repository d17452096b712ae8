"""Whether a model is as good for every site, machine, density, age, view, implant, finding and kind of film."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.records import ImageRecord
from training import metrics
from training.bootstrap import Resamples
from training.decisions import sensitivity_at, specificity_at
from training.exams import Cases
from training.metrics import Metric
from training.scorecard import figure, undefined

LEAST_PATIENTS = 10
"""Patients with such images that a figure about malignant, or other, images needs; the interval of fewer is fiction."""

UNKNOWN = "not stated"

AGE_BANDS = (("under 50", 50), ("50 to 59", 60), ("60 to 69", 70), ("70 and over", np.inf))
"""Names, and the age in years that each ends before."""


def _age_band(age: float | None) -> str:
    return UNKNOWN if age is None else next(name for name, end in AGE_BANDS if age < end)


def _film_flags(quality: Mapping[str, Any]) -> tuple[str, ...]:
    if "flags" not in quality:
        return (UNKNOWN,)
    return tuple(sorted(set(quality["flags"]))) or ("none",)


ATTRIBUTES: Mapping[str, Callable[[ImageRecord], tuple[str, ...]]] = {
    "site": lambda record: (record.site_id or UNKNOWN,),
    "machine": lambda record: (record.machine_id or UNKNOWN,),
    "density": lambda record: (record.density or UNKNOWN,),
    "age": lambda record: (_age_band(record.age),),
    "view": lambda record: (str(record.view or UNKNOWN),),
    "implant": lambda record: (UNKNOWN if record.implant is None else "yes" if record.implant else "no",),
    "finding": lambda record: (record.finding or "none",),
    "film flags": lambda record: _film_flags(record.quality),
}
"""What images are divided by; an image has one value of each, or several flags."""


def subgroups(records: Sequence[ImageRecord], images: Cases, threshold: float,
              resamples: Resamples) -> dict[str, Any]:
    """Return the figures of every subgroup of the images, for attributes of which more than one value is stated.

    `images` are the cases of the level of images, in the order of the records; `threshold` was fixed on validation.
    """
    found = {name: _members([of(record) for record in records]) for name, of in ATTRIBUTES.items()}
    return {
        "least_patients": LEAST_PATIENTS, "threshold": threshold,
        "by": {name: [{"value": value, **_subgroup(members, images, threshold, resamples)}
                      for value, members in values.items()]
               for name, values in found.items() if len(values.keys() - {UNKNOWN}) > 1},
    }


def _members(values: Sequence[tuple[str, ...]]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the places of the images of each value, the values in their natural order."""
    names = sorted({name for several in values for name in several}, key=_order)
    return {name: np.flatnonzero([name in several for several in values]) for name in names}


def _order(value: str) -> tuple[bool, int, int, str]:
    """Return what sorts numbers by size, age bands by age, and what is not stated last."""
    ages = [name for name, _ in AGE_BANDS]
    return value == UNKNOWN, ages.index(value) if value in ages else 0, int(value) if value.isdecimal() else 0, value


def _subgroup(members: npt.NDArray[np.int64], images: Cases, threshold: float, resamples: Resamples) -> dict[str, Any]:
    malignant, scores, draws = images.malignant[members], images.scores[members], resamples.of(members)
    patients = {kind: len(np.unique(draws.groups[malignant == kind])) for kind in (0, 1)}

    def measured(metric: Metric, *kinds: int) -> dict[str, Any]:
        few = [f"{patients[kind]} with {_KINDS[kind]} image" for kind in kinds if patients[kind] < LEAST_PATIENTS]
        if few:
            return undefined(f"too few: {' and '.join(few)}, of {LEAST_PATIENTS} patients needed")
        return figure(metric, malignant, scores, draws)

    return {
        "images": len(members), "patients": draws.patients, "malignant": int(malignant.sum()),
        "malignant_auc": measured(metrics.roc_auc, 0, 1),
        "sensitivity": measured(sensitivity_at(threshold), 1),
        "specificity": measured(specificity_at(threshold), 0),
    }


_KINDS = {0: "a normal or benign", 1: "a malignant"}
