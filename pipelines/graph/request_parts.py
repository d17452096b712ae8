"""Building blocks of the steps: inputs, outputs, references, and the settings that all jobs share.

Inputs refer to *properties* of the step that produced them; paths are never built a second time. If the cache skips a
step, its properties point to the files of the earlier execution whose results are reused.
"""

from dataclasses import dataclass
from typing import Any

from sagemaker.core.network import NetworkConfig
from sagemaker.core.shapes import (
    Channel,
    DataSource,
    ProcessingInput,
    ProcessingOutput,
    ProcessingS3Input,
    ProcessingS3Output,
    S3DataSource,
)
from sagemaker.core.training.configs import Networking
from sagemaker.core.workflow.execution_variables import ExecutionVariables
from sagemaker.core.workflow.functions import Join, JsonGet
from sagemaker.core.workflow.properties import PropertyFile
from sagemaker.mlops.workflow.retry import (
    SageMakerJobExceptionTypeEnum,
    SageMakerJobStepRetryPolicy,
    StepExceptionTypeEnum,
    StepRetryPolicy,
)
from sagemaker.mlops.workflow.steps import CacheConfig, ProcessingStep

from mammopipe.pipelines.config.compute import Distribution, InputMode, has_local_disks
from mammopipe.pipelines.config.endpoint import EndpointConfig
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.graph.parameters import Parameters
from mammopipe.processing.container.paths import ContainerPaths

EVALUATION = PropertyFile(name="EvaluationReport", output_name="evaluation", path="evaluation.json")
"""The file that the gate reads."""


@dataclass(frozen=True)
class Context:
    """The objects that every step is built from."""

    config: PipelineConfig
    parameters: Parameters
    session: Any
    """A `PipelineSession`."""
    scratch: str
    """A temporary folder for the files of the SDK's model builder."""
    endpoint: EndpointConfig
    """The endpoint that the last steps create; in a run, the candidate's."""


def source(name: str, uri: Any, *, folder: str | None = None, distribution: Any = None) -> ProcessingInput:
    """Return a processing input from the S3 prefix `uri`: all of it on every instance by default."""
    s3_input = ProcessingS3Input(
        s3_uri=uri,
        local_path=str(ContainerPaths().processing_input(folder or name)),
        s3_data_type="S3Prefix",
        s3_input_mode="File",
        s3_data_distribution_type=distribution or str(Distribution.REPLICATED),
    )
    return ProcessingInput(input_name=name, s3_input=s3_input)


def sharded(context: Context, name: str, uri: Any) -> ProcessingInput:
    """Return a processing input that the parameter DataDistribution may divide among the instances."""
    return source(name, uri, distribution=context.parameters.data_distribution)


def result(context: Context, name: str) -> ProcessingOutput:
    """Return a processing output that is uploaded to this execution's folder when the job ends."""
    return uploaded(name, execution_folder(context, name))


def uploaded(name: str, uri: Any) -> ProcessingOutput:
    """Return a processing output whose files are added to the S3 folder `uri` when the job ends."""
    s3_output = ProcessingS3Output(
        s3_uri=uri,
        local_path=str(ContainerPaths().processing_output(name)),
        s3_upload_mode="EndOfJob",
    )
    return ProcessingOutput(output_name=name, s3_output=s3_output)


def channel(name: str, uri: Any, mode: InputMode = InputMode.FILE) -> Channel:
    """Return a training channel of the S3 prefix `uri`, with all of it on every instance."""
    everything = S3DataSource(
        s3_data_type="S3Prefix", s3_uri=uri, s3_data_distribution_type=str(Distribution.REPLICATED)
    )
    return Channel(channel_name=name, data_source=DataSource(s3_data_source=everything), input_mode=mode.value)


def execution_folder(context: Context, name: str) -> Join:
    """Return the S3 folder of one result of this execution."""
    base = context.config.storage.uri("executions")
    return Join(on="/", values=[base, ExecutionVariables.PIPELINE_EXECUTION_ID, name])


def output(step: ProcessingStep, name: str) -> Any:
    """Return a reference to the S3 folder of a step's output."""
    return step.properties.ProcessingOutputConfig.Outputs[name].S3Output.S3Uri


def below(folder: Any, path: str) -> Join:
    """Return the S3 URI of `path` below a folder; an empty path keeps the slash that marks a folder."""
    return Join(on="/", values=[folder, path])


def value(step: ProcessingStep, path: str) -> JsonGet:
    """Return a reference to a value of the evaluation, such as `selected.cnn`."""
    return JsonGet(step_name=step.name, property_file=EVALUATION, json_path=path)


def tags(context: Context) -> list[dict[str, str]]:
    """Return the tags of every resource."""
    return [{"Key": key, "Value": word} for key, word in context.config.tags.items()]


def networking(context: Context) -> Networking:
    """Return the network restrictions of training and serving containers."""
    security = context.config.security
    return Networking(
        subnets=list(security.subnets) or None,
        security_group_ids=list(security.security_groups) or None,
        enable_network_isolation=security.network_isolation,
        enable_inter_container_traffic_encryption=True,
    )


def network_config(context: Context) -> NetworkConfig:
    """Return the network restrictions of processing containers."""
    security = context.config.security
    return NetworkConfig(
        enable_network_isolation=security.network_isolation,
        encrypt_inter_container_traffic=True,
        security_group_ids=list(security.security_groups) or None,
        subnets=list(security.subnets) or None,
    )


def volume_key(context: Context, instance_type: str) -> Any:
    """Return the key for the volumes of an instance type, or None if none is configured or the type accepts none."""
    return None if has_local_disks(instance_type) else context.parameters.kms_key_id


def cache(context: Context) -> CacheConfig:
    """Return the step cache settings."""
    duration = context.config.compute.cache
    return CacheConfig(enable_caching=bool(duration), expire_after=duration or None)


def call_retry() -> StepRetryPolicy:
    """Return the retry policy of calls: throttling and service faults."""
    kinds = [StepExceptionTypeEnum.SERVICE_FAULT, StepExceptionTypeEnum.THROTTLING]
    return StepRetryPolicy(exception_types=kinds, interval_seconds=10, backoff_rate=2.0, max_attempts=5)


def job_retries() -> list[Any]:
    """Return the retry policies of jobs: those of calls, lack of capacity for up to 4 hours, internal errors twice."""
    # Instances with GPUs may be unavailable for hours.
    kinds = SageMakerJobExceptionTypeEnum
    return [
        call_retry(),
        SageMakerJobStepRetryPolicy(
            exception_types=[kinds.RESOURCE_LIMIT],
            failure_reason_types=[kinds.CAPACITY_ERROR],
            interval_seconds=300,
            backoff_rate=1.5,
            expire_after_mins=240,
        ),
        SageMakerJobStepRetryPolicy(failure_reason_types=[kinds.INTERNAL_ERROR], interval_seconds=60, max_attempts=2),
    ]


def tuning_retries() -> list[Any]:
    """Return the retry policies of a search: those of calls, and lack of capacity.

    Its jobs retry internal errors by their own `RetryStrategy`; a step's policy for them has no effect there ("Retry
    Policy for Pipeline Steps").
    """
    return job_retries()[:2]
