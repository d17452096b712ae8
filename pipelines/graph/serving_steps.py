"""The steps Model, EndpointConfig and Endpoint, which serve the registered model.

`deploy` returns them for the endpoint's mode: in real time, serverless, through a queue (async inference), or both.
"""

import logging
from collections.abc import Mapping
from typing import Any

from sagemaker.core.workflow.execution_variables import ExecutionVariables
from sagemaker.core.workflow.functions import Join
from sagemaker.mlops.workflow.endpoint_step import EndpointConfigStep, EndpointStep
from sagemaker.mlops.workflow.model_step import ModelStep
from sagemaker.mlops.workflow.steps import ProcessingStep, Step
from sagemaker.serve.model_builder import ModelBuilder

from mammopipe.pipelines.config.endpoint import EndpointMode
from mammopipe.pipelines.config.security import Duty
from mammopipe.pipelines.graph import request_parts
from mammopipe.pipelines.graph.request_parts import Context, below

MODES = {
    EndpointMode.REALTIME: (False,),
    EndpointMode.SERVERLESS: (False,),
    EndpointMode.ASYNC: (True,),
    EndpointMode.BOTH: (False, True),
}
"""For each mode, whether each of its endpoints is asynchronous."""


def create_model(
    context: Context, evaluated: ProcessingStep, registered: ModelStep, *, asynchronous: bool = False
) -> ModelStep:
    """Return the step that creates a SageMaker model from the registered artefact, for an endpoint to load."""
    settings = context.endpoint
    environment = settings.async_environment if asynchronous else settings.environment
    return ModelStep(
        name=_serving_name("Model", asynchronous),
        step_args=builder(context, evaluated, environment).build(),
        depends_on=[registered],
        retry_policies=[request_parts.call_retry()],
    )


def endpoint_config(context: Context, model: ModelStep, *, asynchronous: bool = False) -> EndpointConfigStep:
    """Return the step with the endpoint's instances and, for async inference, its limits."""
    settings, serverless = context.endpoint, context.endpoint.mode is EndpointMode.SERVERLESS
    variant: dict[str, Any] = {
        "VariantName": "AllTraffic",
        "ModelName": model.properties.ModelName,
        "InitialVariantWeight": 1,
    }
    if serverless:
        limits = {"MemorySizeInMB": settings.serverless_memory_mb, "MaxConcurrency": settings.serverless_concurrency}
        variant["ServerlessConfig"] = limits
    else:
        variant["InstanceType"] = context.parameters.endpoint_instance_type
        variant["InitialInstanceCount"] = context.parameters.endpoint_instance_count
    # Short, since SageMaker Pipelines adds its own suffix to make it unique (sagemaker-python-sdk, pull 6224).
    name = f"{settings.name}-a" if asynchronous else settings.name
    arguments = context.session.create_endpoint_config(
        name=Join(on="-", values=[name, ExecutionVariables.PIPELINE_EXECUTION_ID]),
        production_variants=[variant],
        kms_key=None if serverless else context.parameters.kms_key_id,
        tags=request_parts.tags(context),
        data_capture_config_dict=None if asynchronous else _capture(context),
        async_inference_config_dict=_async_inference(context) if asynchronous else None,
    )
    step = _serving_name("EndpointConfig", asynchronous)
    return EndpointConfigStep(name=step, step_args=arguments)


def endpoint(context: Context, settings: EndpointConfigStep, *, asynchronous: bool = False) -> EndpointStep:
    """Return the step that creates the run's own endpoint, or updates an existing one to the new model.

    It has no retry policy: SageMaker Pipelines supports none for endpoints and their configurations ("Retry Policy for
    Pipeline Steps"), and repeats throttled and failed calls by itself. It has no deployment guardrails: no client
    depends on a candidate, and after a rollback it would serve an older model than the run's.
    """
    config = context.endpoint
    arguments = context.session.create_endpoint(
        endpoint_name=config.async_name if asynchronous else config.name,
        config_name=settings.properties.EndpointConfigName,
        tags=request_parts.tags(context),
    )
    return EndpointStep(name=_serving_name("Endpoint", asynchronous), step_args=arguments)


def deploy(context: Context, evaluated: ProcessingStep, registered: ModelStep) -> list[Step]:
    """Return the steps that serve the registered model: in real time, through a queue, or both."""
    steps: list[Step] = []
    for asynchronous in MODES[context.endpoint.mode]:
        model = create_model(context, evaluated, registered, asynchronous=asynchronous)
        settings = endpoint_config(context, model, asynchronous=asynchronous)
        steps += [model, settings, endpoint(context, settings, asynchronous=asynchronous)]
    return steps


def builder(
    context: Context, evaluated: ProcessingStep, environment: Mapping[str, str], *, serverless: bool | None = None
) -> ModelBuilder:
    """Return the builder of a model or package from the selected candidate.

    Args:
        context: The objects that every step is built from.
        evaluated: The step that selected the candidate.
        environment: The container's variables.
        serverless: Whether to leave out network settings, which serverless endpoints do not support; by default, if
            the endpoint's mode is serverless.
    """
    if serverless is None:
        serverless = context.endpoint.mode is EndpointMode.SERVERLESS
    # `dependencies=None`, because the default would look up the S3 bucket while the pipeline is being built.
    return ModelBuilder(
        image_uri=context.config.images.serving,
        s3_model_data_url=below(request_parts.output(evaluated, "model"), "model.tar.gz"),
        role_arn=context.config.security.role_for(Duty.SERVING),
        sagemaker_session=context.session,
        network=None if serverless else request_parts.networking(context),
        dependencies=None,
        model_path=context.scratch,
        env_vars=dict(environment),
        log_level=logging.ERROR,
    )


def _serving_name(name: str, asynchronous: bool) -> str:
    return f"{name}-async" if asynchronous else name


def _capture(context: Context) -> dict[str, Any] | None:
    """Return the settings of data capture, encrypted, or None if nothing is captured."""
    settings = context.endpoint
    if not settings.capture_percent:
        return None
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": settings.capture_percent,
        "DestinationS3Uri": context.config.storage.uri("capture", settings.name),
        "KmsKeyId": context.parameters.kms_key_id,
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }


def _async_inference(context: Context) -> dict[str, Any]:
    """Return the settings of async inference; its folders are outside the executions, which an endpoint outlives."""
    settings, kms_key = context.endpoint, context.parameters.kms_key_id
    topics = {"SuccessTopic": settings.async_success_topic, "ErrorTopic": settings.async_error_topic}
    chosen = {name: topic for name, topic in topics.items() if topic}
    output = {
        "S3OutputPath": context.config.storage.uri("async", settings.async_name, "output"),
        "S3FailurePath": context.config.storage.uri("async", settings.async_name, "failures"),
        **({"NotificationConfig": chosen} if chosen else {}),
        **({"KmsKeyId": kms_key} if kms_key is not None else {}),
    }
    clients = {"MaxConcurrentInvocationsPerInstance": settings.async_concurrent}
    return {"ClientConfig": clients, "OutputConfig": output}
