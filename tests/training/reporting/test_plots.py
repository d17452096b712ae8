"""Plots share a figure, and no plot shows anything of an earlier one."""

import re
from collections.abc import Callable

import pytest
from markupsafe import Markup

from mammopipe.inference.monitoring import page
from mammopipe.processing.pages import plot
from mammopipe.training.reporting import plots

CURVE = {"false_positive_rate": [0, 0.2, 1], "sensitivity": [0, 0.7, 1]}
POINTS = [
    {"predicted": 0.1 * n, "observed": 0.08 * n, "low": 0.05 * n, "high": 0.12 * n, "malignant": n, "images": 9.0}
    for n in (1, 2, 5)
]
HISTORY = [
    {"epoch": n, "train_loss": 30 / n, "validation_loss": 40 / n, "validation_macro_auc": 0.5 + n / 99,
     "validation_balanced_accuracy": 0.4} for n in range(1, 30)
]  # fmt: skip
WATCHED = {
    "index": [0.1, 0.3], "index_limit": [0.2, 0.2], "cusum": [1.0, 4.0], "cusum_limit": 5.0,
    "reference": [0.2, 0.5, 0.3], "latest": [0.1, 0.1, 0.8],
}  # fmt: skip
TRAINED = {"history": HISTORY, "best_epoch": 7}
DRAWINGS: list[Callable[[], Markup]] = [
    lambda: plots.roc_plot({"roc": {"malignant": CURVE, "benign": CURVE, "normal": None}}, "a"),
    lambda: plots.loss_plot(TRAINED, "b"),
    lambda: plots.reliability_plot(POINTS, "c"),
    lambda: plots.precision_recall_plot(None, 0.2, "d"),
    lambda: plots.decision_plot([{"threshold": t, "all": 0.2 - t, "model": 3 * t} for t in (0.05, 0.1, 0.4)], "e"),
    lambda: plots.reliability_plot([], "f"),
    lambda: page.shares(WATCHED, "g"),
    lambda: plots.score_plot(TRAINED, "h"),
    lambda: page.over_time(WATCHED, "i"),
    lambda: plots.precision_recall_plot({"recall": [0, 0.5, 1], "precision": [1, 0.4, 0.1]}, 0.1, "j"),
]


def test_a_plot_is_the_same_in_a_new_figure_and_in_a_used_one(monkeypatch: pytest.MonkeyPatch) -> None:
    new = []
    for draw in DRAWINGS:
        monkeypatch.setattr(plot, "_USED", [])
        new.append(draw())
    assert len(plot._USED) == 1
    for order in (DRAWINGS, DRAWINGS[::-1]):
        for draw in order:
            assert draw() == new[DRAWINGS.index(draw)]
    assert len(plot._USED) == 1, "every plot was drawn into the one figure"


def test_plots_take_their_colours_from_the_page_and_share_no_names() -> None:
    curve = {"false_positive_rate": [0, 0.2, 1], "sensitivity": [0, 0.7, 1]}
    roc = plots.roc_plot({"roc": {"normal": curve, "benign": None, "malignant": curve}}, "<title>")
    points = [{"predicted": 0.1, "observed": 0.2, "low": 0.1, "high": 0.3, "images": 10, "malignant": 2}]
    reliability = plots.reliability_plot(points, "reliability")
    assert "&lt;title&gt;" in roc and "var(--malignant)" in roc and "var(--text)" in roc and "2/10" in reliability
    names = [set(re.findall(r'id="([^"]+)"', drawn)) for drawn in (roc, reliability)]
    assert names[0] and names[1] and not names[0] & names[1]
    for drawn in (roc, reliability):
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'(href|id|clip-path)="[^"]*"', "", drawn)), "a fixed colour"
        assert set(re.findall(r'href="#([^"]+)"', drawn)) <= set.union(*names)
    assert roc == plots.roc_plot({"roc": {"normal": curve, "benign": None, "malignant": curve}}, "<title>")
