"""The settings of the training job, which are SageMaker's hyperparameters."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from mammopipe.processing.classes import Question
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import explained
from mammopipe.training.auxiliary import AuxiliarySettings
from mammopipe.training.breast_level import BreastSettings, check_breast_level
from mammopipe.training.metrics.choice import ChoiceFigure, ChooseBy, check_choice
from mammopipe.training.model.architecture import (
    ARCHITECTURES,
    TIMM_STRIDES,
    Cnn,
    Pooling,
    Precision,
    find_architecture,
)
from mammopipe.training.model.exam_scores import BreastRule, Level
from mammopipe.training.optimisation import OptimiserSettings
from mammopipe.training.variation import AugmentOn, VariationSettings


class Learns(StrEnum):
    """Which layers of a network learn."""

    ALL = "all"
    HEAD = "head"
    """Only the classifier, on feature maps that the pretrained body computes once per image. Noise and holes then have
    no effect."""


class Final(StrEnum):
    """How a cross-validation makes the final network."""

    REFIT = "refit"
    """Trains on all development images, for the number of epochs that was best for the folds."""
    MEAN = "mean"
    """Averages the folds' weights after all epochs. This requires that only the classifier learns, on the same feature
    maps in all folds. No epoch is chosen then, and the mean of five classifiers varies less than one of them."""


class Cache(StrEnum):
    """Where decoded training images are kept."""

    AUTO = "auto"
    """In memory if they take less than a quarter of the host's memory; otherwise decoded on each use."""
    MEMORY = "memory"
    """In memory; the processes of a host share one copy."""
    DISK = "disk"
    """Not kept: each image is decoded on each use, so memory does not grow with their number."""


class Sampling(StrEnum):
    """How an epoch treats rare classes."""

    BALANCED = "balanced"
    """Draws each class equally often; an image of a rare class occurs several times."""
    WEIGHTED = "weighted"
    """Uses each image once; the weight of its loss is inversely proportional to the size of its class."""
    PLAIN = "plain"
    """Uses each image once, with equal weight."""
    RATIO = "ratio"
    """Makes the most serious class `positive_share` of the images; the others keep their natural frequencies."""


