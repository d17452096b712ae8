"""Rules of AWS for single requests that botocore's model does not state; docs/how-to/aws.md names their pages."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mammopipe.pipelines.backends.supported import images
from mammopipe.pipelines.config.compute import has_local_disks
from mammopipe.pipelines.config.instances import local_disk_gb
from mammopipe.pipelines.config.transform import MOST_PAYLOAD_MB
from mammopipe.pipelines.config.tuning import MOST_PARALLEL, MOST_TRIALS

MOST_TRAINING_SECONDS = 28 * 24 * 3600
"""Longest running time of a training job (`StoppingCondition.MaxRuntimeInSeconds`)."""
LARGEST_TRAINING_VOLUME_GB = 16_384
"""Largest volume of a training instance (`ResourceConfig.VolumeSizeInGB`)."""
LONGEST_CONFIG_NAME = 63 - 12
"""SageMaker's limit, less the suffix that SageMaker Pipelines adds to make an endpoint configuration's name unique."""
MOST_SEARCHED = 30
"""Hyperparameters that a search may vary; each value of a categorical one counts ("automatic-model-tuning-limits")."""


def _images(request: Mapping[str, Any]) -> Iterator[str]:
    for member, image in images(request).items():
        if not re.fullmatch(r"\S+", image):
            yield f"{member}={image!r}: must be the name of an image, without spaces"


def _training(request: Mapping[str, Any]) -> Iterator[str]:
    limits, resources = request["StoppingCondition"], request["ResourceConfig"]
    spot = bool(request.get("EnableManagedSpotTraining"))
    for name in ("MaxRuntimeInSeconds", "MaxWaitTimeInSeconds"):
        if limits.get(name, 0) > MOST_TRAINING_SECONDS:
            yield f"StoppingCondition.{name}={limits[name]}: at most {MOST_TRAINING_SECONDS} (28 days)"
    if spot != ("MaxWaitTimeInSeconds" in limits):
        yield "StoppingCondition.MaxWaitTimeInSeconds must be set with managed spot training, and only then"
    if limits.get("MaxWaitTimeInSeconds", limits["MaxRuntimeInSeconds"]) < limits["MaxRuntimeInSeconds"]:
        yield "StoppingCondition.MaxWaitTimeInSeconds must be at least MaxRuntimeInSeconds"
    if resources["VolumeSizeInGB"] > LARGEST_TRAINING_VOLUME_GB:
        yield f"ResourceConfig.VolumeSizeInGB={resources['VolumeSizeInGB']}: at most {LARGEST_TRAINING_VOLUME_GB}"
    if resources["InstanceCount"] < 1:
        yield f"ResourceConfig.InstanceCount={resources['InstanceCount']}: at least 1"


def _volume(request: Mapping[str, Any]) -> Iterator[str]:
    if "ProcessingResources" in request:
        machine = request["ProcessingResources"]["ClusterConfig"]
    else:
        machine = request.get("ResourceConfig") or request["TransformResources"]
    key, instance_type = str(machine.get("VolumeKmsKeyId") or ""), machine["InstanceType"]
    if "alias/" in key:
        yield f"VolumeKmsKeyId={key!r}: must be a key's id or ARN; an alias is not allowed"
    if key and has_local_disks(instance_type):
        yield (
            f"VolumeKmsKeyId: {instance_type} has local disks, which its hardware encrypts, and accepts no key; set "
            "the instance type in the configuration, not as a parameter of the run"
        )
    size, local = machine.get("VolumeSizeInGB", 0), local_disk_gb(instance_type)
    if local and size > local:
        yield (
            f"VolumeSizeInGB={size}: must be at most {local}; {instance_type} has {local} GB of local disks in place "
            "of a volume"
        )


def _tags(request: Mapping[str, Any]) -> Iterator[str]:
    for item in request.get("Tags", []):
        if item["Key"].lower().startswith("aws:"):
            yield f"Tags: {item['Key']!r}: AWS reserves the prefix aws:"


def _arguments(request: Mapping[str, Any]) -> Iterator[str]:
    for item in request.get("ProcessingInputs", []):
        uri = item["S3Input"]["S3Uri"]
        if "//" in uri.removeprefix("s3://"):
            yield f"input {item['InputName']}: {uri} has an empty folder; InputDataUri and WeightsUri must not end in /"
    words = request["AppSpecification"].get("ContainerArguments", [])
    for name, value in zip(words[::2], words[1::2], strict=False):
        if value.startswith("-"):
            yield f"argument {name}={value!r}: a value must not begin with a hyphen"


def _channels(request: Mapping[str, Any]) -> Iterator[str]:
    for channel in request.get("InputDataConfig", []):
        uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
        if "//" in uri.removeprefix("s3://"):
            yield f"channel {channel['ChannelName']}: {uri} has an empty folder; WeightsUri must not end in /"


def _endpoint_config(request: Mapping[str, Any]) -> Iterator[str]:
    name = request["EndpointConfigName"]
    if len(name) > LONGEST_CONFIG_NAME:
        yield f"EndpointConfigName={name}: at most {LONGEST_CONFIG_NAME}, since SageMaker Pipelines adds a suffix"
    serverless = any("ServerlessConfig" in item for item in request["ProductionVariants"])
    for member in ("KmsKeyId", "DataCaptureConfig", "AsyncInferenceConfig"):
        if serverless and request.get(member) is not None:
            yield f"{member}: serverless endpoints do not support it"


def _search(request: Mapping[str, Any]) -> Iterator[str]:
    """Check a search: its limits, its objective, and the training jobs that it starts."""
    config, definition = request["HyperParameterTuningJobConfig"], request["TrainingJobDefinition"]
    limits, ranges = config["ResourceLimits"], config["ParameterRanges"]
    for name, most in (("MaxNumberOfTrainingJobs", MOST_TRIALS), ("MaxParallelTrainingJobs", MOST_PARALLEL)):
        if limits[name] > most:
            yield f"ResourceLimits.{name}={limits[name]}: at most {most}"
    names = [item["Name"] for kind in ranges.values() for item in kind]
    values = sum(len(item["Values"]) - 1 for item in ranges.get("CategoricalParameterRanges", []))
    if not 1 <= len(names) + values <= MOST_SEARCHED:
        yield (
            f"ParameterRanges: {len(names) + values} hyperparameters, counting each value of a choice as one; must be "
            f"between 1 and {MOST_SEARCHED}"
        )
    if twice := sorted(set(names) & definition["StaticHyperParameters"].keys()):
        yield f"StaticHyperParameters: {', '.join(twice)} is also in ParameterRanges"
    objective = config["HyperParameterTuningJobObjective"]["MetricName"]
    metrics = definition["AlgorithmSpecification"]["MetricDefinitions"]
    if objective not in [item["Name"] for item in metrics]:
        yield f"HyperParameterTuningJobObjective.MetricName={objective!r}: not among the metric definitions"
    if "CheckpointConfig" in definition:
        yield "TrainingJobDefinition.CheckpointConfig: all trials would share one folder"
    for rule in (_training, _volume, _channels):
        yield from (f"TrainingJobDefinition.{fault}" for fault in rule(definition))


def _transform(request: Mapping[str, Any]) -> Iterator[str]:
    # SageMaker's defaults are one request at a time, of at most 6 MB.
    together = request.get("MaxConcurrentTransforms", 1) * request.get("MaxPayloadInMB", 6)
    if request.get("MaxPayloadInMB", 6) > MOST_PAYLOAD_MB or together > MOST_PAYLOAD_MB:
        yield f"MaxConcurrentTransforms times MaxPayloadInMB={together}: at most {MOST_PAYLOAD_MB}"
    uri = request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
    if "//" in uri.removeprefix("s3://"):
        yield f"TransformInput: {uri} has an empty folder; TransformInputUri must not end in /"
    yield from _volume(request)


RULES: Mapping[str, tuple[Callable[[Mapping[str, Any]], Iterator[str]], ...]] = {
    "Processing": (_images, _volume, _arguments, _tags),
    "Training": (_images, _volume, _training, _channels, _tags),
    "Tuning": (_images, _search, _tags),
    "Transform": (_transform, _tags),
    "Model": (_images, _tags),
    "EndpointConfig": (_endpoint_config, _tags),
}
"""Rules that the service's model does not state, by step type."""
