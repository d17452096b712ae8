"""How often the reports' 95 % intervals contain the true value, by simulation: `python -m benchmarks.bench_coverage`.

Each woman has two images. There are three classes; one breast in six is malignant, never both of a woman. Her two
images have correlated logits. The true value is that of 80,000 images. For comparison, each row also has the coverage
of the bootstrap percentiles, which these intervals replaced.
"""

import json
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.rows import Row, row
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.classification import macro_auc, malignant_auc
from mammopipe.training.metrics.metric import Metric
from mammopipe.training.model.calibration import softmax
from mammopipe.training.model.predictions import Floats, Integers

COMMAND = "python -m benchmarks.bench_coverage"
BAR = 0.93
SIMULATIONS = 600
RESAMPLES = 500
WOMEN = (32, 129)
"""Sizes of the test split of mini-MIAS, 64 images, and of its development set, 258 images."""
SIGNALS = (0.65, 2.2)
"""Distance of a class's logits from the others', in standard deviations: AUCs of about 0.71 and 0.98."""
_WITHIN = 0.5
"""Fraction of a logit's variance that a woman's two images share."""

Sample = tuple[Integers, Floats, Integers]


def sample(random: np.random.Generator, women: int, signal: float) -> Sample:
    """Return labels (images,), probabilities (images, 3) and the woman of each image (images,)."""
    labels = np.where(random.random((women, 2)) < 0.23, 1, 0)
    ill = random.random(women) < 0.32
    labels[ill, random.integers(2, size=women)[ill]] = 2
    common, own = random.normal(size=(women, 1, 3)), random.normal(size=(women, 2, 3))
    logits = np.sqrt(_WITHIN) * common + np.sqrt(1 - _WITHIN) * own + signal * np.eye(3)[labels]
    return labels.ravel(), softmax(logits.reshape(-1, 3)), np.repeat(np.arange(women), 2)


def coverage(metric: Metric, women: int, signal: float) -> tuple[float, float, float]:
    """Return the true value, and how often our intervals and the percentile intervals contain it."""
    labels, probabilities, _ = sample(np.random.default_rng(1), 40_000, signal)
    truth, ours, percentiles, made = metric(labels, probabilities), 0, 0, 0
    for seed in range(SIMULATIONS):
        labels, probabilities, owners = sample(np.random.default_rng([seed, women]), women, signal)
        if len(np.unique(labels)) < 3:
            continue
        draws = Resamples.draw(owners.astype(str), n=RESAMPLES, seed=seed)
        found = draws.interval(metric, labels, probabilities, level=0.95)
        figures = metric.weighted(labels, probabilities, draws.counts.astype(np.float64))
        low, high = np.nanquantile(figures, [0.025, 0.975])
        made += 1
        ours += found.low is not None and found.high is not None and found.low <= truth <= found.high
        percentiles += low <= truth <= high
    return truth, ours / made, percentiles / made


def rows(of: Callable[[Metric, int, float], tuple[float, float, float]] = coverage) -> list[Row]:
    """Return one row per metric, number of women and signal."""
    found = []
    for metric in (macro_auc, malignant_auc):
        for women in WOMEN:
            for signal in SIGNALS:
                truth, ours, percentiles = of(metric, women, signal)
                name = f"coverage of 95 % intervals: {metric.name} {truth:.2f}, {2 * women} images of {women} women"
                found.append(row(name, ours, "share", BAR, "higher", COMMAND, percentiles=percentiles))
                print(found[-1], file=sys.stderr)
    return found


if __name__ == "__main__":
    print(json.dumps(rows()))
