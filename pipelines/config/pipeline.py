"""PipelineConfig: all settings of a pipeline.

Sources of values; each overrides those before it: the defaults below, the profile's values (`PROFILES`), a recipe, a
TOML file, single keys (`--set`). The pipeline's parameters (`mammopipe.pipelines.graph.parameters`) can be changed for
each run without compiling again.
"""

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from mammopipe.pipelines.config.breast_level import check_breast_level
from mammopipe.pipelines.config.compute import ComputeConfig, ImagesConfig, require_even_batch
from mammopipe.pipelines.config.endpoint import LONGEST_NAME, EndpointConfig
from mammopipe.pipelines.config.profiles import PROFILES
from mammopipe.pipelines.config.recipes import read_recipe
from mammopipe.pipelines.config.security import SecurityConfig, Tags
from mammopipe.pipelines.config.storage_and_data import (
    DataConfig,
    SegmentationConfig,
    StorageConfig,
)
from mammopipe.pipelines.config.toml import assigned, overlay, read_toml
from mammopipe.pipelines.config.transform import TransformConfig
from mammopipe.pipelines.config.tuning import TuningConfig
from mammopipe.processing.datasets.own_table import OwnTable
from mammopipe.processing.datasets.registry import DATASETS, dataset_named
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings, explained, suggestion
from mammopipe.processing.stored_copies import StoredCopies
from mammopipe.training.config import NetworkName, TrainConfig
from mammopipe.training.evaluation.config import EvaluationConfig, Profile
from mammopipe.training.model.architecture import Cnn, find_architecture

SET_ELSEWHERE = {
    "cnn": "the key cnns",
    "seed": "data.seed",
    "fold": "compute.fold_jobs",
    "choose_by": "evaluation.choose_by",
    "choose_level": "evaluation.choose_level",
    "breast_rule": "evaluation.breast_rule",
}
"""Hyperparameters that the pipeline sets itself, and the source of each value."""
MOST_MODELS = 8
"""Models that Evaluate can read: a processing job takes at most 10 inputs (CreateProcessingJob), and two of them are
the images and the register of test reads."""
SET_FOR_ALL = {
    **SET_ELSEWHERE,
    "epochs": "training.epochs, for all networks (pipeline parameter Epochs)",
    "folds": "training.folds, for all networks: they are compared on the same images",
    "question": "training.question, for all networks: they are compared on the same classes",
    "level": "training.level, for all networks: they are compared on the same cases",
}
"""Hyperparameters that cannot differ between networks, and the source of each value."""


class Keep(StrEnum):
    """What a local run keeps in addition to its results."""

    MODELS = "models"
    """The models of the networks that were not selected."""
    IMAGES = "images"
    """The prepared and the segmented images."""
    TENSORBOARD = "tensorboard"
    """The learning curves as event files of TensorBoard."""


class Approval(StrEnum):
    """The initial approval status of a registered model package (`ModelApprovalStatus`)."""

    PENDING = "PendingManualApproval"
    APPROVED = "Approved"
    REJECTED = "Rejected"


class RegistryConfig(Settings):
    """Where the selected model is registered."""

    group: str = Field(default="mammopipe", description="name of the model package group")
    approval: Approval = Field(
        default=Approval.PENDING, description="the package's first status (parameter ApprovalStatus)"
    )
    model_card: bool = Field(
        default=True,
        description="whether the command that watches a run on AWS attaches the model card to the package, as a draft; "
        "the card's files are on S3 in any case",
    )


