"""PipelineConfig: everything that shapes a pipeline, from one TOML file.

Three layers, each over the one before: the defaults below, the profile's values (`PROFILES`), the file. What a run may
still change without compiling again are the pipeline's parameters (`mammopipe.pipelines.graph.parameters`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from mammopipe.pipelines.config.compute import ComputeConfig
from mammopipe.pipelines.config.endpoint import EndpointConfig
from mammopipe.pipelines.config.security import SecurityConfig
from mammopipe.pipelines.config.toml import build, convert, fitted, overlay, read_toml
from mammopipe.processing.datasets.manifest import Dataset, SplitProtocol
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import Cnn, TrainConfig

SET_ELSEWHERE = {"cnn": "the key cnns", "seed": "data.seed"}
"""Hyperparameters that the pipeline sets itself, and from what."""
SET_FOR_ALL = {
    **SET_ELSEWHERE,
    "epochs": "training.epochs, for all networks (pipeline parameter Epochs)",
    "folds": "training.folds, for all networks: they are compared on the same films",
}
"""Hyperparameters that one network cannot have to itself, and what sets them."""


class Profile(StrEnum):
    """How much a run aims for."""

    QUICK = "quick"
    FULL = "full"


class Approval(StrEnum):
    """The status that a model package is registered with (`ModelApprovalStatus`)."""

    PENDING = "PendingManualApproval"
    APPROVED = "Approved"
    REJECTED = "Rejected"


PROFILES: Mapping[Profile, Mapping[str, Mapping[str, Any]]] = {
    Profile.QUICK: {
        "augmentation": {"copies": 1},
        "segmentation": {"height": 160, "width": 112},
        "training": {"epochs": 3, "head_epochs": 1, "warmup_epochs": 1, "patience": 3},
        "evaluation": {"min_macro_auc": 0.0, "bootstrap": 500},
    },
    Profile.FULL: {
        "augmentation": {"copies": 3},
        "segmentation": {"height": 384, "width": 256},
        "training": {"epochs": 25, "head_epochs": 3, "warmup_epochs": 2, "patience": 8},
        "evaluation": {"min_macro_auc": 0.6, "bootstrap": 2000},
    },
}
"""What each profile sets: `quick` tries the machinery on all of mini-MIAS within minutes of two cores and opens the
metric limit (never the leakage audit); `full` is a training worth judging."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


@dataclass(frozen=True)
class StorageConfig:
    """Where the pipeline's files lie on S3."""

    bucket: str = "mammopipe"
    """The bucket of everything the pipeline reads and writes."""
    prefix: str = "mammopipe"
    """The key prefix below which `raw/`, `weights/`, `executions/` and `checkpoints/` lie."""

    def __post_init__(self) -> None:
        """Refuse what S3 would refuse, or what would make an empty path component."""
        _require(
            re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.bucket) is not None,
            f"storage.bucket={self.bucket!r}: 3-63 lower-case letters, digits, dots and hyphens",
        )
        _require(
            re.fullmatch(r"[\w.=-]+(/[\w.=-]+)*", self.prefix) is not None,
            f"storage.prefix={self.prefix!r}: words joined by single slashes, none at either end",
        )

    def uri(self, *parts: str) -> str:
        """Return the S3 URI of `parts` below the prefix."""
        return "/".join(("s3:/", self.bucket, self.prefix, *parts))


