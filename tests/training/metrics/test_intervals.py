"""Confidence intervals compared with a second implementation of their formula, and the limits of having one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Interval, MetricError, Resamples, bootstrap_interval
from mammopipe.training.metrics.metric import Metric, all_alike, mean_metric
from mammopipe.training.metrics.scale import Scale

MEAN = mean_metric("mean", lambda labels, scores: scores, needs="a case", scale=Scale.REAL)
Floats = NDArray[np.float64]


def freedom(left: Floats, patients: int) -> float:
    """Satterthwaite's degrees of freedom of the jackknife's variance, at most `patients` - 1."""
    squares = (left - left.mean()) ** 2
    variance_of_squares = (squares**2).mean() - squares.mean() ** 2
    if variance_of_squares <= 0:
        return patients - 1
    return max(1.0, min(patients - 1, round(2 * len(left) * squares.mean() ** 2 / variance_of_squares, 1)))


def expected(
    metric: Metric, labels: Any, values: Any, groups: list[str], draws: Resamples, level: float, patients: int
) -> tuple[float, float]:
    """Return the bounds as the module's description defines them; `patients` have the rarest kind of image."""
    labels, values = np.asarray(labels), np.asarray(values, float)
    error = float(np.nanstd(metric.weighted(labels, values, draws.counts.astype(float)), ddof=1))
    names, index = np.unique(groups, return_inverse=True)
    degrees: float = patients - 1
    if len(names) <= 1000:
        blocks = min(len(names), 200)
        left = np.concatenate(
            [metric.weighted(labels, values, (index % blocks != block)[None].astype(float)) for block in range(blocks)]
        )
        left = left[np.isfinite(left)]
        error = max(error, float(np.sqrt((len(left) - 1) * left.var())))
        degrees = freedom(left, patients)
    reach = stats.t.ppf((1 + level) / 2, degrees) * error
    value = metric(labels, values)
    if metric.scale is Scale.REAL:
        return value - reach, value + reach
    assert metric.scale is Scale.SHARE
    logit, slope = np.log(value / (1 - value)), 1 / (value * (1 - value))
    low, high = (1 / (1 + np.exp(-(logit + sign * reach * slope))) for sign in (-1, 1))
    return float(low), float(high)


@pytest.mark.parametrize(
    ("patients", "images", "seed"),
    [(12, 2, 0), (12, 2, 1), (5, 3, 2), (40, 1, 3), (230, 1, 4), (1000, 1, 5), (1001, 1, 6)],
)
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_the_interval_is_that_of_the_formula(patients: int, images: int, seed: int, level: float) -> None:
    random = np.random.default_rng(seed)
    groups = [f"p{number:04d}" for number in np.repeat(np.arange(patients), images)]
    labels = np.arange(patients * images) % 2
    values = 0.2 * labels + random.standard_t(3, size=len(labels))
    draws = Resamples.draw(groups, n=30, seed=seed)
    for metric in (MEAN, classification.roc_auc):
        kinds = metric.kinds(labels, values)
        rarest = min(len({groups[place] for place in np.flatnonzero(kinds == kind)}) for kind in set(kinds.tolist()))
        found = draws.interval(metric, labels, values, level=level)
        assert (found.low, found.high) == pytest.approx(
            expected(metric, labels, values, groups, draws, level, rarest), rel=1e-9
        )


def test_one_patient_that_causes_all_the_variance_gives_few_degrees_of_freedom() -> None:
    values, groups = np.array([100.0, *[0.0] * 19]), [str(place) for place in range(20)]
    draws = Resamples.draw(groups, n=50, seed=0)
    found = draws.interval(MEAN, [0] * 20, values, level=0.95)
    error = max(
        float(MEAN.weighted(np.zeros(20, int), values, draws.counts.astype(float)).std(ddof=1)),
        float(np.sqrt(19 / 20 * ((np.array([0.0, *[100 / 19] * 19]) - 5.0) ** 2).sum())),
    )
    left = np.array([0.0, *[100 / 19] * 19])
    assert found.high is not None
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, freedom(left, 20)) * error)
    assert freedom(left, 20) == 2.3


