"""The pipeline's typed parameters: the values that a run may change without compiling again."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sagemaker.core.workflow.parameters import Parameter, ParameterFloat, ParameterInteger, ParameterString

from mammopipe.pipelines.config.compute import Distribution
from mammopipe.pipelines.config.pipeline import Approval, PipelineConfig
from mammopipe.pipelines.data.digests import DIGESTS
from mammopipe.pipelines.data.model_uri import folder_of
from mammopipe.processing.errors import ConfigError

UNKNOWN = "unknown"
"""The digest of data whose content has not been read."""


@dataclass(frozen=True)
class Parameters:
    """One attribute per parameter; None if the configuration leaves the parameter out."""

    input_data_uri: ParameterString
    """S3 folder of the raw dataset, without a trailing slash."""
    weights_uri: ParameterString | None
    """S3 folder of staged pretrained weights; None if `pretrained` is off."""
    data_digest: ParameterString
    """Digest of the data at InputDataUri, set when a run starts; the step cache identifies files only by address."""
    weights_digest: ParameterString | None
    """Digest of the data at WeightsUri; None if `pretrained` is off."""
    processing_instance_type: ParameterString
    processing_instance_count: ParameterInteger
    data_distribution: ParameterString
    training_instance_type: ParameterString
    training_instance_count: ParameterInteger
    endpoint_instance_type: ParameterString
    endpoint_instance_count: ParameterInteger
    epochs: ParameterInteger
    augmentation_copies: ParameterInteger
    image_height: ParameterInteger
    image_width: ParameterInteger
    seed: ParameterInteger
    transform_input_uri: ParameterString | None
    """S3 folder that a batch transform answers; None if `transform.input` is empty."""
    min_macro_auc: ParameterFloat
    approval_status: ParameterString
    kms_key_id: ParameterString | None
    """Key of volumes and outputs; None if `security.kms_key` is empty, since AWS accepts no empty key."""

    @classmethod
    def of(cls, config: PipelineConfig) -> "Parameters":
        """Return the parameters with the configuration's values as defaults."""
        storage, compute, kms = config.storage, config.compute, config.security.kms_key
        return cls(
            input_data_uri=ParameterString("InputDataUri", storage.uri("raw", config.dataset)),
            weights_uri=ParameterString("WeightsUri", _weights(config)) if config.starts_from_weights else None,
            data_digest=_digest("DataDigest", config),
            weights_digest=_digest("WeightsDigest", config) if config.starts_from_weights else None,
            processing_instance_type=ParameterString("ProcessingInstanceType", compute.processing_instance_type),
            processing_instance_count=ParameterInteger("ProcessingInstanceCount", compute.processing_instance_count),
            data_distribution=ParameterString(
                "DataDistribution", str(compute.distribution), [str(item) for item in Distribution]
            ),
            training_instance_type=ParameterString("TrainingInstanceType", compute.training_instance_type),
            training_instance_count=ParameterInteger("TrainingInstanceCount", compute.training_instance_count),
            endpoint_instance_type=ParameterString("EndpointInstanceType", config.endpoint.instance_type),
            endpoint_instance_count=ParameterInteger("EndpointInstanceCount", config.endpoint.instance_count),
            epochs=ParameterInteger("Epochs", config.training.epochs),
            augmentation_copies=ParameterInteger("AugmentationCopies", config.augmentation.copies),
            image_height=ParameterInteger("ImageHeight", config.segmentation.height),
            image_width=ParameterInteger("ImageWidth", config.segmentation.width),
            seed=ParameterInteger("Seed", config.data.seed),
            transform_input_uri=ParameterString("TransformInputUri", config.transform.input.rstrip("/"))
            if config.transform.input
            else None,
            min_macro_auc=ParameterFloat("MinMacroAuc", config.evaluation.min_macro_auc),
            approval_status=ParameterString(
                "ApprovalStatus", str(config.registry.approval), [str(item) for item in Approval]
            ),
            kms_key_id=ParameterString("KmsKeyId", kms) if kms else None,
        )

    def declared(self) -> list[Parameter]:
        """Return the parameters that this pipeline declares, in the order above."""
        values = (getattr(self, item.name) for item in fields(self))
        return [value for value in values if value is not None]


def _digest(name: str, config: PipelineConfig) -> ParameterString:
    """Return the parameter of a digest; with the step cache it has no default.

    A start by a schedule or from the console would use the default. The step cache would then not notice that data at
    the same address has changed. Without a default, SageMaker refuses such a start.
    """
    return ParameterString(name) if config.compute.cache else ParameterString(name, UNKNOWN)


def _weights(config: PipelineConfig) -> str:
    return folder_of(config.init) if config.init.startswith("s3://") else config.storage.uri("weights")


_FROM_TEXT: Mapping[str, Callable[[str], Any]] = {
    "String": str,
    "Integer": int,
    "Float": float,
    "Boolean": lambda text: {"true": True, "false": False}[text.lower()],
}

_TYPES: Mapping[str, tuple[type, ...]] = {
    "String": (str,),
    "Integer": (int,),
    "Float": (float, int),
    "Boolean": (bool,),
}


def resolve_parameters(definition: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every parameter.

    Args:
        definition: A compiled definition.
        given: Values, or texts that are converted; they override the defaults.

    Raises:
        ConfigError: A name is not declared, a value has the wrong type or is outside the enumeration, or a parameter
            has no value. A digest without a value is `UNKNOWN`: a run computes it when it starts.
    """
    declared = {item["Name"]: item for item in definition.get("Parameters", [])}
    for name in given:
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(declared)}"
            raise ConfigError(f"unknown pipeline parameter {name}; {hint}")
    values = {
        name: _value(item, given.get(name, item.get("DefaultValue", UNKNOWN if name in DIGESTS else None)))
        for name, item in declared.items()
    }
    # Without a trailing slash: the definition appends file names, and two slashes would name another object.
    return {name: value.rstrip("/") if name.endswith("Uri") else value for name, value in values.items()}


def _value(declared: Mapping[str, Any], value: Any) -> Any:
    name, kind, choices = declared["Name"], declared["Type"], declared.get("EnumValues")
    if value is None:
        raise ConfigError(f"pipeline parameter {name} has no default and needs a value")
    try:
        typed = _FROM_TEXT[kind](value) if isinstance(value, str) else value
    except (ValueError, KeyError):
        raise ConfigError(f"pipeline parameter {name}={value!r} must be of type {kind}") from None
    # A bool is an int in Python, but not in a definition.
    if not isinstance(typed, _TYPES[kind]) or (isinstance(typed, bool) and kind != "Boolean"):
        raise ConfigError(f"pipeline parameter {name}={value!r} must be of type {kind}")
    if choices and typed not in choices:
        raise ConfigError(f"pipeline parameter {name}={value!r} must be one of {', '.join(choices)}")
    return float(typed) if isinstance(typed, int) and kind == "Float" else typed