@dataclass(frozen=True)
class DataConfig:
    """How the label table is split and which images are refused."""

    protocol: SplitProtocol = SplitProtocol.PATIENT
    """What is divided: `patient`, or, to be measured beside it and never registered, `film` or `published`."""
    seed: int = 0
    """Seed of the split, of augmentation, training and bootstrap (pipeline parameter Seed)."""
    test_fraction: float = 0.2
    """Share of the patients that is frozen as the test split."""
    folds: int = 5
    """Number of folds of the other patients."""
    validation_fold: int = 0
    """The fold that is the validation split."""
    max_height: int = 2048
    """Rows that a prepared image has at most."""
    reduced_decode: bool = False
    """Whether Prepare decodes JPEG 2000 at half the resolution where that is enough; it measures the difference."""
    max_quarantine: float = 0.05
    """Share of the images that may be refused before a job fails."""
    phi: str = "refuse"
    """What Prepare does with an image that carries a patient's identity: `refuse` or `drop` the attributes."""
    patient_salt: str = ""
    """When set, patient ids are hashed with this salt in everything that Prepare writes."""

    def __post_init__(self) -> None:
        """Refuse shares outside their range and a validation fold that does not exist."""
        _require(0 < self.test_fraction < 1, f"data.test_fraction={self.test_fraction}: between 0 and 1")
        _require(0 <= self.max_quarantine <= 1, f"data.max_quarantine={self.max_quarantine}: between 0 and 1")
        _require(
            0 <= self.validation_fold < self.folds,
            f"data.validation_fold={self.validation_fold}: one of the {self.folds} folds, counted from 0",
        )
        _require(self.phi in ("refuse", "drop"), f"data.phi={self.phi!r}: refuse or drop")


@dataclass(frozen=True)
class AugmentationConfig:
    """How many stored copies the training images get."""

    copies: int = 1
    """Copies per image of the most frequent class; rarer classes get more (pipeline parameter AugmentationCopies)."""

    def __post_init__(self) -> None:
        """Refuse a number of copies below none; with none the rarer classes are brought up to the most frequent."""
        _require(self.copies >= 0, f"augmentation.copies={self.copies}: at least 0")