def test_the_defaults_are_a_thousand_draws_of_seed_0_at_95_percent() -> None:
    # Without the jackknife, above 1000 patients, every draw counts.
    values, groups = np.random.default_rng(0).normal(size=1001), [str(place) for place in range(1001)]
    found = bootstrap_interval(MEAN, [0] * 1001, values, groups=groups)
    assert found == Resamples.draw(groups, n=1000, seed=0).interval(MEAN, [0] * 1001, values, level=0.95)


# --- where there is an interval, and where there is none


def known(figures: Floats, value: float, **options: Any) -> Metric:
    """Return a metric whose figures over the draws are given; it depends on no image otherwise."""

    def of(labels: Any, values: Any, weights: Floats) -> Floats:
        return figures if len(weights) == len(figures) else np.full(len(weights), value)

    return Metric("known", of, needs="nothing", binary=True, **{"kinds": all_alike, **options})


def interval(metric: Metric, draws: int, patients: int = 4, images: int | None = None) -> Interval:
    count = images or patients
    drawn = Resamples.draw([str(place % patients) for place in range(count)], n=draws, seed=0)
    return drawn.interval(metric, [0, 1] * (count // 2) + [0] * (count % 2), np.linspace(0, 1, count), level=0.95)


@pytest.mark.parametrize(("defined", "has_interval"), [(6, True), (5, True), (4, False)])
def test_at_least_half_of_the_draws_must_be_defined(defined: int, has_interval: bool) -> None:
    figures = np.where(np.arange(10) < defined, np.linspace(0.4, 0.6, 10), np.nan)
    found = interval(known(figures, 0.5), 10)
    assert (found.value, found.undefined) == (0.5, 10 - defined)
    assert (found.low is not None) == has_interval and (found.high is not None) == has_interval


@pytest.mark.parametrize(("images", "has_interval"), [(5, False), (6, True), (7, True)])
def test_a_metric_may_need_a_number_of_images(images: int, has_interval: bool) -> None:
    found = interval(known(np.linspace(0.4, 0.6, 10), 0.5, least_images=6), 10, images=images)
    assert (found.low is not None) == has_interval


@pytest.mark.parametrize(("patients", "has_interval"), [(1, False), (2, True)])
def test_two_patients_are_the_least(patients: int, has_interval: bool) -> None:
    found = interval(known(np.linspace(0.4, 0.6, 10), 0.5), 10, patients=patients, images=6)
    assert (found.low is not None) == has_interval


def test_two_patients_of_the_rarest_kind_are_the_least() -> None:
    figures = np.linspace(0.4, 0.6, 10)
    for kinds, has_interval in (
        ([0, 1, 1, 1], False),
        ([0, 0, 1, 1], True),
        ([-1, -1, 0, 0], True),
        ([-1, 0, -1, -1], False),
    ):
        metric = known(figures, 0.5, kinds=lambda labels, values, kinds=kinds: np.array(kinds))
        assert (interval(metric, 10).low is not None) == has_interval, kinds
    none = known(figures, 0.5, kinds=lambda labels, values: np.full(4, -1))
    assert interval(none, 10).low is None, "no image enters the metric"


@pytest.mark.parametrize("scale", [Scale.REAL, Scale.POSITIVE, Scale.UP_TO_TWO])
def test_a_metric_that_is_no_proportion_needs_five_patients(scale: Scale) -> None:
    metric = known(np.linspace(0.4, 0.6, 10), 0.5, scale=scale)
    assert interval(metric, 10, patients=4, images=8).low is None
    assert interval(metric, 10, patients=5, images=8).low is not None


def test_the_rise_by_chance_lowers_the_lower_bound_alone() -> None:
    figures = np.linspace(0.5, 0.7, 10)
    plain, raised = (interval(known(figures, 0.5, raised=each), 10) for each in (False, True))
    assert plain.low is not None and raised.low is not None and raised.high == plain.high
    logits = [np.log(low / (1 - low)) for low in (plain.low, raised.low)]
    assert logits[0] - logits[1] == pytest.approx((0.6 - 0.5) / (0.5 * 0.5)), "the mean of the draws is 0.6"
    fallen = [interval(known(figures, 0.7, raised=each), 10) for each in (False, True)]
    assert fallen[0] == fallen[1], "draws that lie lower are no rise"


def test_a_spread_that_is_only_rounding_counts_as_0() -> None:
    noise = np.linspace(-1, 1, 12)
    for value in (0.5, 0.0004):
        limit = 1e-12 * max(value, 1e-3)
        for factor, has_interval in ((0.9, False), (1.1, True)):
            figures = value + noise / noise.std(ddof=1) * limit * factor
            found = interval(known(figures, value, scale=Scale.REAL), 12, patients=5)
            assert (found.low is not None) == has_interval, (value, factor)


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.025**0.25, 1.0), (0.0, 0.0, 1 - 0.025**0.25)])
def test_a_share_at_a_bound_has_the_exact_interval_of_its_patients(value: float, low: float, high: float) -> None:
    for figures in (np.full(10, value), np.linspace(0.4, 0.6, 10)):
        found = interval(known(figures, value, share=True), 10)
        assert (found.low, found.high) == pytest.approx((low, high))
        plain = interval(known(figures, value), 10)
        assert (plain.value, plain.low, plain.high) == (value, None, None)
    inside = interval(known(np.full(10, 0.5), 0.5, share=True), 10)
    assert (inside.low, inside.high) == (None, None), "no spread, and not at a bound"
    kinds: Callable[..., Any] = lambda labels, values: np.array([0, -1, -1, -1])  # noqa: E731
    one = interval(known(np.full(10, 1.0), 1.0, share=True, kinds=kinds), 10)
    assert (one.low, one.high) == (pytest.approx(0.025), 1)
    none = interval(known(np.full(10, 1.0), 1.0, share=True, kinds=lambda *given: np.full(4, -1)), 10)
    assert (none.low, none.high) == (None, None)


