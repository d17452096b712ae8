"""The steps of a batch transform: the registered model answers every image and exam below an S3 prefix."""

from typing import Any

from sagemaker.core.transformer import Transformer
from sagemaker.mlops.workflow.model_step import ModelStep
from sagemaker.mlops.workflow.steps import ProcessingStep, Step, TransformStep

from mammopipe.pipelines.graph import request_parts, serving_steps
from mammopipe.pipelines.graph.request_parts import Context, below

ANY_TYPE = "application/octet-stream"
"""Content type of every request. A job has only one, so the container finds the type from the body's first bytes."""
RESULTS = "predictions"


def transform(context: Context, evaluated: ProcessingStep, registered: ModelStep) -> list[Step]:
    """Return the steps that answer the objects of the parameter TransformInputUri; none without that parameter."""
    source = context.parameters.transform_input_uri
    if source is None:
        return []
    model = ModelStep(
        name="Model-batch",
        step_args=serving_steps.builder(context, evaluated, {}, serverless=False).build(),
        depends_on=[registered],
        retry_policies=[request_parts.call_retry()],
    )
    return [model, _job(context, model, source)]


def _job(context: Context, model: ModelStep, source: Any) -> TransformStep:
    """Return the transform step; it is never reused, because the step cache identifies its input only by address."""
    settings, key = context.config.transform, context.parameters.kms_key_id
    transformer = Transformer(
        model_name=model.properties.ModelName,
        instance_count=settings.instance_count,
        instance_type=settings.instance_type,
        strategy="SingleRecord",
        assemble_with="Line",
        accept="application/json",
        output_path=request_parts.execution_folder(context, RESULTS),
        output_kms_key=key,
        volume_kms_key=request_parts.volume_key(context, settings.instance_type),
        max_concurrent_transforms=settings.concurrent,
        max_payload=settings.max_payload_mb,
        env=dict(settings.environment),
        tags=request_parts.tags(context),
        sagemaker_session=context.session,
    )
    limits = {"InvocationsTimeoutInSeconds": settings.max_seconds, "InvocationsMaxRetries": 3}
    return TransformStep(
        name="Transform",
        step_args=transformer.transform(
            below(source, ""), content_type=ANY_TYPE, split_type="None", model_client_config=limits, wait=False
        ),
        retry_policies=request_parts.job_retries(),
    )
