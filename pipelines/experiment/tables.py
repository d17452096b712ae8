"""The results of an experiment as `results.csv` and `results.md`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammopipe.processing.datasets.manifest import Label, SplitProtocol
from mammopipe.processing.files import write_bytes, write_csv

MEASURES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_auc": "macro AUC",
    "malignant_auc": "malignant AUC",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}
"""The columns; precision, recall and F1 refer to the malignant class."""
OF_MALIGNANT = ("precision", "recall", "f1")
PUBLISHED = {"accuracy": 0.986, "precision": 0.97, "recall": 1.0, "f1": 0.99}
"""The published figures of ResNet-50 on MIAS, with augmentation before the split; published without intervals."""
SPLITS = ("test", "validation")
PUBLISHED_ROW, MAJORITY = "published", "majority"


@dataclass(frozen=True)
class Figure:
    """A measure with its 95 % interval, by patient."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Return the figure as the table shows it."""
        if self.value is None:
            return "-"
        return f"{self.value:.3f}" + ("" if self.low is None else f" ({self.low:.3f}-{self.high:.3f})")


@dataclass(frozen=True)
class ResultRow:
    """One row of the table."""

    protocol: str
    model: str
    """A network, `majority`, `noise` with its network, or `published`."""
    split: str
    """`test` or `validation`; for cross-validated networks, `validation` is the development set, out of fold."""
    figures: Mapping[str, Figure]
    images: int | None = None
    patients: int | None = None


def rows(cells: Sequence[tuple[SplitProtocol, str, bool, Mapping[str, Any]]]) -> list[ResultRow]:
    """Return the rows of the table, for both splits.

    Args:
        cells: Protocol, network, whether the images are noise, and evaluation of each finished cell.

    Returns:
        One row per cell, and per protocol a row for the majority baseline. The published row is among those of `test`.
    """
    found: list[ResultRow] = []
    for split in SPLITS:
        for protocol in dict.fromkeys(protocol for protocol, _, _, _ in cells):
            own = [cell for cell in cells if cell[0] is protocol]
            images = [cell for cell in own if not cell[2]]
            for _, cnn, noise, evaluation in images + [cell for cell in own if cell[2]]:
                scores = evaluation["candidates"][cnn][split]
                found.append(_row(protocol, f"noise ({cnn})" if noise else str(cnn), split, scores))
            if images:
                found.append(_row(protocol, MAJORITY, split, images[0][3]["baseline"][split]))
        if split == "test":
            figures = {name: Figure(PUBLISHED.get(name)) for name in MEASURES}
            found.append(ResultRow("as published", PUBLISHED_ROW, split, figures))
    return found


def _row(protocol: SplitProtocol, model: str, split: str, scores: Mapping[str, Any]) -> ResultRow:
    figures = {}
    for name in MEASURES:
        measured = scores[name][str(Label.MALIGNANT)] if name in OF_MALIGNANT else scores[name]
        figures[name] = Figure(measured["value"], measured["low"], measured["high"])
    return ResultRow(str(protocol), model, split, figures, scores["images"], scores["patients"])


def write_csv_table(found: Sequence[ResultRow], path: Path) -> None:
    """Write one CSV line per row, each measure with its bounds; undefined values are empty."""
    bounds = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    lines = []
    for row in found:
        line: dict[str, Any] = {"protocol": row.protocol, "model": row.model, "split": row.split}
        line |= {"images": row.images, "patients": row.patients}
        for name, figure in row.figures.items():
            line |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        lines.append({key: "" if value is None else str(value) for key, value in line.items()})
    write_csv(path, ["protocol", "model", "split", "images", "patients", *bounds], lines)


def facts(evaluation: Mapping[str, Any], config: Mapping[str, Any], done: int, cells: int) -> dict[str, Any]:
    """Return the statements of the page about the whole experiment."""
    return {
        "synthetic": evaluation["synthetic"],
        "folds": config["training"]["folds"],
        "done": done,
        "cells": cells,
        "profile": str(config["profile"]),
        "seed": config["data"]["seed"],
        "size": f"{config['segmentation']['height']} x {config['segmentation']['width']}",
        "epochs": config["training"]["epochs"],
        "resamples": config["evaluation"]["bootstrap"],
    }


_PROTOCOLS = {
    SplitProtocol.PATIENT: "all images of a patient in one split, then training images augmented: the one to trust",
    SplitProtocol.FILM: "each image on its own, so that a patient's two breasts may be in two splits",
    SplitProtocol.PUBLISHED: "every image augmented first, then the pictures split at random: leaky by construction",
}


def write_markdown(found: Sequence[ResultRow], facts: Mapping[str, Any], figures: Sequence[str], path: Path) -> None:
    """Write the tables of both splits, their explanation, and the figures."""
    second = f"On the development images, out of fold ({facts['folds']} folds)" if facts["folds"] else "On validation"
    names = {row.protocol for row in found}
    lines = [
        "# Networks and protocols on MIAS" + (", synthetic images" if facts["synthetic"] else ""),
        "",
        *(["**Synthetic images: no figure here says anything about mammograms.**", ""] if facts["synthetic"] else []),
        f"Profile {facts['profile']}, {facts['size']} pixels, at most {facts['epochs']} epochs, seed {facts['seed']}; "
        f"{facts['done']} of {facts['cells']} cells. In brackets: 95 % intervals, {facts['resamples']} resamples of "
        "patients. Precision, recall and F1 are of the malignant class. Research use only.",
        "",
        *(f"- `{name}`: {text}." for name, text in _PROTOCOLS.items() if str(name) in names),
        "- `noise`: the real labels on images of noise, through the same jobs. Noise shows nothing of a breast, so "
        "what it reaches above the majority is memory or chance.",
        "- `majority`: always predicts the most frequent class of the training images.",
        "",
        "## On test",
        "",
        *_table([row for row in found if row.split == "test"]),
        "",
        f"## {second}",
        "",
        *_table([row for row in found if row.split == "validation"]),
        "",
        *(f"![{name}]({name})" for name in figures),
        "",
    ]
    write_bytes(path, "\n".join(lines).encode())


def _table(found: Sequence[ResultRow]) -> list[str]:
    heads = ["protocol", "model", "images", "patients", *MEASURES.values()]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in found:
        counts = ["" if count is None else str(count) for count in (row.images, row.patients)]
        cells = [row.protocol, row.model, *counts, *(str(row.figures[name]) for name in MEASURES)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