def test_infinite_bounds_are_none() -> None:
    figures = np.linspace(0, 40, 10)
    found = interval(known(figures, 0.001, scale=Scale.POSITIVE), 10, patients=5)
    assert (found.value, found.low, found.high) == (0.001, None, None)
    near = interval(known(figures, 20.0, scale=Scale.POSITIVE), 10, patients=5)
    assert near.low is not None and near.high is not None and 0 < near.low < 20 < near.high


def test_two_patients_have_the_jackknife_s_error_and_one_degree_of_freedom() -> None:
    metric, groups = mean_metric("n", lambda labels, scores: scores, needs="a case"), ["a", "b", "b"]
    draws = Resamples.draw(groups, n=40, seed=0)
    found = draws.interval(metric, [0, 1, 1], [0.2, 0.7, 0.75], level=0.5)
    bounds = expected(metric, [0, 1, 1], [0.2, 0.7, 0.75], groups, draws, 0.5, 2)
    assert (found.low, found.high) == pytest.approx(bounds)
    # Many patients, but two of the rarer kind.
    labels, scores, names = [1, 1, *[0] * 8], [0.9, 0.3, *np.linspace(0.1, 0.6, 8)], list("abcdefghij")
    draws = Resamples.draw(names, n=40, seed=0)
    found = draws.interval(classification.roc_auc, labels, scores, level=0.5)
    bounds = expected(classification.roc_auc, labels, scores, names, draws, 0.5, 2)
    assert (found.low, found.high) == pytest.approx(bounds)


def test_without_variance_of_the_jackknife_the_patients_give_the_degrees_of_freedom() -> None:
    figures = np.linspace(0.4, 0.6, 10)
    found = interval(known(figures, 0.5), 10, patients=6)
    reach = stats.t.ppf(0.975, 5) * figures.std(ddof=1) / 0.25
    assert found.high == pytest.approx(1 / (1 + np.exp(-reach)))


