"""The plots of a report: ROC, reliability, precision and recall, decision curve, learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mammopipe.processing.pages.plot import COLOURS, TWO_LINES, Plot

_PROPERTY_OF = {"normal": "normal", "negative": "normal", "benign": "benign", "malignant": "malignant"}
_LINE_OF = {"benign": "--"}
"""Line style of a class. Line styles differ as well as colours, because not all readers can distinguish the colours."""


def roc_plot(figures: Mapping[str, Any], title: str) -> Markup:
    """Return the one-vs-rest ROC curves of a scorecard."""
    plot = Plot(title, "1 - specificity", "sensitivity", unit=True)
    plot.reference([0, 1], [0, 1])
    for name, curve in figures["roc"].items():
        if curve is not None:
            colour, line = COLOURS[_PROPERTY_OF[name]], _LINE_OF.get(name, "-")
            plot.axes.plot(curve["false_positive_rate"], curve["sensitivity"], color=colour, linestyle=line, label=name)
    return plot.svg()


def reliability_plot(points: Sequence[Mapping[str, float]], title: str) -> Markup:
    """Return a reliability plot: observed proportion over predicted probability, with intervals and counts."""
    plot = Plot(title, "predicted probability of malignant", "proportion malignant")
    top = min(1.0, 1.08 * max([0.1, *(max(point["predicted"], point["high"]) for point in points)]))
    plot.axes.set(xlim=(-0.02 * top, top), ylim=(-0.02 * top, 1.02 * top))
    plot.reference([0, top], [0, top])
    x, y = [point["predicted"] for point in points], [point["observed"] for point in points]
    reach = [
        [point["observed"] - point["low"] for point in points],
        [point["high"] - point["observed"] for point in points],
    ]
    plot.axes.errorbar(x, y, yerr=reach, marker="o", markersize=4, elinewidth=1, color=COLOURS["malignant"])
    for point in points:
        plot.axes.annotate(
            f"{point['malignant']:.0f}/{point['images']:.0f}",
            (point["predicted"], point["observed"]),
            xytext=(4, -8),
            textcoords="offset points",
            fontsize=6.5,
            color=COLOURS["quiet"],
        )
    return plot.svg()


def precision_recall_plot(curve: Mapping[str, Sequence[float]] | None, share: float, title: str) -> Markup:
    """Return the precision-recall curve of malignant; the dashed line is the chance level, the malignant proportion."""
    plot = Plot(title, "recall (sensitivity)", "precision (PPV)", unit=True)
    plot.reference([0, 1], [share, share])
    if curve is not None:
        plot.axes.plot(curve["recall"], curve["precision"], color=COLOURS["malignant"], drawstyle="steps-pre")
    return plot.svg()


def decision_plot(curve: Sequence[Mapping[str, float]], title: str) -> Markup:
    """Return the decision curve: net benefit of the model, of recalling everyone and of recalling no one."""
    plot = Plot(title, "threshold probability of recall", "net benefit in 1,000")
    thresholds = [point["threshold"] for point in curve]
    model, everyone = ([1000 * point[name] for point in curve] for name in ("model", "all"))
    plot.axes.plot(thresholds, everyone, color=COLOURS["quiet"], linestyle=":", label="recall all")
    plot.reference([thresholds[0], thresholds[-1]], [0, 0], "recall none")
    plot.axes.plot(thresholds, model, color=COLOURS["malignant"], label="model")
    highest = max([*model, everyone[0], 10])
    plot.axes.set(ylim=(-0.25 * highest, 1.1 * highest))
    return plot.svg()


def loss_plot(candidate: Mapping[str, Any], title: str) -> Markup:
    """Return training and validation loss by epoch; the dashed line is the best epoch."""
    return _by_epoch(candidate, {"train_loss": "training", "validation_loss": "validation"}, "loss", title)


def score_plot(candidate: Mapping[str, Any], title: str) -> Markup:
    """Return validation macro AUC and balanced accuracy by epoch; the dashed line is the best epoch."""
    names = {"validation_macro_auc": "macro AUC", "validation_balanced_accuracy": "balanced accuracy"}
    return _by_epoch(candidate, names, "on validation", title, unit=True)


def _by_epoch(
    candidate: Mapping[str, Any], series: Mapping[str, str], y_label: str, title: str, *, unit: bool = False
) -> Markup:
    plot = Plot(title, "epoch", y_label)
    history = candidate["history"]
    epochs = [epoch["epoch"] for epoch in history]
    for (name, label), look in zip(series.items(), TWO_LINES, strict=True):
        plot.axes.plot(epochs, [epoch[name] for epoch in history], marker="o", markersize=3, label=label, **look)
    plot.axes.axvline(candidate["best_epoch"], color=COLOURS["quiet"], linestyle=(0, (4, 4)), linewidth=1)
    plot.whole_x()
    plot.axes.set_ylim(bottom=0, top=1.02 if unit else None)
    return plot.svg()
