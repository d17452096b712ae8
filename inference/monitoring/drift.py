"""Tests whether the images sent to an endpoint still resemble those of training, by window, machine and site.

Each figure of each group (all images, a machine, a site) has two tests: the population stability index of a window
against the reference, and a CUSUM over the windows for slow drift. The limits share one budget of false alarms: all
tests together may raise 1 / `false_alarm_windows` false alarms per window (`mammopipe.training.model.distributions`).
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any

import numpy as np
from pydantic import Field

from mammopipe.inference.monitoring.captures import CapturedExam
from mammopipe.inference.monitoring.windows import Windows
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings
from mammopipe.training.model.distributions import (
    SMALLEST_SHIFT,
    FeatureHistogram,
    Floats,
    allowance,
    cusum_limit,
    index_limit,
    stability_index,
)
from mammopipe.training.model.drift_features import EVERYTHING, FIGURES, Distributions, groups_of

_BOTH_TESTS = 2


class Verdict(StrEnum):
    """The verdict on all groups together."""

    DRIFT = "DRIFT"
    QUIET = "quiet"
    NOT_JUDGED = "not judged"
    """No group has a window with enough requests. Drift is then unknown, not absent."""

    @classmethod
    def of(cls, strength: float | None) -> "Verdict":
        """Return the verdict for the strongest test, as a share of its limit; `None` if no group was judged."""
        if strength is None:
            return cls.NOT_JUDGED
        return cls.DRIFT if strength >= 1 else cls.QUIET


class DriftConfig(Settings):
    """Settings of the drift tests."""

    window_days: int = Field(default=7, ge=1, le=92, description="length of one window in days")
    windows: int = Field(
        default=Windows.number,
        ge=1,
        le=5_000,
        description="number of windows that are judged, the newest ones; the CUSUM does not include earlier drift",
    )
    least_exams: int = Field(
        default=20, ge=5, le=100_000, description="requests of a group below which a window is not judged"
    )
    false_alarm_windows: int = Field(
        default=520,
        ge=4,
        le=10**6,
        description="windows in which all tests together raise one false alarm on average; 520 are ten years of weeks",
    )

    @property
    def span(self) -> Windows:
        """Return the windows that are judged."""
        return Windows(self.window_days, self.windows)


@dataclass
class GroupWindow:
    """One group in one window: its numbers of exams and images, and the images' figures."""

    start: date
    exams: int = 0
    images: int = 0
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class FigureDrift:
    """One figure of one group over the judged windows; lists of tests have one number per window."""

    index: list[float]
    index_limit: list[float]
    cusum: list[float]
    cusum_limit: float
    reference: list[float]
    """Shares of the bins in the reference."""
    latest: list[float]
    """Shares of the bins in the last judged window."""
    edges: list[float]

    @property
    def strength(self) -> list[float]:
        """Return, for each window, the larger of both tests as a share of its limit; 1 and above is an alarm."""
        return [
            max(index / limit, cusum / self.cusum_limit)
            for index, limit, cusum in zip(self.index, self.index_limit, self.cusum, strict=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        rounded = {
            name: [round(value, 4) for value in getattr(self, name)]
            for name in ("index", "index_limit", "cusum", "reference", "latest", "strength")
        }
        return {**rounded, "cusum_limit": round(self.cusum_limit, 4), "edges": self.edges}


@dataclass(frozen=True)
class GroupDrift:
    """One group over all windows."""

    name: str
    known: str
    """The reference: `training`, `baseline`, or `training, all images` for a group that is in neither."""
    windows: Sequence[GroupWindow]
    judged: Sequence[date]
    figures: Mapping[str, FigureDrift]

    @property
    def strength(self) -> float | None:
        """Return the strongest test of the last judged window; `None` if none was judged."""
        return max((each.strength[-1] for each in self.figures.values() if each.strength), default=None)

    def alarms(self) -> list[str]:
        """Return the figures with an alarm in the last judged window, the strongest first."""
        firing = [(each.strength[-1], name) for name, each in self.figures.items() if each.strength]
        return [name for strength, name in sorted(firing, reverse=True) if strength >= 1]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        windows = [
            {
                "start": window.start.isoformat(),
                "exams": window.exams,
                "films": window.images,
                "judged": window.start in set(self.judged),
            }
            for window in self.windows
        ]
        strength = None if self.strength is None else round(self.strength, 4)
        return {
            "known": self.known,
            "strength": strength,
            "alarms": self.alarms(),
            "weeks": windows,
            "figures": {name: each.as_dict() for name, each in self.figures.items()},
        }


def gather(exams: Iterable[CapturedExam], config: DriftConfig) -> dict[str, list[GroupWindow]]:
    """Return the windows of each group in chronological order; windows without a request are absent."""
    found: dict[str, dict[date, GroupWindow]] = defaultdict(dict)
    for exam in exams:
        start = config.span.start_of(exam.time.date())
        seen = set()
        for image in exam.images:
            for group in groups_of(image.machine, image.site):
                window = found[group].setdefault(start, GroupWindow(start))
                window.images += 1
                window.exams += group not in seen
                seen.add(group)
                for name, value in image.figures.items():
                    window.values[name].append(value)
    return {group: [windows[start] for start in sorted(windows)] for group, windows in sorted(found.items())}


def judge(
    groups: Mapping[str, Sequence[GroupWindow]], training: Distributions, baseline: Distributions, config: DriftConfig
) -> list[GroupDrift]:
    """Return the tests of every group against its reference.

    Args:
        groups: Windows by group.
        training: The model's reference distributions by group.
        baseline: Accepted distributions by group, which take precedence.
        config: Settings of the tests.

    Raises:
        ConfigError: The model has no reference distributions.
    """
    if EVERYTHING not in training:
        raise ConfigError("model.json has no reference.distributions: it was evaluated by an earlier version")
    # All tests share the budget of false alarms: each may fire with an equal part of the probability (Bonferroni).
    tests = _BOTH_TESTS * len(FIGURES) * max(1, len(groups))
    return [_judge_group(name, windows, training, baseline, config, tests) for name, windows in groups.items()]


def _judge_group(
    name: str,
    windows: Sequence[GroupWindow],
    training: Distributions,
    baseline: Distributions,
    config: DriftConfig,
    tests: int,
) -> GroupDrift:
    known, reference = _known(name, training, baseline)
    judged = [window for window in windows if window.exams >= config.least_exams]
    figures = {
        figure: _judge_figure(figure, reference[figure], judged, config, tests)
        for figure in FIGURES
        if figure in reference and judged and all(window.values.get(figure) for window in judged)
    }
    return GroupDrift(name, known, windows, [window.start for window in judged], figures)


def _known(name: str, training: Distributions, baseline: Distributions) -> tuple[str, Mapping[str, FeatureHistogram]]:
    """Return a group's reference: its accepted baseline, else its training data, else that of all images."""
    if name in baseline:
        return "baseline", baseline[name]
    return ("training", training[name]) if name in training else ("training, all images", training[EVERYTHING])


def _judge_figure(
    name: str, reference: FeatureHistogram, windows: Sequence[GroupWindow], config: DriftConfig, tests: int
) -> FigureDrift:
    counts = [reference.count(window.values[name]) for window in windows]
    chance = 1 / (config.false_alarm_windows * tests)
    # The limit needs one number of exams for all windows; a few unusual windows do not move the median.
    exams = statistics.median(window.exams for window in windows)
    slack = SMALLEST_SHIFT / 2 * exams**0.5
    return FigureDrift(
        index=[stability_index(reference, found) for found in counts],
        index_limit=[index_limit(reference, window.exams, chance) for window in windows],
        cusum=cusum(reference, counts, [window.exams for window in windows]),
        cusum_limit=cusum_limit(slack, 1 / chance),
        reference=reference.shares.tolist(),
        latest=(counts[-1] / counts[-1].sum()).tolist(),
        edges=list(reference.edges),
    )


def cusum(reference: FeatureHistogram, counts: Sequence[Floats], exams: Sequence[int]) -> list[float]:
    """Return, for each window, the larger of the upper and the lower cumulative sum of deviations from the reference.

    Args:
        reference: The reference distribution.
        counts: For each window (bins,) numbers of images in each bin.
        exams: For each window the number of exams; its square root weights the window's mean deviation.
    """
    scores, slack = reference.scores, allowance(reference)
    up = down = 0.0
    sums = []
    for found, number in zip(counts, exams, strict=True):
        deviation = float((scores * found).sum() / found.sum())
        up = max(0.0, up + (deviation - slack) * number**0.5)
        down = max(0.0, down + (-deviation - slack) * number**0.5)
        sums.append(max(up, down))
    return sums


def accepted(groups: Mapping[str, Sequence[GroupWindow]], config: DriftConfig) -> Distributions:
    """Return the distributions of the captured images by group, which a user can accept as the baseline."""
    found = {}
    for name, windows in groups.items():
        exams = sum(window.exams for window in windows)
        if exams < config.least_exams:
            continue
        values: dict[str, Any] = {
            figure: [value for window in windows for value in window.values.get(figure, ())] for figure in FIGURES
        }
        found[name] = {
            figure: FeatureHistogram.of(np.array(all_), min(exams, len(all_)))
            for figure, all_ in values.items()
            if all_
        }
    return found
