"""The model's prediction for one image."""

from collections.abc import Mapping
from dataclasses import dataclass

from mammopipe.inference.contract.exclusions import Exclusion
from mammopipe.inference.contract.schema import Decision, QualityWarning, Referral
from mammopipe.inference.engines.base import Forward
from mammopipe.inference.prediction.exam import ViewScore
from mammopipe.processing.breast.preprocess import Preprocessed
from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.training.model.predictions import Floats


@dataclass(frozen=True)
class Prediction:
    """The model's prediction for one image."""

    probabilities: Mapping[Label, float]
    """Calibrated probability of each class, at the prevalence used for answers; they sum to 1."""
    malignancy: float
    """Calibrated probability of malignant at validation's prevalence, 0 to 1. Thresholds and breast scores use it."""
    malignancy_score: float
    """100 times the probability of malignant in `probabilities`."""
    decile: int | None
    """Decile of the score among the validation images, 1 to 10; `None` if the model has no reference."""
    entropy: float
    """Entropy of the probabilities at validation's prevalence, in nats."""
    strangeness: float | None
    """Distance of the image's features from the training images'; `None` if the model has no reference."""
    decision: Decision | None
    """Decision at the operating point; `None` if the model has none."""
    referral: Referral
    """Whether a reader should judge the image, whatever the score."""
    exclusions: tuple[Exclusion, ...]
    """Reasons why the model is not intended for this image, although it was scored."""
    warnings: tuple[QualityWarning, ...]
    laterality: Laterality | None
    prepared: Preprocessed
    """The network's input and its position in the original image."""
    forward: Forward
    """The network's output for it."""
    logits: Floats
    """(classes,), in the order of the model's classes."""

    @property
    def as_view(self) -> ViewScore:
        """The part of the prediction that the breast's score needs."""
        return ViewScore(self.laterality, self.malignancy, self.referral, self.logits)