PLATFORM_KEYS = frozenset(
    {
        "_tuning_objective_metric",
        "mammopipe_weights_digest",
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
"""Hyperparameters that the SageMaker SDK, toolkits and tuning jobs add; this job ignores them."""


def _known_network(name: str) -> str:
    try:
        return find_architecture(name).name
    except ConfigError as error:
        raise ValueError(str(error)) from None


NetworkName = Annotated[str, AfterValidator(_known_network)]
"""One of this project's own networks (`Cnn`), or a network of timm with its tag, such as
`convnext_small.fb_in22k_ft_in1k_384`."""


class TrainConfig(BreastSettings, OptimiserSettings, VariationSettings, AuxiliarySettings):
    """All settings of a training job; the defaults suit 250 to 2,000 training images."""

    cnn: NetworkName = Field(
        default=Cnn.RESNET50.value,
        description="the network: modified_cnn, alexnet, resnet50, efficientnet_lite0, or a network of timm by name "
        "and tag",
    )
    epochs: int = Field(
        default=20, ge=1, description="passes over the training images, those of `head_epochs` included"
    )
    head_epochs: int = Field(
        default=2,
        ge=0,
        description="first epochs that train the new classifier alone; without pretrained weights all layers train "
        "from the start",
    )
    label_smoothing: float = Field(
        default=0.05, ge=0, le=0.9, description="share of the target probability that is spread over all classes"
    )
    dropout: float = Field(
        default=0.3, ge=0, le=0.95, description="probability that a feature is dropped before the classifier"
    )
    drop_path: float = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="stochastic depth of a network of timm: probability that its last block is skipped",
    )
    patience: int = Field(
        default=8,
        ge=1,
        description="epochs without a better validation figure (`choose_by`) after which training stops",
    )
    sampling: Sampling = Field(default=Sampling.BALANCED, description="how an epoch treats rare classes")
    positive_share: float = Field(
        default=0.125, gt=0, lt=1, description="share of the most serious class in each epoch, with sampling=ratio"
    )
    positive_target: float = Field(
        default=1.0,
        ge=0.5,
        le=1,
        description="target probability of the most serious class for images of that class; the rest goes to the "
        "first class",
    )
    question: Question = Field(
        default=Question.CLASSES,
        description="what the network predicts: `classes`, those of the dataset (normal, benign and malignant; "
        "negative and malignant if the dataset has only these two), or `binary`, malignant or not",
    )
    compile: bool = Field(
        default=False, description="whether torch.compile compiles the network for this machine before training"
    )
    precision: Precision = Field(default=Precision.AUTO, description="the number format of the forward pass")
    test_flips: bool = Field(
        default=False,
        description="whether a craniocaudal view is judged by the mean of its logits and those of its mirror image, "
        "top to bottom: in validation, evaluation and serving",
    )
    pooling: Pooling = Field(
        default=Pooling.MEAN,
        description="how the logits at the places of an image, the positions of the last feature maps, become the "
        "image's logits; AlexNet, whose classifier needs all places at once, has only mean",
    )
    top_places: int = Field(
        default=3, ge=1, description="number of places that make an image's logit of a lesion class, with pooling=top"
    )
    stride: int = Field(
        default=32,
        description="pixels between places; below 32, feature maps from before the final downsampling are used: 16 "
        "with efficientnet_lite0; 4, 8, 14 or 16 with networks of timm, 14 being that of some vision transformers",
    )
    learns: Learns = Field(
        default=Learns.ALL,
        description="which layers learn; `head` needs pretrained weights and ignores `head_epochs` and `learning_rate`",
    )
    location_weight: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="weight of lesion supervision: a loss at every place, from the annotated circles, that is added to "
        "the loss of the images; 0 turns it off",
    )
    choose_by: ChooseBy = Field(
        default=ChooseBy.MACRO_AUC, description="the validation figure that chooses the best epoch"
    )
    choose_level: Level = Field(default=Level.IMAGE, description="the cases that `choose_by` is computed on")
    breast_rule: BreastRule = Field(
        default=BreastRule.MEAN, description="how `choose_by` combines the scores of a breast's views"
    )
    seed: int = Field(default=0, ge=0, description="all randomness derives from it, the epoch and the step")
    folds: int = Field(
        default=0,
        ge=0,
        description="folds of the cross-validation over the development images; 0 trains on `train` and measures on "
        "`validation`",
    )
    fold: int = Field(
        default=-1,
        ge=-1,
        description="the only fold that this job trains, counted from 0, for all epochs; -1 trains all folds, one "
        "after the other, and the final network",
    )
    deals: int = Field(
        default=1,
        ge=1,
        le=20,
        description="number of times that the cross-validation is repeated, each time with another assignment of "
        "patients to folds (a deal); an image's out-of-fold logits are then the mean over the deals, the final network "
        "is the mean of all deals' folds, and the figures of each deal are reported; more than 1 needs final=mean",
    )
    final: Final = Field(
        default=Final.REFIT,
        description="how a cross-validation makes the final network; `mean` needs learns=head and folds, and ignores "
        "`patience`",
    )
    cache: Cache = Field(
        default=Cache.AUTO,
        description="where decoded images are kept: memory, disk only, or auto: memory if the images fit into a "
        "quarter of it",
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="processes that read and prepare batches, for each training process; 0 is fastest on a CPU, a few "
        "are faster with a GPU",
    )
    checkpoint_minutes: float = Field(
        default=10.0,
        gt=0,
        le=1440,
        description="minutes between checkpoints within an epoch; each epoch also ends with a checkpoint",
    )

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        """Raise `ConfigError` for settings that contradict each other."""
        check_choice(self.choose_by, self.choose_level)
        if self.folds == 1:
            raise ConfigError("hyperparameter folds=1 must be 0 (no cross-validation) or at least 2")
        if self.fold >= 0 and self.fold >= self.folds:
            raise ConfigError(f"hyperparameter fold={self.fold} must be below folds={self.folds}, counted from 0")
        if self.fold >= 0 and not find_architecture(self.cnn).has_places:
            raise ConfigError(
                f"hyperparameter fold={self.fold}: cnn={self.cnn} cannot be part of an ensemble, since its classifier "
                f"needs all places at once"
            )
        if self.final is Final.MEAN and (self.learns is not Learns.HEAD or not self.folds):
            raise ConfigError(
                f"hyperparameter final=mean needs learns=head and folds, not learns={self.learns} and "
                f"folds={self.folds}: only classifiers that were trained on the same feature maps can be averaged"
            )
        if self.deals > 1 and (self.final is not Final.MEAN or self.fold >= 0):
            raise ConfigError(
                f"hyperparameter deals={self.deals} needs final=mean and all folds in one job, not final={self.final} "
                f"and fold={self.fold}: the final network is the mean of all deals' folds"
            )
        if self.head_epochs >= self.epochs:
            raise ConfigError(
                f"hyperparameter head_epochs={self.head_epochs} must be below epochs={self.epochs}, "
                f"otherwise the body never trains"
            )
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"hyperparameter warmup_epochs={self.warmup_epochs} must be below epochs={self.epochs}, "
                f"otherwise the learning rate never reaches its maximum"
            )
        if self.batch_size % (self.accumulate * self.images_together):
            pairs = ", and with mixup, which mixes pairs, of twice that" if self.mixup else ""
            raise ConfigError(
                f"hyperparameter batch_size={self.batch_size} must be a multiple of accumulate={self.accumulate}{pairs}"
            )
        self._check_network()
        check_breast_level(dict(self), self.auxiliary_weights)
        return self

    def _check_network(self) -> None:
        network = find_architecture(self.cnn)
        if self.stride not in network.strides:
            supporting = [own.name for own in ARCHITECTURES.values() if self.stride in own.strides]
            rule = f" needs cnn={', '.join([*supporting, 'one of timm'])}, not {self.cnn}"
            if network.of_timm:
                rule = f": cnn={self.cnn} has feature maps only at stride {network.stated_strides}"
            if self.stride not in TIMM_STRIDES:
                rule = f" must be one of {', '.join(map(str, TIMM_STRIDES))}"
            raise ConfigError(f"hyperparameter stride={self.stride}{rule}")
        needs = {
            "pooling": self.pooling is not Pooling.MEAN,
            "location_weight": self.location_weight > 0,
            "learns": self.learns is Learns.HEAD,
        }
        if not network.has_places and any(needs.values()):
            asked = ", ".join(f"{name}={getattr(self, name)}" for name, needed in needs.items() if needed)
            raise ConfigError(
                f"hyperparameter cnn={self.cnn} has no logits of single places, which {asked} needs; leave it out"
            )
        for name, off in (("augment", 0), ("mixup", 0), ("augment_on", AugmentOn.CPU), ("test_flips", False)):
            if getattr(self, name) != off and self.learns is Learns.HEAD:
                raise ConfigError(
                    f"hyperparameter {name}={getattr(self, name)} must be {off} with learns=head, which computes "
                    "feature maps once"
                )
        if self.auxiliary_weights and (self.learns is Learns.HEAD or self.compile):
            raise ConfigError(
                f"hyperparameter auxiliary_{next(iter(self.auxiliary_weights))} needs learns=all and compile=false"
            )
        if self.drop_path and not network.of_timm:
            raise ConfigError(f"hyperparameter drop_path={self.drop_path} needs a network of timm, not cnn={self.cnn}")

    @property
    def takes_last(self) -> bool:
        """Whether the weights of the last epoch are used, so that validation figures choose no epoch."""
        return self.final is Final.MEAN or self.fold >= 0

    @property
    def choice(self) -> ChoiceFigure:
        """The figure that chooses the best epoch."""
        return ChoiceFigure(self.choose_by, self.choose_level, self.breast_rule)

    @classmethod
    def from_hyperparameters(cls, values: Mapping[str, str]) -> "TrainConfig":
        """Return the config from SageMaker's hyperparameters, which are all strings.

        Raises:
            ConfigError: A hyperparameter is unknown or breaks a rule.
        """
        given = {key: text for key, text in values.items() if key not in PLATFORM_KEYS}
        # A message lists the job's main settings before the inherited ones.
        names = sorted(cls.model_fields, key=lambda name: name not in cls.__annotations__)
        for key, text in given.items():
            if key not in names:
                raise ConfigError(f"hyperparameter {key}={text!r} is unknown; known are {', '.join(names)}")
            if not isinstance(text, str):
                raise ConfigError(f"hyperparameter {key}={text!r} must be a string, as SageMaker passes it")
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError(f"hyperparameter {explained(error, cls)}") from None

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return self.model_dump(mode="json")


WITHOUT_EFFECT = frozenset({"cache", "workers", "checkpoint_minutes"})
"""Settings that change the speed of a training but not its result. A checkpoint remains valid if they change."""