class PipelineConfig(Settings):
    """The settings of a pipeline; `PipelineConfig.load(path)` reads a TOML file, `PipelineConfig()` is all defaults."""

    name: str = Field(default="mammopipe", description="the pipeline's name")
    profile: Profile = Field(
        default=Profile.QUICK, description="`quick` tests the software; `full` is a training with meaningful results"
    )
    dataset: str = Field(
        default="mias",
        description="the dataset that is read",
        json_schema_extra={"enum": list(DATASETS)},
    )
    cnns: tuple[NetworkName, ...] = Field(
        default=(Cnn.RESNET50.value, Cnn.ALEXNET.value, Cnn.MODIFIED_CNN.value),
        description="the candidate networks; each becomes a training step. If cores are few, the steps start in this "
        "order: name the slowest network first",
    )
    pretrained: bool = Field(
        default=False,
        description="whether training starts from staged weights (the channel `weights`, parameter WeightsUri)",
    )
    init: str = Field(
        default="",
        description="a packed model of this project that training starts from: a path or `s3://.../model.tar.gz`. All "
        "candidates must be of the same network as the model. Empty: none. The option `--weights` also accepts such a "
        "model",
    )
    deploy: bool = Field(
        default=True, description="whether the registered model is served, on AWS at `<endpoint.name>-candidate`"
    )
    deploy_quick: bool = Field(
        default=False,
        description="whether a run with the profile `quick` also serves its model on AWS; offline, every run does",
    )
    keep: tuple[Keep, ...] = Field(
        default=(Keep.MODELS,),
        description="what a run on this machine keeps in addition to its results: the `models` that were not selected, "
        "the prepared and segmented `images`, the learning curves for `tensorboard`",
    )
    region: str = Field(default="us-east-1", description="the AWS region, if the environment names none")
    tags: Tags = Field(
        default_factory=lambda: {"project": "mammopipe"}, description="tags of every job, model and endpoint"
    )
    storage: StorageConfig = Field(default_factory=StorageConfig, description="where the files lie on S3")
    data: DataConfig = Field(default_factory=DataConfig, description="how the data is split")
    own: OwnTable = Field(default_factory=OwnTable, description="how the table of dataset `own` is read")
    augmentation: StoredCopies = Field(default_factory=StoredCopies, description="stored copies")
    segmentation: SegmentationConfig = Field(default_factory=SegmentationConfig, description="the network's input")
    training: TrainConfig = Field(
        default_factory=lambda: TrainConfig(**PROFILES[Profile.QUICK]["training"]),
        description="the hyperparameters of every training job (parameter Epochs for one of them)",
    )
    per_cnn: Mapping[str, Mapping[str, Any]] = Field(
        default_factory=dict,
        description="settings of single networks, which override `training`: `[per_cnn.alexnet]` with "
        "`learning_rate = 1e-4`",
    )
    tuning: TuningConfig = Field(
        default_factory=TuningConfig,
        description="a search over keys of `training`, which replaces a network's training",
    )
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="the gate and its metrics")
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="instances, limits, caching")
    images: ImagesConfig = Field(default_factory=ImagesConfig, description="container images")
    security: SecurityConfig = Field(default_factory=SecurityConfig, description="roles, keys, network")
    registry: RegistryConfig = Field(default_factory=RegistryConfig, description="model registry")
    transform: TransformConfig = Field(
        default_factory=TransformConfig, description="batch transform: answers to many images without an endpoint"
    )
    endpoint: EndpointConfig = Field(default_factory=EndpointConfig, description="the endpoint")

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        return dataset_named(name).name

    @model_validator(mode="after")
    def _check(self) -> "PipelineConfig":
        """Refuse names that SageMaker would refuse, repeated candidates, and unencrypted data capture."""
        for name, value in (
            ("name", self.name),
            ("registry.group", self.registry.group),
        ):
            # SageMaker's pattern for both names, with a lower limit on the length.
            if re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,39}", value) is None:
                raise ConfigError(f"{name}={value!r}: up to 40 letters, digits and hyphens")
        name = self.endpoint.name
        if re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", name) is None or len(name) > LONGEST_NAME:
            raise ConfigError(f"endpoint.name={name!r}: up to {LONGEST_NAME} letters, digits and hyphens")
        if len(set(self.keep)) < len(self.keep):
            raise ConfigError(f"keep = {', '.join(self.keep)}: each once")
        if not self.cnns or len(set(self.cnns)) < len(self.cnns):
            raise ConfigError(f"cnns = {', '.join(self.cnns)}: at least one, each once")
        if len(self.cnns) > MOST_MODELS:
            raise ConfigError(
                f"cnns: {len(self.cnns)} networks; Evaluate reads at most {MOST_MODELS}, since a processing job has 10 "
                "inputs: compare them in several runs"
            )
        if self.endpoint.capture_percent and not self.security.kms_key:
            raise ConfigError(
                f"endpoint.capture_percent={self.endpoint.capture_percent}: captures contain patients' images and "
                "must be encrypted; set security.kms_key"
            )
        # Also for networks that are not candidates, whose settings would otherwise never be read.
        for name in self.per_cnn:
            try:
                find_architecture(name)
            except ConfigError as error:
                raise ConfigError(f"per_cnn.{name}: {error}") from None
            for key in self.per_cnn[name]:
                if key in SET_FOR_ALL:
                    raise ConfigError(f"per_cnn.{name}.{key} is set by {SET_FOR_ALL[key]}")
                if key not in TrainConfig.model_fields:
                    hint = suggestion(key, TrainConfig.model_fields)
                    raise ConfigError(f"unknown key 'per_cnn.{name}.{key}'{hint}")
        if not self.region:
            raise ConfigError("region = '': must name a region, such as us-east-1")
        compute = self.compute
        self._check_fold_jobs()
        check_breast_level(self.training, self.evaluation, self.data.protocol)
        for cnn in self.cnns:
            # Refuses settings that this network does not have. The job would refuse them only an hour later.
            training = self.training_of(cnn)
            find_architecture(cnn).require_size(self.segmentation.height, self.segmentation.width)
            require_even_batch(training, compute.training_instance_type, compute.training_instance_count)
        self._check_tuning()
        return self

    @property
    def fold_jobs(self) -> tuple[int, ...]:
        """The folds that are training jobs of their own; empty if one job trains a network."""
        return tuple(range(self.training.folds)) if self.compute.fold_jobs else ()

    def _check_fold_jobs(self) -> None:
        if not self.compute.fold_jobs:
            return
        if self.tuning.ranges:
            raise ConfigError("compute.fold_jobs=true: a search trains each trial in one job; remove tuning.ranges")
        if not self.training.folds:
            raise ConfigError("compute.fold_jobs=true needs training.folds of at least 2: each fold is one job")
        jobs = len(self.cnns) * self.training.folds
        if jobs > MOST_MODELS:
            raise ConfigError(
                f"compute.fold_jobs=true: {len(self.cnns)} networks x training.folds={self.training.folds} are {jobs} "
                f"models, and Evaluate reads at most {MOST_MODELS}: a processing job has 10 inputs"
            )
        for cnn in self.cnns:
            self.training_of(cnn, fold=0)

    def _check_tuning(self) -> None:
        """Refuse a search for a network that is no candidate, and ranges from which a trial could fail."""
        if unknown := set(self.tuning.cnns) - set(self.cnns):
            raise ConfigError(f"tuning.cnns = {', '.join(sorted(unknown))}: not among cnns = {', '.join(self.cnns)}")
        # A search may vary the epochs: its trials are compared by validation figures, as networks are.
        for key in SET_FOR_ALL.keys() & self.tuning.ranges.keys() - {"epochs"}:
            raise ConfigError(f"tuning.ranges.{key}: is set by {SET_FOR_ALL[key]}; a search does not choose it")
        compute = self.compute

        def check(values: Mapping[str, str]) -> None:
            training = TrainConfig.from_hyperparameters(values)
            require_even_batch(training, compute.training_instance_type, compute.training_instance_count)

        for cnn in filter(self.tuning.tunes, self.cnns):
            own = {key: str(word) for key, word in self.training_of(cnn).to_json().items()}
            self.tuning.require_valid(own, check)

    @property
    def starts_from_weights(self) -> bool:
        """Whether training starts from staged weights: published ones, or those of a model of this project."""
        return self.pretrained or bool(self.init)

    def on_aws(self) -> "PipelineConfig":
        """Return the configuration of a run on AWS; a quick run deploys only with `deploy_quick`."""
        if self.profile is Profile.QUICK and self.deploy and not self.deploy_quick:
            return self.replace(deploy=False)
        return self

    def training_of(self, cnn: str, **changes: Any) -> TrainConfig:
        """Return the hyperparameters of a network's training job, with `changes`.

        Raises `ConfigError` for a hyperparameter that the network does not have, or that breaks a rule.
        """
        own, where = self.per_cnn.get(str(cnn), {}), f"per_cnn.{cnn}."
        selection = self.evaluation.model_dump(mode="json", include={"choose_by", "choose_level", "breast_rule"})
        values = {**self.training.to_json(), **own, **selection, "cnn": str(cnn), **changes}
        # Through JSON: pydantic's strict mode accepts the text of an enum from JSON only.
        try:
            return TrainConfig.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            raise ConfigError(explained(error, TrainConfig, above=where if own else "training.")) from None

    def record(self) -> dict[str, Any]:
        """Return the configuration as JSON values for a run's `execution.json`; a secret appears only as `set`."""
        values = self.model_dump(mode="json")
        if values["data"]["patient_salt"]:
            values["data"]["patient_salt"] = "set"
        values["networks"] = {
            str(cnn): {key: value for key, value in self.training_of(cnn).to_json().items() if key not in SET_ELSEWHERE}
            for cnn in self.cnns
        }
        return values

    @classmethod
    def load(
        cls,
        path: Path | str | None = None,
        *,
        recipe: str | None = None,
        assignments: Sequence[str] = (),
        **changes: Any,
    ) -> "PipelineConfig":
        """Return the configuration of a TOML file, or the defaults if `path` is None, with `changes` applied.

        Args:
            path: A TOML file.
            recipe: A shipped recipe, which the file overrides (`mammopipe recipes` lists them).
            assignments: `KEY=VALUE` texts, which override everything else, such as `training.learning_rate=1e-4`.
            changes: Top-level keys (`profile="full"`, `data={"protocol": "film"}`); None changes nothing.

        Returns:
            The validated configuration.

        Raises:
            ConfigError: A key is unknown, has the wrong type or contradicts another; the message names file and key.
        """
        values: Mapping[str, Any] = read_recipe(recipe) if recipe is not None else {}
        values = overlay(values, read_toml(Path(path)) if path is not None else {})
        values = overlay(values, {key: value for key, value in changes.items() if value is not None})
        values = overlay(values, assigned(cls, assignments))
        try:
            return cls.from_values(_layered(values))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}" if path is not None else str(error)) from None


def _layered(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the profile's values overridden by `values`, with the first candidate as the network of `training`."""
    profile = values.get("profile", Profile.QUICK)
    if profile not in list(Profile):
        raise ConfigError(f"profile = {profile!r}: must be one of {', '.join(Profile)}")
    training = values.get("training")
    for key in SET_ELSEWHERE.keys() & (training.keys() if isinstance(training, Mapping) else set()):
        raise ConfigError(f"training.{key} is set by {SET_ELSEWHERE[key]}")
    merged = overlay(PROFILES[Profile(profile)], values)
    # Some settings fit only one network, so `training` is validated with a candidate, not with the default network.
    named = merged.get("cnns", ())
    candidates = [cnn for cnn in named if isinstance(cnn, str)] if isinstance(named, list | tuple) else []
    for cnn in candidates:
        try:
            find_architecture(cnn)
        except ConfigError as error:
            raise ConfigError(f"cnns: {error}") from None
    return overlay(merged, {"training": {"cnn": candidates[0]}}) if candidates and training else merged
