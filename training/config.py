"""The settings of the training job (SageMaker's hyperparameters) and of the evaluation job."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from mammopipe.processing.classes import Question
from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings, explained
from mammopipe.training.auxiliary import AuxiliarySettings
from mammopipe.training.breast_level import BreastSettings, check_breast_level
from mammopipe.training.metrics.bootstrap import Resamples
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


class Learns(StrEnum):
    """Which layers of a network learn."""

    ALL = "all"
    HEAD = "head"
    """Only the classifier, on feature maps that the pretrained body computes once per image; noise and holes have no
    effect."""


class Final(StrEnum):
    """How a cross-validation makes the final network."""

    REFIT = "refit"
    """Trains on all development images, for the number of epochs that was best for the folds."""
    MEAN = "mean"
    """Averages the folds' weights after all epochs. This requires that only the classifier learns, on the same feature
    maps in all folds. No epoch is chosen then, and the mean of five classifiers varies less than one of them."""


class OptimiserKind(StrEnum):
    """The optimiser of the weights."""

    ADAMW = "adamw"
    SGD = "sgd"
    """Stochastic gradient descent with Nesterov momentum."""


class Cache(StrEnum):
    """Where decoded training images are kept."""

    AUTO = "auto"
    """In memory if they take less than a quarter of the host's memory; otherwise decoded on each use."""
    MEMORY = "memory"
    """In memory; the processes of a host share one copy."""
    DISK = "disk"
    """Not kept: each image is decoded on each use, so memory does not grow with their number."""


class AugmentOn(StrEnum):
    """Where training images are varied."""

    CPU = "cpu"
    """In the processes that read them."""
    GPU = "gpu"
    """On the device that trains, by torchvision; without a GPU that is the CPU."""


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


