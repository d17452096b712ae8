"""The settings of one training job, from the strings that SageMaker passes as hyperparameters."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.errors import ConfigError
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.model.architecture import Cnn, Pooling, Precision
from mammopipe.training.model.exam_scores import BreastRule


class Learns(StrEnum):
    """Which layers of a network learn."""

    ALL = "all"
    HEAD = "head"
    """The classifier alone, on maps that the pretrained body makes of each film once: noise and holes play no part."""


class Final(StrEnum):
    """What a cross-validation makes the final network of."""

    REFIT = "refit"
    """All development films, for as many epochs as were best for the folds."""
    MEAN = "mean"
    """The mean of the folds' weights after all their epochs; only where one classifier learns, on maps that are alike.
    No epoch is chosen then, and five classifiers vary less than one."""


class Sampling(StrEnum):
    """What an epoch does about rare classes."""

    BALANCED = "balanced"
    """Each class is drawn equally often; an image of a rare class comes several times."""
    WEIGHTED = "weighted"
    """Each image comes once; its loss counts in inverse proportion to the size of its class."""
    PLAIN = "plain"
    """Each image comes once and counts alike."""


PLATFORM_KEYS = frozenset(
    {
        "_tuning_objective_metric",
        "sagemaker_container_log_level",
        "sagemaker_enable_cloudwatch_metrics",
        "sagemaker_estimator_class_name",
        "sagemaker_estimator_module",
        "sagemaker_job_name",
        "sagemaker_program",
        "sagemaker_recipe_local_path",
        "sagemaker_region",
        "sagemaker_requirements",
        "sagemaker_submit_directory",
        "sagemaker_use_env_variables",
    }
)
"""Hyperparameters that the SageMaker SDK, toolkits and tuning jobs add of their own accord; they mean nothing to us."""

_COUNTS = {
    "epochs": 1,
    "head_epochs": 0,
    "batch_size": 2,
    "patience": 1,
    "seed": 0,
    "workers": 0,
    "holes": 0,
    "folds": 0,
    "top_places": 1,
}
_LIMITS = {
    "learning_rate": (1e-8, 1.0),
    "head_learning_rate": (1e-8, 1.0),
    "weight_decay": (0.0, 1.0),
    "warmup_epochs": (0.0, 1000.0),
    "label_smoothing": (0.0, 0.9),
    "dropout": (0.0, 0.95),
    "noise": (0.0, 0.5),
    "location_weight": (0.0, 100.0),
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that shapes a training run but the data; the defaults suit 250 to 2,000 training images."""

    cnn: Cnn = Cnn.RESNET50
    """The network."""
    epochs: int = 20
    """Passes over the training images, those of `head_epochs` included."""
    head_epochs: int = 2
    """First epochs that train the new classifier alone; without pretrained weights all layers train from the start."""
    batch_size: int = 16
    """Images a step, over all processes together, so that their number changes nothing but the speed."""
    learning_rate: float = 3e-4
    """Highest rate of the body; of all layers when there are no pretrained weights."""
    head_learning_rate: float = 1e-3
    """Highest rate of the classifier of a pretrained network."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay of weight matrices and kernels; biases and normalisation are spared."""
    warmup_epochs: float = 1.0
    """Epochs over which the rate rises before it falls along a cosine; counted again when the body joins the head."""
    label_smoothing: float = 0.05
    """Share of the target probability that is spread over all classes."""
    dropout: float = 0.3
    """Probability that a feature is dropped before the classifier."""
    patience: int = 8
    """Epochs without a better validation macro AUC after which training stops."""
    sampling: Sampling = Sampling.BALANCED
    """What an epoch does about rare classes."""
    precision: Precision = Precision.AUTO
    """The number format of the forward pass."""
    noise: float = 0.02
    """Highest standard deviation of the noise drawn afresh for each training image, as a share of full scale."""
    holes: int = 2
    """Most patches blackened afresh in each training image; their sides are 1/16 to 1/8 of the longer side."""
    pooling: Pooling = Pooling.MEAN
    """How the places of a film become its logits; AlexNet, whose classifier sees all places at once, has only mean."""
    top_places: int = 3
    """How many places make a film's logit of a lesion's class, with pooling=top."""
    stride: int = 32
    """Pixels from place to place; 16 takes EfficientNet-Lite0's maps before its last reduction, and is its alone."""
    learns: Learns = Learns.ALL
    """Which layers learn; `head` needs pretrained weights, and `head_epochs` and `learning_rate` say nothing then."""
    location_weight: float = 0.0
    """Weight, beside the films' loss, of a loss on every place by the annotated circles; 0 leaves them unused."""
    seed: int = 0
    """All randomness derives from it, the epoch and the step."""
    folds: int = 0
    """Folds of the cross-validation over the development films; 0 trains on `train` and measures on `validation`."""
    final: Final = Final.REFIT
    """What the folds end in; `mean` needs learns=head, folds, and spends no patience."""
    workers: int = 0
    """Processes that prepare batches; 0 is fastest on a CPU, a GPU wants a few."""

    def __post_init__(self) -> None:
        for name, lowest in _COUNTS.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"hyperparameter {name}={getattr(self, name)} must be at least {lowest}")
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"hyperparameter {name}={value} must lie between {low} and {high}")
        if self.folds == 1:
            raise ConfigError("hyperparameter folds=1 must be 0, for none, or at least 2: one is held out of each")
        if self.final is Final.MEAN and (self.learns is not Learns.HEAD or not self.folds):
            raise ConfigError(
                f"hyperparameter final=mean needs learns=head and folds, not learns={self.learns} and "
                f"folds={self.folds}: only classifiers of the same maps have a mean"
            )
        if self.head_epochs >= self.epochs:
            raise ConfigError(
                f"hyperparameter head_epochs={self.head_epochs} must be below epochs={self.epochs}, "
                f"or the body never trains"
            )
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"hyperparameter warmup_epochs={self.warmup_epochs} must be below epochs={self.epochs}, "
                f"or the rate never reaches its height"
            )

        self._check_places()

    def _check_places(self) -> None:
        if self.stride not in (16, 32):
            raise ConfigError(f"hyperparameter stride={self.stride} must be 16 or 32")
        if self.stride == 16 and self.cnn is not Cnn.EFFICIENTNET_LITE0:
            raise ConfigError(f"hyperparameter stride=16 needs cnn={Cnn.EFFICIENTNET_LITE0}, not {self.cnn}")
        if self.cnn is Cnn.ALEXNET and (self.pooling, self.location_weight, self.learns) != (
            Pooling.MEAN,
            0,
            Learns.ALL,
        ):
            raise ConfigError(
                "hyperparameter cnn=alexnet has no logits of single places, which pooling=peaks and top, "
                "location_weight and learns=head need; leave these out"
            )

    @classmethod
    def from_hyperparameters(cls, values: Mapping[str, str]) -> "TrainConfig":
        """Return the config in SageMaker's hyperparameters, all strings; raises `ConfigError` for a broken rule."""
        given = {key: text for key, text in values.items() if key not in PLATFORM_KEYS}
        names = [field.name for field in fields(cls)]
        for key in given:
            if key not in names:
                raise ConfigError(f"hyperparameter {key}={given[key]!r} is unknown; known are {', '.join(names)}")
        return cls(
            **{
                field.name: _read(field.name, given[field.name], field.type)
                for field in fields(cls)
                if field.name in given
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}


_RULES: dict[Any, str] = {int: "a whole number", float: "a number"}


def _read(name: str, text: object, kind: Any) -> Any:
    if not isinstance(text, str):
        raise ConfigError(f"hyperparameter {name}={text!r} must be a string, as SageMaker passes it")
    reader: Callable[[str], Any] = kind
    try:
        return reader(text)
    except ValueError:
        rule = _RULES.get(kind) or f"one of {', '.join(kind)}"
        raise ConfigError(f"hyperparameter {name}={text!r} must be {rule}") from None


class Profile(StrEnum):
    """What a run is for."""

    QUICK = "quick"
    """To try the machinery: the metric limit is open, and the figures mean nothing."""
    FULL = "full"


@dataclass(frozen=True)
class EvaluationConfig:
    """What shapes an evaluation but the data and the candidates."""

    profile: Profile = Profile.FULL
    """Shown in the report and kept in `evaluation.json`."""
    min_macro_auc: float = 0.6
    """The limit that the gate compares the chosen model's validation macro AUC with; 0 is open."""
    bootstrap: int = 1000
    """Resamples of each interval."""
    seed: int = 0
    """Of the resamples."""
    breast_rule: BreastRule = BreastRule.MEAN
    """How the scores of a breast's views become one."""
    other_breast: float = 0.0
    """Share of the other breast's mean logits that is taken off before breasts are scored; 0 compares nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_macro_auc <= 1:
            raise ConfigError(f"min_macro_auc={self.min_macro_auc} must lie in 0..1")
        if not 100 <= self.bootstrap <= 100_000:
            raise ConfigError(f"bootstrap={self.bootstrap} must lie in 100..100000 resamples")
        if not 0 <= self.other_breast <= 1:
            raise ConfigError(f"other_breast={self.other_breast} must lie in 0..1")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be below 0")

    def resamples(self, records: Sequence[ImageRecord]) -> Resamples:
        """Return the draws of patients that all intervals of a split share: candidates are compared on the same."""
        return Resamples.draw([record.patient_id for record in records], n=self.bootstrap, seed=self.seed)