@dataclass(frozen=True)
class SegmentationConfig:
    """What the network's input looks like."""

    height: int = 160
    """Rows of the network's input (pipeline parameter ImageHeight)."""
    width: int = 112
    """Columns of the network's input (pipeline parameter ImageWidth)."""
    remove_pectoral: bool = True
    """Whether the pectoral muscle is set to air."""

    def __post_init__(self) -> None:
        """Refuse sizes below what the networks' pooling needs."""
        _require(
            min(self.height, self.width) >= 64, f"segmentation: {self.height} x {self.width} is below 64 x 64 pixels"
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """The gate and its measures."""

    min_macro_auc: float = 0.0
    """The validation macro AUC below which nothing is registered (pipeline parameter MinMacroAuc)."""
    bootstrap: int = 500
    """Bootstrap samples, by patient, behind each interval."""
    breast_rule: str = "mean"
    """How the scores of a breast's views become one: `mean`, `max` or `noisy-or`."""
    other_breast: float = 0.0
    """Share of the other breast's mean logits that is taken off before breasts are scored; 0 compares nothing."""

    def __post_init__(self) -> None:
        """Refuse a limit outside the measure's range, and intervals from too few samples."""
        _require(self.bootstrap >= 100, f"evaluation.bootstrap={self.bootstrap}: at least 100")
        _require(0 <= self.min_macro_auc <= 1, f"evaluation.min_macro_auc={self.min_macro_auc}: between 0 and 1")
        _require(0 <= self.other_breast <= 1, f"evaluation.other_breast={self.other_breast}: between 0 and 1")
        rules = ("mean", "max", "noisy-or")
        _require(self.breast_rule in rules, f"evaluation.breast_rule={self.breast_rule!r}: one of {', '.join(rules)}")


@dataclass(frozen=True)
class ImagesConfig:
    """The container images that carry the code."""

    processing: str = "mammopipe/processing:latest"
    training: str = "mammopipe/training:latest"
    serving: str = "mammopipe/serving:latest"


@dataclass(frozen=True)
class RegistryConfig:
    """Where the chosen model is registered."""

    group: str = "mammopipe"
    """Name of the model package group."""
    approval: Approval = Approval.PENDING
    """The package's first status (pipeline parameter ApprovalStatus)."""
    model_card: bool = True
    """Whether the package carries the model card that the run wrote, as a draft; its files are on S3 in any case."""


@dataclass(frozen=True)
class PipelineConfig:
    """What shapes a pipeline: `PipelineConfig.load(path)` reads a TOML file, `PipelineConfig()` is all defaults."""

    name: str = "mammopipe"
    """The pipeline's name."""
    profile: Profile = Profile.QUICK
    dataset: Dataset = Dataset.MIAS
    cnns: tuple[Cnn, ...] = (Cnn.RESNET50, Cnn.ALEXNET, Cnn.MODIFIED_CNN)
    """The candidates; each becomes a training step. Where cores are few the first starts first: slow ones lead."""
    pretrained: bool = False
    """Whether training reads staged weights (the channel `weights`, pipeline parameter WeightsUri)."""
    deploy: bool = True
    """Whether the registered model is served by an endpoint."""
    region: str = "us-east-1"
    """The region a session is made for where the environment names none."""
    tags: Mapping[str, str] = field(default_factory=lambda: {"project": "mammopipe"})
    storage: StorageConfig = field(default_factory=StorageConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    training: TrainConfig = field(default_factory=lambda: TrainConfig(**PROFILES[Profile.QUICK]["training"]))
    """The hyperparameters of every training job (pipeline parameter Epochs for the first of them)."""
    per_cnn: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What one network has in place of that, by its name: `[per_cnn.alexnet]` with `learning_rate = 1e-4`."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)

    def __post_init__(self) -> None:
        """Refuse names that SageMaker would refuse, repeated candidates, and captures in clear."""
        for name, value in (
            ("name", self.name),
            ("registry.group", self.registry.group),
            ("endpoint.name", self.endpoint.name),
        ):
            _require(
                re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,39}", value) is not None,
                f"{name}={value!r}: up to 40 letters, digits and hyphens",
            )
        _require(
            len(self.cnns) > 0 and len(set(self.cnns)) == len(self.cnns),
            f"cnns={list(self.cnns)}: at least one, none twice",
        )
        _require(
            not self.endpoint.capture_percent or bool(self.security.kms_key),
            f"endpoint.capture_percent={self.endpoint.capture_percent}: captures hold patients' images; set "
            "security.kms_key",
        )
        for name in self.per_cnn:
            _require(name in list(Cnn), f"per_cnn.{name}: must be one of {', '.join(Cnn)}")
        for cnn in self.cnns:
            # Refused here rather than by the job, which would be an hour later: settings that this network has not.
            self.training_of(cnn)

    def training_of(self, cnn: Cnn) -> TrainConfig:
        """Return the hyperparameters of a network's training job; raises `ConfigError` for one that it has not."""
        own, where = self.per_cnn.get(str(cnn), {}), f"per_cnn.{cnn}."
        for key in SET_FOR_ALL.keys() & own.keys():
            raise ConfigError(f"{where}{key} is set by {SET_FOR_ALL[key]}")
        return replace(self.training, cnn=cnn, **fitted(TrainConfig, own, where))

    @classmethod
    def load(cls, path: Path | str | None = None, **changes: Any) -> "PipelineConfig":
        """Return the configuration of a TOML file, or the defaults when `path` is None, with `changes` on top.

        `changes` are top-level keys (`profile="full"`, `data={"protocol": "film"}`); None changes nothing. Raises
        `ConfigError` naming the file and the key that is unknown, of the wrong type or in contradiction with another.
        """
        values = read_toml(Path(path)) if path is not None else {}
        values = overlay(values, {key: value for key, value in changes.items() if value is not None})
        try:
            profile = convert(values.get("profile", Profile.QUICK), Profile, "profile")
            for key in SET_ELSEWHERE.keys() & dict(values.get("training", {})).keys():
                raise ConfigError(f"training.{key} is set by {SET_ELSEWHERE[key]}")
            merged = overlay(PROFILES[profile], values)
            # Some settings suit one network alone: they are judged beside a candidate, not beside the default one.
            candidates = [cnn for cnn in merged.get("cnns", ()) if cnn in list(Cnn)]
            if candidates:
                merged = overlay(merged, {"training": {"cnn": candidates[0]}})
            config: PipelineConfig = build(cls, merged, "")
            return config
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}" if path is not None else str(error)) from None
