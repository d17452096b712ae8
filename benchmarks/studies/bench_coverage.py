"""How often the reports' 95 % intervals contain the true value, by simulation.

Run `python -m benchmarks.studies.bench_coverage`.

Each simulated woman has two images, or ten: five of each breast. There are three classes; one breast in six is
malignant, but never both breasts of a woman. All images of a breast have its class, and all images of a woman have
correlated logits. The true value is that of 80,000 images or more. Every kind of interval is tested at three sizes and
two levels of performance; the calibration error only at the smallest size that has an interval. The value of a row is
the lowest of these coverages, and each coverage is a peer. The peers `percentile` and `none` are the lowest coverage of
the bootstrap percentiles, and the highest share of samples without an interval.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.rows import Row, row
from mammopipe.training.metrics import calibration, classification, precision_recall, thresholds
from mammopipe.training.metrics.bootstrap import Interval, MetricError, Resamples
from mammopipe.training.metrics.metric import Metric
from mammopipe.training.model.calibration import softmax
from mammopipe.training.model.predictions import Floats, Integers

COMMAND = "python -m benchmarks.studies.bench_coverage"
BAR = 0.93
SIMULATIONS = 600
RESAMPLES = 400
Size = tuple[int, int]
"""Number of women, and number of images per woman."""
SIZES: tuple[Size, ...] = ((32, 2), (129, 2), (32, 10))
"""The test split of mini-MIAS, 64 images; its development set, 258 images; and 320 images of few women."""
SIGNALS = (0.65, 2.2)
"""Distance of a class's logits from the others', in standard deviations: malignant AUCs of about 0.72 and 0.98."""
MALIGNANT = 2
THRESHOLD = 0.3
_WITHIN = 0.5
"""Fraction of a logit's variance that a woman's two images share."""

Sample = tuple[Integers, Floats, Integers]


@dataclass(frozen=True)
class Kind:
    """One kind of interval."""

    metric: Metric
    binary: bool = False
    """Whether the metric takes malignant or not with a score, instead of classes with probabilities."""
    difference: bool = False
    """Whether the interval is that of a paired difference to a second model, which has more noise."""
    every: int = 1
    """Uses one sample in this many, for metrics that are slow to compute."""
    sizes: tuple[Size, ...] = SIZES
    """The sizes at which it is tested."""

    @property
    def name(self) -> str:
        """The name of the row."""
        return f"difference of {self.metric.name}" if self.difference else self.metric.name


KINDS = (
    Kind(classification.macro_auc),
    Kind(classification.malignant_auc),
    Kind(classification.malignant_auc, difference=True),
    Kind(classification.accuracy),
    Kind(classification.balanced_accuracy),
    Kind(classification.recall(MALIGNANT)),
    Kind(classification.precision(MALIGNANT)),
    Kind(classification.f1(MALIGNANT)),
    Kind(classification.log_loss),
    Kind(classification.brier),
    Kind(classification.expected_calibration_error, every=2, sizes=((1500, 2),)),
    Kind(thresholds.sensitivity_at(THRESHOLD), binary=True),
    Kind(thresholds.specificity_at(THRESHOLD), binary=True),
    Kind(thresholds.ppv_at(THRESHOLD), binary=True),
    Kind(thresholds.npv_at(THRESHOLD), binary=True),
    Kind(calibration.expected_over_observed, binary=True),
    Kind(precision_recall.average_precision, binary=True),
    Kind(calibration.calibration_intercept, binary=True, every=4),
    Kind(calibration.calibration_slope, binary=True, every=4),
)


def sample(random: np.random.Generator, size: Size, signal: float) -> Sample:
    """Return labels (images,), probabilities of two models (2, images, 3) and the woman of each image (images,)."""
    women, images = size
    labels = np.where(random.random((women, 2)) < 0.23, 1, 0)
    with_cancer = random.random(women) < 0.32
    labels[with_cancer, random.integers(2, size=women)[with_cancer]] = MALIGNANT
    labels = np.repeat(labels, images // 2, axis=1)
    common, own = random.normal(size=(women, 1, 3)), random.normal(size=(women, images, 3))
    logits = np.sqrt(_WITHIN) * common + np.sqrt(1 - _WITHIN) * own + signal * np.eye(3)[labels]
    second = logits + 0.5 * random.normal(size=(women, images, 3))
    both = np.stack([softmax(each.reshape(-1, 3)) for each in (logits, second)])
    return labels.ravel(), both, np.repeat(np.arange(women), images)


@dataclass
class Count:
    """The intervals of one kind in one cell."""

    made: int = 0
    without: int = 0
    """Samples in which the metric is defined, but has no interval."""
    ours: int = 0
    percentile: int = 0

    def add(self, found: Interval, figures: Floats, truth: float) -> None:
        """Count one sample; `figures` are the values of the resamples."""
        if found.low is None or found.high is None:
            self.without += 1
            return
        low, high = np.nanquantile(figures, [0.025, 0.975])
        self.made += 1
        self.ours += found.low <= truth <= found.high
        self.percentile += low <= truth <= high


def _of(kind: Kind, labels: Integers, both: Floats) -> tuple[Integers, list[Floats]]:
    if kind.binary:
        return (labels == MALIGNANT).astype(np.int64), [each[:, MALIGNANT] for each in both]
    return labels, list(both)


def _value(kind: Kind, labels: Integers, both: Floats) -> float:
    truth, scores = _of(kind, labels, both)
    value = kind.metric(truth, scores[0])
    return kind.metric(truth, scores[1]) - value if kind.difference else value


def _interval(kind: Kind, labels: Integers, both: Floats, draws: Resamples) -> tuple[Interval, Floats]:
    truth, scores = _of(kind, labels, both)
    weighted = partial(kind.metric.weighted, truth, weights=draws.counts.astype(np.float64))
    if kind.difference:
        found = draws.difference(kind.metric, truth, *scores, level=0.95)
        return found, weighted(values=scores[1]) - weighted(values=scores[0])
    return draws.interval(kind.metric, truth, scores[0], level=0.95), weighted(values=scores[0])


def coverage(size: Size, signal: float, simulations: int = SIMULATIONS) -> dict[str, Count]:
    """Return the counts of each kind that is tested at a size, for one level of performance."""
    kinds = [kind for kind in KINDS if size in kind.sizes]
    labels, both, _ = sample(np.random.default_rng(1), (40_000, size[1]), signal)
    true = [_value(kind, labels, both) for kind in kinds]
    counts = {kind.name: Count() for kind in kinds}
    for seed in range(0, simulations, min(kind.every for kind in kinds)):
        # With two images a woman, the seed is that of earlier versions of this benchmark, so that figures compare.
        seeds = [seed, size[0]] if size[1] == 2 else [seed, *size]
        labels, both, owners = sample(np.random.default_rng(seeds), size, signal)
        draws = Resamples.draw(owners.astype(str), n=RESAMPLES, seed=seed)
        for kind, value in zip(kinds, true, strict=True):
            if seed % kind.every:
                continue
            try:
                found, figures = _interval(kind, labels, both, draws)
            except MetricError:
                continue  # The metric is undefined, because the sample lacks a class.
            counts[kind.name].add(found, figures, value)
    return counts


def rows(simulations: int, of: Callable[[Size, float, int], dict[str, Count]] = coverage) -> list[Row]:
    """Return one row per kind of interval."""
    cells = {}
    for size in sorted({size for kind in KINDS for size in kind.sizes}, key=lambda size: (size[1], size[0])):
        for signal in SIGNALS:
            started = time.monotonic()
            name = f"{size[0] * size[1]} images" + ("" if size[1] == 2 else f" of {size[0]} women")
            cells[f"{name}, signal {signal}"] = of(size, signal, simulations)
            print(f"{name}, signal {signal}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return [
        _row(kind, {cell: counts[kind.name] for cell, counts in cells.items() if kind.name in counts}) for kind in KINDS
    ]


def _row(kind: Kind, cells: dict[str, Count]) -> Row:
    made = {cell: count for cell, count in cells.items() if count.made}
    shares = {cell: count.ours / count.made for cell, count in made.items()}
    none = max(count.without / max(count.made + count.without, 1) for count in cells.values())
    percentile = min(count.percentile / count.made for count in made.values())
    name = f"coverage of 95 % intervals, lowest of {len(made)}: {kind.name}"
    peers = {**shares, "percentile": percentile, "none": none}
    return row(name, min(shares.values()), "share", BAR, "higher", COMMAND, **peers)


def main(arguments: Sequence[str]) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--simulations", type=int, default=SIMULATIONS, help="samples of each size and level")
    print(json.dumps(rows(parser.parse_args(arguments).simulations)))


if __name__ == "__main__":
    main(sys.argv[1:])
