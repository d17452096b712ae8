"""The figure `choose_by`, which chooses epochs and networks and which the gate tests; only this module computes it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from mammopipe.processing.errors import ConfigError
from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.metric import Metric
from mammopipe.training.metrics.precision_recall import average_precision, best_f1
from mammopipe.training.metrics.scorecard import figure
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Level, cases_of
from mammopipe.training.model.predictions import Floats, Integers, ValidationPredictions, require_validation


class ChooseBy(StrEnum):
    """The figures that can be used for choosing; the highest value wins."""

    MACRO_AUC = "macro_auc"
    """The mean of the AUCs of each class against the rest, by image."""
    MALIGNANT_AUC = "malignant_auc"
    """The AUC of malignant against all other classes."""
    PF1 = "pf1"
    """The probabilistic F1 of the RSNA challenge; it is high only for calibrated probabilities."""
    BEST_F1 = "best_f1"
    """The F1 of malignant cases at the best threshold."""
    AVERAGE_PRECISION = "average_precision"
    """The average precision of malignant cases."""

    @property
    def words(self) -> str:
        """The name of the figure in a sentence."""
        return _WORDS[self]


_WORDS: Mapping[ChooseBy, str] = {
    ChooseBy.MACRO_AUC: "macro AUC",
    ChooseBy.MALIGNANT_AUC: "malignant AUC",
    ChooseBy.PF1: "probabilistic F1",
    ChooseBy.BEST_F1: "best F1",
    ChooseBy.AVERAGE_PRECISION: "average precision",
}
_OF_CASES: Mapping[ChooseBy, Metric] = {
    ChooseBy.MALIGNANT_AUC: classification.roc_auc,
    ChooseBy.PF1: classification.probabilistic_f1,
    ChooseBy.BEST_F1: best_f1,
    ChooseBy.AVERAGE_PRECISION: average_precision,
}


def check_choice(by: ChooseBy, level: Level) -> None:
    """Raise `ConfigError` for a figure that is not defined for the level."""
    if by is ChooseBy.MACRO_AUC and level is not Level.IMAGE:
        raise ConfigError(
            f"choose_by={by} needs choose_level={Level.IMAGE}, not {level}: breasts and patients have only a score of "
            f"malignancy, not of each class"
        )


@dataclass(frozen=True)
class ChoiceFigure:
    """A figure, the level of its cases, and how the scores of a breast's images are combined."""

    by: ChooseBy = ChooseBy.MACRO_AUC
    level: Level = Level.IMAGE
    rule: BreastRule = BreastRule.MEAN

    @property
    def words(self) -> str:
        """The figure as text for a sentence; the level is named unless it is images."""
        return self.by.words if self.level is Level.IMAGE else f"{self.by.words} by {self.level}"

    def value(self, predictions: ValidationPredictions, calibration: Calibration) -> float:
        """Return the figure on validation.

        Args:
            predictions: Predictions on validation; others raise `LeakError`.
            calibration: Calibration of the logits.

        Raises:
            MetricError: The figure is undefined: a class, or a malignant case, is missing.
        """
        metric, labels, values, _ = self._judged(predictions, calibration)
        return metric(labels, values)

    def measured(
        self, predictions: ValidationPredictions, calibration: Calibration, resamples: Resamples
    ) -> dict[str, Any]:
        """Return the figure with its interval as JSON values.

        Args:
            predictions: Predictions on validation; others raise `LeakError`.
            calibration: Calibration of the logits.
            resamples: Bootstrap draws of the images.
        """
        metric, labels, values, images = self._judged(predictions, calibration)
        found = figure(metric, labels, values, resamples.of(images))
        at = self._at(predictions)
        return {"figure": str(self.by), "level": str(at.level), "words": at.words, **found}

    def _at(self, predictions: ValidationPredictions) -> "ChoiceFigure":
        """Return the figure at the lowest level of the predictions: predictions of breasts have no images as cases."""
        return replace(self, level=predictions.level) if self.level is Level.IMAGE else self

    def _judged(
        self, predictions: ValidationPredictions, calibration: Calibration
    ) -> tuple[Metric, Integers, Floats, Integers]:
        """Return the metric, the labels and values of the cases, and the position of one image of each case."""
        require_validation(predictions, "the choice of an epoch or a network")
        cases = cases_of(predictions, calibration, self.rule)[self._at(predictions).level]
        if self.by is ChooseBy.MACRO_AUC:
            check_choice(self.by, self.level)
            return classification.macro_auc, predictions.labels, predictions.probabilities(calibration), cases.images
        return _OF_CASES[self.by], cases.malignant, cases.scores, cases.images
