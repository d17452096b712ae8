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

from mammopipe.pipelines.config.compute import ComputeConfig, require_even_batch
from mammopipe.pipelines.config.endpoint import LONGEST_NAME, EndpointConfig
from mammopipe.pipelines.config.security import SecurityConfig
from mammopipe.pipelines.config.storage_and_data import (
    AugmentationConfig,
    DataConfig,
    SegmentationConfig,
    StorageConfig,
)
from mammopipe.pipelines.config.toml import build, convert, fitted, overlay, read_toml, require
from mammopipe.processing.datasets.registry import dataset_named
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.model.architecture import Cnn

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
        require(self.bootstrap >= 100, f"evaluation.bootstrap={self.bootstrap}: at least 100")
        require(0 <= self.min_macro_auc <= 1, f"evaluation.min_macro_auc={self.min_macro_auc}: between 0 and 1")
        require(0 <= self.other_breast <= 1, f"evaluation.other_breast={self.other_breast}: between 0 and 1")
        rules = ("mean", "max", "noisy-or")
        require(self.breast_rule in rules, f"evaluation.breast_rule={self.breast_rule!r}: one of {', '.join(rules)}")


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
    dataset: str = "mias"
    """The dataset, a key of `mammopipe.processing.datasets.registry.DATASETS`."""
    cnns: tuple[Cnn, ...] = (Cnn.RESNET50, Cnn.ALEXNET, Cnn.MODIFIED_CNN)
    """The candidates; each becomes a training step. Where cores are few the first starts first: slow ones lead."""
    pretrained: bool = False
    """Whether training reads staged weights (the channel `weights`, pipeline parameter WeightsUri)."""
    deploy: bool = True
    """Whether the registered model is served, on AWS at `<endpoint.name>-candidate`."""
    deploy_quick: bool = False
    """Whether a run of the profile `quick` serves its model on AWS, too; offline every run does."""
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
        dataset_named(self.dataset)
        for name, value in (
            ("name", self.name),
            ("registry.group", self.registry.group),
        ):
            require(
                re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,39}", value) is not None,
                f"{name}={value!r}: up to 40 letters, digits and hyphens",
            )
        require(
            re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", self.endpoint.name) is not None
            and len(self.endpoint.name) <= LONGEST_NAME,
            f"endpoint.name={self.endpoint.name!r}: up to {LONGEST_NAME} letters, digits and hyphens",
        )
        require(
            len(self.cnns) > 0 and len(set(self.cnns)) == len(self.cnns),
            f"cnns={list(self.cnns)}: at least one, none twice",
        )
        require(
            not self.endpoint.capture_percent or bool(self.security.kms_key),
            f"endpoint.capture_percent={self.endpoint.capture_percent}: captures hold patients' images; set "
            "security.kms_key",
        )
        for name in self.per_cnn:
            require(name in list(Cnn), f"per_cnn.{name}: must be one of {', '.join(Cnn)}")
        require_even_batch(
            self.training.batch_size, self.compute.training_instance_type, self.compute.training_instance_count
        )
        for cnn in self.cnns:
            # Refused here rather than by the job, which would be an hour later: settings that this network has not.
            self.training_of(cnn)

    def on_aws(self) -> "PipelineConfig":
        """Return the configuration of a run on AWS: a quick one serves nothing unless it was told to."""
        if self.profile is Profile.QUICK and self.deploy and not self.deploy_quick:
            return replace(self, deploy=False)
        return self

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
