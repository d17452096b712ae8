"""The settings of the evaluation job, and of the gate that reads its result."""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import Field, model_validator

from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.settings import Settings
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.choice import ChoiceFigure, ChooseBy, check_choice
from mammopipe.training.model.exam_scores import BreastRule, Level


class Profile(StrEnum):
    """The purpose of a run."""

    QUICK = "quick"
    """A test of the software: no metric limit applies, and the metrics mean nothing."""
    FULL = "full"


class EvaluationConfig(Settings):
    """Settings of the gate and of its metrics."""

    min_macro_auc: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="validation macro AUC below which nothing is registered (parameter MinMacroAuc)",
    )
    choose_by: ChooseBy = Field(
        default=ChooseBy.MACRO_AUC,
        description="the validation figure that chooses the best epoch of each training and the network (the highest "
        "wins) and, with min_choice, decides whether the network is registered",
    )
    choose_level: Level = Field(
        default=Level.IMAGE,
        description="the cases that `choose_by` is computed on: images, breasts or patients; macro_auc needs images",
    )
    min_choice: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="value of the figure `choose_by` below which nothing is registered, in addition to min_macro_auc; "
        "0 sets no limit",
    )
    bootstrap: int = Field(
        default=500, ge=100, le=100_000, description="bootstrap samples of each interval, drawn by patient"
    )
    breast_rule: BreastRule = Field(
        default=BreastRule.MEAN, description="how the scores of a breast's views are combined"
    )
    other_breast: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the other breast's mean logits that is subtracted before breasts are scored; 0 turns the "
        "comparison off",
    )
    predict_training: bool = Field(
        default=False,
        description="whether `predictions.csv` also has the training images, with split `train`; no figure uses them. "
        "Probabilities of images that a network was trained on say nothing about other images",
    )

    @model_validator(mode="after")
    def _check(self) -> "EvaluationConfig":
        """Raise `ConfigError` for a figure that is not defined for the level."""
        check_choice(self.choose_by, self.choose_level)
        return self

    @property
    def choice(self) -> ChoiceFigure:
        """The figure that chooses the network."""
        return ChoiceFigure(self.choose_by, self.choose_level, self.breast_rule)


class EvaluationJobConfig(EvaluationConfig):
    """All settings of an evaluation job."""

    profile: Profile = Field(default=Profile.FULL, description="shown in the report and kept in `evaluation.json`")
    seed: int = Field(default=0, ge=0, description="seed of the resamples")

    def resamples(self, records: Sequence[ImageRecord]) -> Resamples:
        """Return the bootstrap draws of a split's patients; all candidates share them, so their intervals compare."""
        return Resamples.draw([record.patient_id for record in records], n=self.bootstrap, seed=self.seed)