class TrainConfig(BreastSettings, AuxiliarySettings):
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
    batch_size: int = Field(
        default=16,
        ge=2,
        description="images a step, over all processes together, so that their number changes nothing but the speed",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="equal parts in which the images of a step are computed one after the other, to save memory",
    )
    optimiser: OptimiserKind = Field(
        default=OptimiserKind.ADAMW, description="the rule by which weights follow their gradients"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov momentum of optimiser=sgd")
    learning_rate: float = Field(
        default=3e-4,
        ge=1e-8,
        le=1,
        description="highest rate of the body; of all layers when there are no pretrained weights",
    )
    head_learning_rate: float = Field(
        default=1e-3, ge=1e-8, le=1, description="highest rate of the classifier of a pretrained network"
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor of the rate from each layer of the body to the one before it; 1 is none",
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="decay of weight matrices and kernels, decoupled with optimiser=adamw; biases and normalisation "
        "are spared",
    )
    clip_norm: float = Field(
        default=0.0, ge=0, le=1000, description="largest norm of the gradient of a step; 0 does not limit it"
    )
    average_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay, a step, of the moving average of the weights, which is evaluated in their place; 0 is none",
    )
    warmup_epochs: float = Field(
        default=1.0,
        ge=0,
        le=1000,
        description="epochs over which the rate rises before it falls along a cosine; counted again when the body "
        "joins the head",
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
    sampling: Sampling = Field(default=Sampling.BALANCED, description="what an epoch does about rare classes")
    positive_share: float = Field(
        default=0.125, gt=0, lt=1, description="share of the most serious class in each epoch, with sampling=ratio"
    )
    positive_target: float = Field(
        default=1.0,
        ge=0.5,
        le=1,
        description="target probability of the most serious class for its own images; the rest goes to the first",
    )
    question: Question = Field(
        default=Question.CLASSES,
        description="what is asked of an image: `classes`, those of the dataset (normal, benign and malignant, or "
        "negative and malignant where it lacks one), or `binary`, malignant or not",
    )
    compile: bool = Field(
        default=False, description="whether torch.compile translates the network for this machine first"
    )
    precision: Precision = Field(default=Precision.AUTO, description="the number format of the forward pass")
    noise: float = Field(
        default=0.02,
        ge=0,
        le=0.5,
        description="highest standard deviation of the noise drawn afresh for each training image, as a share of full "
        "scale",
    )
    holes: int = Field(
        default=2,
        ge=0,
        description="most patches blackened afresh in each training image; their sides are 1/16 to 1/8 of the longer "
        "side",
    )
    augment: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="strength of the variations drawn afresh for each use of a training image; 0 is none",
    )
    augment_crop: bool = Field(default=True, description="blacken all but a window of 50 % to 100 % of the area")
    augment_flip: bool = Field(default=True, description="mirror craniocaudal views top to bottom")
    augment_affine: bool = Field(
        default=True, description="turn by up to 30 degrees, scale by up to 15 % and shift by up to 5 %"
    )
    augment_elastic: bool = Field(default=True, description="deform elastically")
    augment_tone: bool = Field(default=True, description="change gamma, contrast and brightness by up to 20 %")
    augment_blur: bool = Field(default=True, description="blur by a Gaussian of up to 1.5 pixels")
    augment_downscale: bool = Field(default=True, description="reduce the resolution by up to a half")
    augment_on: AugmentOn = Field(
        default=AugmentOn.CPU,
        description="where training images are varied: `cpu`, in the processes that read them, or `gpu`, on the device "
        "that trains",
    )
    test_flips: bool = Field(
        default=False,
        description="whether a craniocaudal view is judged by the mean of its logits and those of its mirror image, "
        "top to bottom: in validation, evaluation and serving",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="mixes each training image with another one of its batch, and their losses likewise: both "
        "parameters of the Beta distribution of the share; 0 mixes nothing, usual are 0.2 to 1",
    )
    pooling: Pooling = Field(
        default=Pooling.MEAN,
        description="how the places of an image become its logits; AlexNet, whose classifier sees all places at once, "
        "has only mean",
    )
    top_places: int = Field(
        default=3, ge=1, description="how many places make a film's logit of a lesion's class, with pooling=top"
    )
    stride: int = Field(
        default=32,
        description="pixels from place to place; 16 takes EfficientNet-Lite0's maps before its last reduction, and is "
        "its alone",
    )
    learns: Learns = Field(
        default=Learns.ALL,
        description="which layers learn; `head` needs pretrained weights, and `head_epochs` and `learning_rate` say "
        "nothing then",
    )
    location_weight: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="weight, beside the films' loss, of a loss on every place by the annotated circles; 0 leaves them "
        "unused",
    )
    choose_by: ChooseBy = Field(
        default=ChooseBy.MACRO_AUC, description="the validation figure that chooses the best epoch"
    )
    choose_level: Level = Field(default=Level.IMAGE, description="the cases of that figure")
    breast_rule: BreastRule = Field(
        default=BreastRule.MEAN, description="how the scores of a breast's views become one, for that figure"
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
    final: Final = Field(
        default=Final.REFIT,
        description="what the folds end in; `mean` needs learns=head, folds, and spends no patience",
    )
    cache: Cache = Field(
        default=Cache.AUTO,
        description="where decoded images are kept: memory, disk only, or auto: memory where a quarter is enough",
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="processes that read and prepare batches, for each training process; 0 is fastest on a CPU, a GPU "
        "wants a few",
    )
    checkpoint_minutes: float = Field(
        default=10.0,
        gt=0,
        le=1440,
        description="minutes between checkpoints in the middle of an epoch; each epoch ends in one",
    )

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        """Raise `ConfigError` for settings that contradict each other."""
        check_choice(self.choose_by, self.choose_level)
        if self.folds == 1:
            raise ConfigError("hyperparameter folds=1 must be 0, for none, or at least 2: one is held out of each")
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
            able = [own.name for own in ARCHITECTURES.values() if self.stride in own.strides]
            known = self.stride in TIMM_STRIDES
            rule = (
                f"needs cnn={', '.join([*able, 'one of timm'])}, not {self.cnn}" if known else "must be 4, 8, 16 or 32"
            )
            raise ConfigError(f"hyperparameter stride={self.stride} {rule}")
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
        """Whether the last epoch counts, so that validation figures choose none."""
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
        names = sorted(cls.model_fields, key=AuxiliarySettings.model_fields.__contains__)  # the inherited ones last
        for key, text in given.items():
            if key not in names:
                raise ConfigError(f"hyperparameter {key}={text!r} is unknown; known are {', '.join(names)}")
            if not isinstance(text, str):
                raise ConfigError(f"hyperparameter {key}={text!r} must be a string, as SageMaker passes it")
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError(f"hyperparameter {explained(error, cls)}") from None

    @property
    def images_together(self) -> int:
        """Number of images that a part of a batch must be a multiple of: mixup mixes pairs."""
        return 2 if self.mixup else 1

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return self.model_dump(mode="json")


WITHOUT_EFFECT = frozenset({"cache", "workers", "checkpoint_minutes"})
"""Settings that change the speed of a training but not its result. A checkpoint remains valid if they change."""


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
        description="the validation figure, the higher the better, that chooses the best epoch of each training, the "
        "network, and, with min_choice, whether it is registered",
    )
    choose_level: Level = Field(
        default=Level.IMAGE, description="the cases of that figure: images, breasts or patients; macro_auc has images"
    )
    min_choice: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="value of that figure below which nothing is registered, in addition to min_macro_auc; 0 is open",
    )
    bootstrap: int = Field(
        default=500, ge=100, le=100_000, description="bootstrap samples, by patient, behind each interval"
    )
    breast_rule: BreastRule = Field(
        default=BreastRule.MEAN, description="how the scores of a breast's views become one"
    )
    other_breast: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the other breast's mean logits that is taken off before breasts are scored; 0 compares "
        "nothing",
    )

    @model_validator(mode="after")
    def _check(self) -> "EvaluationConfig":
        """Raise `ConfigError` for a figure that the level does not have."""
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
        """Return the bootstrap draws of a split's patients; all intervals share them, so that candidates compare."""
        return Resamples.draw([record.patient_id for record in records], n=self.bootstrap, seed=self.seed)