def test_undefined_draws_are_counted_whatever_the_interval() -> None:
    def undefined(value: float, highest: float = 0.6, **options: Any) -> Interval:
        figures = np.where(np.arange(10) < 7, np.linspace(0, highest, 10), np.nan)
        return interval(known(figures, value, **options), 10, patients=5)

    for found, value, has_interval in (
        (undefined(0.5), 0.5, True),
        (undefined(1.0, share=True), 1.0, True),
        (undefined(1.0), 1.0, False),
        (undefined(0.5, kinds=lambda *given: np.array([0, 1, 1, 1, 1])), 0.5, False),
        (undefined(0.001, 40.0, scale=Scale.POSITIVE), 0.001, False),
    ):
        assert (found.value, found.undefined, found.low is not None) == (value, 3, has_interval)


def test_kinds_may_depend_on_the_values() -> None:
    for limit, has_interval in ((0.5, True), (0.9, False)):
        metric = known(
            np.linspace(0.4, 0.6, 10), 0.5, kinds=lambda labels, values, limit=limit: np.where(values > limit, 0, -1)
        )
        assert (interval(metric, 10).low is not None) is has_interval, "one patient above 0.9, two above 0.5"


def test_wrong_input_is_named() -> None:
    draws = Resamples.draw(["a", "b"], n=2, seed=0)
    for level in (0, 1, -0.5, 1.5):
        with pytest.raises(MetricError, match=rf"^level={level} must lie between 0 and 1$"):
            draws.interval(MEAN, [0, 1], [0.1, 0.2], level=level)
    with pytest.raises(MetricError, match="^3 labels for 2 resampled images: numbers must agree$"):
        draws.interval(MEAN, [0, 1, 1], [0.1, 0.2, 0.3], level=0.5)
    with pytest.raises(MetricError, match="^1 resamples of 2 images: at least two resamples of one image are needed$"):
        Resamples.draw(["a", "b"], n=1, seed=0)
    with pytest.raises(MetricError, match="^5 resamples of 0 images: at least two resamples of one image are needed$"):
        Resamples.draw([], n=5, seed=0)


def test_each_draw_has_as_many_patients_as_there_are() -> None:
    draws = Resamples.draw(["a", "b", "b", "c"], n=400, seed=1)
    patients = draws.counts[:, [0, 1, 3]]
    assert (patients.sum(axis=1) == 3).all() and (draws.counts[:, 1] == draws.counts[:, 2]).all()
    assert draws.counts.dtype == np.uint16 and draws.patients == 3
    assert patients.mean(axis=0) == pytest.approx([1, 1, 1], abs=0.15)


def test_draws_of_some_images_are_those_of_their_patients() -> None:
    patients = np.array(["b", "a", "b", "c", "a", "c", "c"])
    whole = Resamples.draw(patients, n=50, seed=3)
    part = whole.of(np.array([4, 2, 0]))
    assert (part.counts == whole.counts[:, [4, 2, 0]]).all() and part.patients == 2 and whole.patients == 3
    firsts = whole.of(np.array([1, 0, 3]))
    assert (firsts.counts == Resamples.draw(["a", "b", "c"], n=50, seed=3).counts).all(), "one image for each patient"


def test_figures_are_computed_for_a_bounded_number_of_cells_at_once() -> None:
    rows = []

    def of(labels: Any, values: Any, weights: Floats) -> Floats:
        rows.append(len(weights))
        return weights @ np.asarray(values, float) / weights.sum(axis=1)

    metric = Metric("mean", of, needs="a case", binary=True, scale=Scale.REAL, kinds=all_alike)
    images = 30_000
    draws = Resamples.draw([str(place % 1200) for place in range(images)], n=70, seed=0)
    draws.interval(metric, [0] * images, np.linspace(0, 1, images), level=0.95)
    assert rows == [1, 33, 33, 4], "the metric itself, then at most a million resampled images at a time"


def test_the_json_values_of_an_interval() -> None:
    assert Interval(0.5, 0.25, None, 7).as_dict() == {
        "value": 0.5,
        "low": 0.25,
        "high": None,
        "undefined_resamples": 7,
    }
    assert Interval(0.5, 0.4, 0.6).undefined == 0
