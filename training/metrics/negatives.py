"""Measures malignant images against each kind of negative, and weighted as in screening.

In a collection of cases, many normal breasts belong to a woman whose other breast has a lesion. The comparison of the
breasts subtracts part of the malignant breast's score from that of the woman's other breast, so it lowers the scores of
these breasts most. In screening, such breasts are rare. The effect is therefore measured for each kind of negative, and
for the mixture of kinds that screening has.

The AUC against a mixture of negatives is the mean of the AUCs against each kind, weighted by the kinds' shares.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from mammopipe.processing.datasets.manifest import Label
from mammopipe.training.metrics.bootstrap import MetricError, Resamples
from mammopipe.training.metrics.classification import BOTH, auc
from mammopipe.training.metrics.metric import Metric
from mammopipe.training.metrics.scorecard import LEVEL, figure, undefined
from mammopipe.training.metrics.thresholds import SCREENING_PREVALENCE
from mammopipe.training.model.predictions import Floats, Integers

SCREENING_BENIGN = 0.0127
"""Proportion of screening exams that end in a biopsy without cancer.

In 1,000 exams, 5.1 cancers are detected, and 28.6 % of the biopsies find one (Lehman et al. 2017, PPV3). The other
5.1 / 0.286 - 5.1 biopsies find none."""
LEAST_WOMEN = 10
"""Minimum number of women with malignant images, and with negatives of a kind, for a figure."""


class Negative(StrEnum):
    """A kind of image that is not malignant."""

    NORMAL_WOMAN = "normal, no lesion in either breast"
    BENIGN_WOMAN = "normal, the woman has a benign lesion"
    CANCER_WOMAN = "normal, the woman has a cancer"
    BENIGN = "benign"
    OTHER = "negative, the woman has no cancer"
    """Where the classes do not separate benign from normal."""


SCREENING_SHARES: Mapping[Negative, float] = {
    Negative.NORMAL_WOMAN: 2 * (1 - SCREENING_PREVALENCE - SCREENING_BENIGN),
    Negative.BENIGN_WOMAN: SCREENING_BENIGN,
    Negative.CANCER_WOMAN: SCREENING_PREVALENCE,
    Negative.BENIGN: SCREENING_BENIGN,
    Negative.OTHER: 2 * (1 - SCREENING_PREVALENCE),
}
"""Number of breasts of each kind per screened woman, if each woman has at most one lesion. The weights of the kinds of
negatives that occur are divided by their sum."""


def negatives(labels: Integers, women: Sequence[str], classes: Sequence[str]) -> list[Negative | None]:
    """Return the kind of each image; `None` for malignant ones.

    Args:
        labels: (images,) class indices; the last class is malignant.
        women: (images,), the patient of each image, with the images of both breasts.
        classes: Names of the classes.
    """
    malignant = {woman for woman, label in zip(women, labels, strict=True) if label == len(classes) - 1}
    benign_index = classes.index(Label.BENIGN) if Label.BENIGN in classes else -1
    benign = {woman for woman, label in zip(women, labels, strict=True) if label == benign_index}

    def kind(woman: str, label: int) -> Negative | None:
        """Return the kind of one image; `None` for a malignant one."""
        if label == len(classes) - 1:
            return None
        if label == benign_index:
            return Negative.BENIGN
        if woman in malignant:
            return Negative.CANCER_WOMAN
        if benign_index < 0:
            return Negative.OTHER
        return Negative.BENIGN_WOMAN if woman in benign else Negative.NORMAL_WOMAN

    return [kind(woman, int(label)) for woman, label in zip(women, labels, strict=True)]


def gain_by_negatives(
    kinds: Sequence[Negative | None], alone: Floats, compared: Floats, resamples: Resamples
) -> dict[str, Any]:
    """Return the malignant AUC of two scores against each kind of negative, and the paired difference.

    Args:
        kinds: (images,), `None` for malignant images.
        alone: (images,) score of each image by itself.
        compared: (images,) score of each image after comparison with the other breast.
        resamples: Bootstrap draws of the images' patients.

    Returns:
        {"kinds": a list of {"kind", "images", "women", "screening_share", "alone", "beside", "gain"}, "as_here": the
        figures against all negatives as they occur, "as_in_screening": the figures with the kinds weighted by
        `screening_share`}; "beside" is the figure of `compared`. Each figure is {"value", "low", "high", ...}; a kind
        with too few women has the value `None` and does not enter the weighted figures.
    """
    names = list(dict.fromkeys(sorted(kind for kind in kinds if kind is not None)))
    malignant = np.array([kind is None for kind in kinds], np.int64)
    member = {name: np.array([kind is None or kind is name for kind in kinds]) for name in names}
    women = {name: len(np.unique(resamples.groups[member[name] & (malignant == 0)])) for name in names}
    malignant_women = len(np.unique(resamples.groups[malignant == 1]))
    enough = [name for name in names if min(women[name], malignant_women) >= LEAST_WOMEN]
    total = sum(SCREENING_SHARES[name] for name in enough)
    rows = []
    for name in names:
        places = np.flatnonzero(member[name])
        found = (
            _compare(_auc_of_all(len(places)), malignant, alone, compared, resamples, places)
            if name in enough
            else _too_few(malignant_women, women[name])
        )
        share = SCREENING_SHARES[name] / total if name in enough else 0.0
        images = int((member[name] & (malignant == 0)).sum())
        rows.append({"kind": str(name), "images": images, "women": women[name], "screening_share": share, **found})
    here = _compare(_auc_of_all(len(kinds)), malignant, alone, compared, resamples, np.arange(len(kinds)))
    kept = np.flatnonzero([kind is None or kind in enough for kind in kinds])
    number = {kind: place for place, kind in enumerate(enough)}
    index = np.array([number.get(kind, 0) if kind else 0 for kind in kinds], np.int64)[kept]
    shares = [SCREENING_SHARES[name] / total for name in enough]
    screened = (
        _compare(auc_of_kinds(index, shares), malignant, alone, compared, resamples, kept)
        if enough
        else _too_few(malignant_women, 0)
    )
    return {"malignant_women": malignant_women, "kinds": rows, "as_here": here, "as_in_screening": screened}


def _auc_of_all(images: int) -> Metric:
    """Return the AUC against negatives that all count as one kind."""
    return auc_of_kinds(np.zeros(images, np.int64), [1.0])


def auc_of_kinds(kinds: Integers, shares: Sequence[float]) -> Metric:
    """Return the AUC against a mixture of negatives with given shares.

    Args:
        kinds: (images,), index of each negative image's kind; the values of positive images are not used.
        shares: (kinds,), share of each kind; they sum to 1.
    """

    def areas(labels: Integers, scores: Floats, weights: Floats) -> Floats:
        """Return the mixture's AUC under each resample's weights, (resamples,)."""
        found = np.zeros(len(weights))
        for kind, share in enumerate(shares):
            places = np.flatnonzero((labels == 1) | (kinds == kind))
            found = found + share * auc(labels[places] == 1, scores[places], weights[:, places])
        return found

    return Metric("malignant_auc", areas, needs=BOTH, binary=True, share=True)


def _compare(
    metric: Metric, malignant: Integers, alone: Floats, compared: Floats, resamples: Resamples, places: Integers
) -> dict[str, Any]:
    labels, drawn = malignant[places], resamples.of(places)
    try:
        gain = drawn.difference(metric, labels, alone[places], compared[places], level=LEVEL).as_dict()
    except MetricError:
        gain = undefined(f"undefined: there must be {metric.needs}")
    return {
        "alone": figure(metric, labels, alone[places], drawn),
        "beside": figure(metric, labels, compared[places], drawn),
        "gain": gain,
    }


def _too_few(malignant_women: int, women: int) -> dict[str, Any]:
    reason = f"too few: {malignant_women} women with malignant and {women} with such images, of {LEAST_WOMEN} needed"
    return {name: undefined(reason) for name in ("alone", "beside", "gain")}
