"""The difference of two runs on the same images, image by image: effects common to both do not widen its interval."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.processing.classes import THREE, TWO, class_index
from mammopipe.processing.datasets.manifest import Label
from mammopipe.processing.errors import ConfigError
from mammopipe.training.metrics.bootstrap import MetricError, Resamples
from mammopipe.training.metrics.classification import (
    Metric,
    accuracy,
    balanced_accuracy,
    expected_calibration_error,
    macro_auc,
    malignant_auc,
    malignant_or_not,
)
from mammopipe.training.model.predictions import FILE, JUDGED, Floats, Integers

if TYPE_CHECKING:
    import pandas

METRICS: tuple[Metric, ...] = (macro_auc, malignant_auc, balanced_accuracy, accuracy, expected_calibration_error)
LEVEL, RESAMPLES, SEED = 0.95, 1000, 0


@dataclass(frozen=True)
class Answers:
    """The predictions of a run's selected network on the images of one split, by image id."""

    image_ids: tuple[str, ...]
    patients: tuple[str, ...]
    labels: Integers
    """(images,) class index."""
    probabilities: Floats
    """(images, classes) calibrated probabilities."""

    def same_images(self, other: "Answers") -> bool:
        """Return whether both have the same images with the same truth; of different classes, with the same cancers."""
        if self.image_ids != other.image_ids:
            return False
        if self.classes == other.classes:
            return np.array_equal(self.labels, other.labels)
        ours, theirs = (malignant_or_not(each.labels, each.probabilities)[0] for each in (self, other))
        return np.array_equal(ours, theirs)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.probabilities.shape[1])


def differences(first: RunFolder, other: RunFolder) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the differences `other` minus `first`, by split and figure.

    Only splits with the same images in both runs are compared, and only if both runs kept their predictions
    (`predictions.csv`).

    Args:
        first: The run to compare with.
        other: The other run.

    Returns:
        For each split and figure, {"value", "low", "high", "beyond_chance", "paired"}.

    Raises:
        ConfigError: A `predictions.csv` is damaged.
    """
    ours, theirs = answers(first), answers(other)
    return {
        split: dict(_differences(ours[split], theirs[split]))
        for split in ours.keys() & theirs.keys()
        if ours[split].same_images(theirs[split])
    }


def answers(folder: RunFolder) -> dict[str, Answers]:
    """Return the predictions of the run's selected network, by judged split; empty if the run did not keep them."""
    import pandas

    path = folder.path / FILE
    if not path.is_file():
        return {}
    selected = folder.document("evaluation.json")["selected"]["cnn"]
    try:
        # As text: ids such as 007 stay as they are, and Python converts decimals exactly.
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
        rows = table[table["network"] == selected]
        if rows.empty:
            return {}
        parts = rows.sort_values("image_id").groupby("split")
        return {str(split): _answers(part) for split, part in parts if split in JUDGED}
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not the predictions of this version: {error}") from None


def _answers(rows: "pandas.DataFrame") -> Answers:
    classes = TWO if Label.NEGATIVE in rows.columns else THREE
    return Answers(
        tuple(rows["image_id"]),
        tuple(rows["patient_id"]),
        np.array([class_index(Label(label), classes) for label in rows["label"]], np.int64),
        rows[list(classes)].astype(np.float64).to_numpy(),
    )


def _differences(first: Answers, other: Answers) -> Iterator[tuple[str, dict[str, Any]]]:
    draws = Resamples.draw(first.patients, n=RESAMPLES, seed=SEED)
    metrics, truth, ours, theirs = METRICS, first.labels, first.probabilities, other.probabilities
    if first.classes != other.classes:  # only malignant means the same in both
        metrics = (malignant_auc,)
        (truth, ours), (_, theirs) = (malignant_or_not(each.labels, each.probabilities) for each in (first, other))
    for metric in metrics:
        try:
            found = draws.difference(metric, truth, ours, theirs, level=LEVEL)
        except MetricError:
            continue
        if found.low is not None and found.high is not None:
            yield (
                metric.name,
                {
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                    "paired": True,
                    "beyond_chance": found.low > 0 or found.high < 0,
                },
            )
