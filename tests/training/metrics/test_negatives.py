"""The gain of comparing breasts by kind of negative, on scores whose answer is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference

from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.negatives import (
    LEAST_WOMEN,
    SCREENING_SHARES,
    Negative,
    auc_of_kinds,
    gain_by_negatives,
    negatives,
)

CLASSES = ("normal", "benign", "malignant")
PAIRS = ((0, 0),) * 40 + ((2, 0),) * 30 + ((1, 0),) * 30 + ((2, 1),) * 5
"""The classes of the two breasts of each woman."""


def labels_and_women() -> tuple[np.ndarray, list[str]]:
    return np.array(PAIRS).ravel(), [f"w{index // 2:03d}" for index in range(2 * len(PAIRS))]


def by_kind(found, kind: Negative):
    (row,) = [row for row in found["kinds"] if row["kind"] == kind]
    return row


def test_each_negative_has_the_kind_of_its_woman() -> None:
    labels, women = labels_and_women()
    kinds = negatives(labels, women, CLASSES)
    counts = {kind: kinds.count(kind) for kind in (*Negative, None)}
    assert counts == {
        Negative.NORMAL_WOMAN: 80,
        Negative.CANCER_WOMAN: 30,
        Negative.BENIGN_WOMAN: 30,
        Negative.BENIGN: 35,
        Negative.OTHER: 0,
        None: 35,
    }
    two = negatives((labels == 2).astype(np.int64), women, ("negative", "malignant"))
    assert {kind: two.count(kind) for kind in set(two)} == {
        Negative.OTHER: 140,
        Negative.CANCER_WOMAN: 35,
        None: 35,
    }


def test_a_gain_only_against_the_other_breast_of_women_with_cancer_is_shown_as_such() -> None:
    # Without comparison, every image has the same score. The comparison lowers only the other breast of women with
    # cancer. The gain against the images here is due to the case mix, and is almost 0 in screening.
    labels, women = labels_and_women()
    kinds = negatives(labels, women, CLASSES)
    alone = np.full(len(kinds), 0.5)
    compared = np.array([0.1 if kind is Negative.CANCER_WOMAN else 0.5 for kind in kinds])
    found = gain_by_negatives(kinds, alone, compared, Resamples.draw(women, n=200, seed=0))
    assert by_kind(found, Negative.CANCER_WOMAN)["gain"]["value"] == 0.5
    for kind in (Negative.NORMAL_WOMAN, Negative.BENIGN, Negative.BENIGN_WOMAN):
        assert by_kind(found, kind)["gain"]["value"] == 0
    assert found["as_here"]["gain"]["value"] == pytest.approx(0.5 * 30 / 175)
    total = sum(SCREENING_SHARES[kind] for kind in Negative if kind is not Negative.OTHER)
    share = SCREENING_SHARES[Negative.CANCER_WOMAN] / total
    assert share == pytest.approx(0.003, abs=1e-4)
    assert found["as_in_screening"]["gain"]["value"] == pytest.approx(0.5 * share)
    assert found["as_in_screening"]["alone"]["value"] == 0.5
    assert sum(row["screening_share"] for row in found["kinds"]) == pytest.approx(1)


def test_figures_are_those_of_scikit_learn_and_the_gain_is_paired() -> None:
    labels, women = labels_and_women()
    kinds = negatives(labels, women, CLASSES)
    random = np.random.default_rng(3)
    alone = random.normal(size=len(labels)) + (labels == 2)
    compared = alone + 0.4 * (labels == 2)
    draws = Resamples.draw(women, n=400, seed=0)
    found = gain_by_negatives(kinds, alone, compared, draws)
    shares = {row["kind"]: row["screening_share"] for row in found["kinds"]}
    expected = 0.0
    for kind in (Negative.NORMAL_WOMAN, Negative.CANCER_WOMAN, Negative.BENIGN_WOMAN, Negative.BENIGN):
        places = [place for place, each in enumerate(kinds) if each in (None, kind)]
        row = by_kind(found, kind)
        area = reference.roc_auc_score(labels[places] == 2, compared[places])
        assert row["beside"]["value"] == pytest.approx(area)
        assert row["gain"]["low"] < row["gain"]["value"] < row["gain"]["high"]
        width = row["beside"]["high"] - row["beside"]["low"]
        assert row["gain"]["high"] - row["gain"]["low"] < width, "paired: what both share does not widen it"
        expected += shares[kind] * area
    assert found["as_in_screening"]["beside"]["value"] == pytest.approx(expected)
    area = reference.roc_auc_score(labels == 2, compared)
    assert found["as_here"]["beside"]["value"] == pytest.approx(area)


def test_the_area_against_a_mixture_is_the_weighted_mean() -> None:
    metric = auc_of_kinds(np.array([0, 0, 1, 0]), [0.25, 0.75])
    assert metric([1, 0, 0, 0], [0.5, 0.4, 0.6, 0.5]) == pytest.approx(0.25 * 0.75 + 0.75 * 0)
    assert metric.name == "malignant_auc"


def test_a_perfect_area_has_the_exact_bounds_of_a_proportion() -> None:
    # Clopper and Pearson: the lower bound b of 10 of 10 women has b ** 10 = 0.025.
    found = measured(((2, 2),) * 10 + ((0, 0),) * 12, (0.1, 0.2, 0.3))
    for name in ("as_here", "as_in_screening"):
        area = found[name]["alone"]
        assert (area["value"], area["low"], area["high"]) == (1, pytest.approx(0.025**0.1), 1)


def test_too_few_women_give_no_figure_and_no_share() -> None:
    labels = np.array([2, 0] * 12 + [1, 0] * (LEAST_WOMEN - 1) + [0, 0] * 12)
    women = [f"w{index // 2:03d}" for index in range(len(labels))]
    found = gain_by_negatives(
        negatives(labels, women, CLASSES), labels * 0.1, labels * 0.2, Resamples.draw(women, n=50, seed=0)
    )
    row = by_kind(found, Negative.BENIGN)
    assert row["gain"]["value"] is None and row["screening_share"] == 0
    assert row["gain"]["reason"] == "too few: 12 women with malignant and 9 with such images, of 10 needed"
    assert found["as_in_screening"]["alone"]["value"] == 1


def measured(pairs: Sequence[tuple[int, int]], scores: Sequence[float]) -> dict[str, Any]:
    """Return the figures where each class has a score of its own, the same alone and beside."""
    labels = np.array(pairs).ravel()
    women = [f"w{index // 2:03d}" for index in range(len(labels))]
    given = np.array(scores)[labels]
    return gain_by_negatives(negatives(labels, women, CLASSES), given, given, Resamples.draw(women, n=20, seed=0))


def test_each_kind_is_counted_in_the_order_of_the_names() -> None:
    found = measured(((0, 0),) * 10 + ((2, 0),) * 11 + ((1, 1),) * 12, (0.1, 0.2, 0.3))
    counts = [(row["kind"], row["images"], row["women"]) for row in found["kinds"]]
    assert counts == [(Negative.BENIGN, 24, 12), (Negative.NORMAL_WOMAN, 20, 10), (Negative.CANCER_WOMAN, 11, 11)]
    assert found["malignant_women"] == 11


def test_ten_women_of_each_kind_are_enough_and_images_of_fewer_are_in_no_weighted_figure() -> None:
    # Benign images score above malignant ones.
    found = measured(((2, 2),) * 10 + ((0, 0),) * 10 + ((1, 1),) * 9, (0.1, 0.9, 0.5))
    normal, benign = by_kind(found, Negative.NORMAL_WOMAN), by_kind(found, Negative.BENIGN)
    assert (normal["alone"]["value"], normal["screening_share"]) == (1, 1)
    assert (benign["alone"]["value"], benign["screening_share"]) == (None, 0)
    assert found["as_in_screening"]["alone"]["value"] == 1
    assert found["as_here"]["alone"]["value"] == pytest.approx(20 / 38)


def test_too_few_women_with_cancer_give_no_figure_of_any_kind() -> None:
    found = measured(((2, 2),) * 9 + ((0, 0),) * 20, (0.1, 0.2, 0.3))
    reason = "too few: 9 women with malignant and 20 with such images, of 10 needed"
    empty = {"value": None, "low": None, "high": None, "undefined_resamples": 0}
    row = by_kind(found, Negative.NORMAL_WOMAN)
    assert row["alone"] == row["beside"] == row["gain"] == {**empty, "reason": reason}
    assert found["as_in_screening"]["gain"]["reason"] == reason.replace("20", "0")
    assert found["as_here"]["alone"]["value"] == 1


def test_without_a_malignant_image_the_figures_are_undefined() -> None:
    found = measured(((0, 0), (1, 0)), (0.1, 0.2, 0.3))["as_here"]
    for name in ("alone", "beside", "gain"):
        assert found[name]["value"] is None
        assert found[name]["reason"] == "undefined: there must be images with and without the finding"


def test_the_benign_class_may_stand_anywhere() -> None:
    assert negatives(np.array([0, 1, 2, 1]), ["a", "a", "b", "c"], ("benign", "normal", "malignant")) == [
        Negative.BENIGN,
        Negative.BENIGN_WOMAN,
        None,
        Negative.NORMAL_WOMAN,
    ]
