"""Batch transform of an S3 prefix by a registered package: `mammopipe predict ARN s3://... --backend aws`.

The requests are those of the pipeline's own Transform step, read from the compiled definition.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from botocore.exceptions import WaiterError

from mammopipe.pipelines.backends.expressions import Scope, resolve
from mammopipe.pipelines.backends.sessions import PLACEHOLDER_ACCOUNT, aws_errors
from mammopipe.pipelines.backends.supported import all_steps
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data import answers
from mammopipe.pipelines.data.s3 import Storage
from mammopipe.pipelines.graph.definition import build_promotion
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.pipelines.runs.aws_rollout import PACKAGE
from mammopipe.processing.errors import ConfigError

WAIT = {"Delay": 30, "MaxAttempts": 960}
"""Settings of the waiter: asks every 30 seconds, for eight hours."""


def predict(
    config: PipelineConfig,
    sagemaker: Any,
    storage: Storage,
    package: str,
    source: str,
    target: Path,
    say: Callable[[str], None],
) -> answers.AnswerCounts:
    """Answer every image and exam below an S3 prefix with a registered package, and write the answers.

    Args:
        config: The configuration.
        sagemaker: A boto3 client of SageMaker.
        storage: S3.
        package: ARN of the model package.
        source: `s3://` folder; the stack's serving role reads those below `PREFIX/batch/`.
        target: File of JSON lines.
        say: Called with each line for the user.

    Returns:
        How many objects were answered, refused, or got no answer.

    Raises:
        ConfigError: The ARN is not that of a package, there is no object below the prefix, AWS refuses a request, or
            the job wrote no answer.
    """
    if PLACEHOLDER_ACCOUNT in config.security.role:
        raise ConfigError(f"security.role={config.security.role}: set the role of your account")
    if not storage.list(f"{source.rstrip('/')}/"):
        raise ConfigError(f"{source}: there is no object below this folder")
    model, job = requests(config, package, source)
    name, output = str(job["TransformJobName"]), str(job["TransformOutput"]["S3OutputPath"])
    with aws_errors():
        sagemaker.create_model(**model)
        try:
            sagemaker.create_transform_job(**job)
            say(f"Started transform job {name}; its answers go to {output}")
            with suppress(WaiterError):  # a job that failed may have left answers, too
                sagemaker.get_waiter("transform_job_completed_or_stopped").wait(
                    TransformJobName=name, WaiterConfig=WAIT
                )
            ended = sagemaker.describe_transform_job(TransformJobName=name)
        finally:
            # Only this job uses the model; the package stays.
            sagemaker.delete_model(ModelName=model["ModelName"])
    written = answers.write(storage, source, output, target)
    status = ended["TransformJobStatus"]
    if status != "Completed":
        reason = " ".join(ended.get("FailureReason", "no reason given").split())
        say(f"Transform job {name}: {status}: {reason}")
    if not written.answered + written.refused:
        raise ConfigError(f"transform job {name}: it wrote no answer; see its log")
    return written


def requests(config: PipelineConfig, package: str, source: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the `CreateModel` and the `CreateTransformJob` request; each call gives new names."""
    match = PACKAGE.fullmatch(package)
    if match is None:
        raise ConfigError(
            f"{package}: must be an ARN such as arn:aws:sagemaker:REGION:ACCOUNT:model-package/GROUP/VERSION"
        )
    config = config.replace(transform=config.transform.replace(input=source), deploy=False)
    definition = json.loads(build_promotion(config).definition())
    steps = {step["Name"]: step["Arguments"] for step in all_steps(definition["Steps"])}
    scope = Scope(resolve_parameters(definition, {}), {"PipelineExecutionId": "", "PipelineName": config.name})
    # Random: the same package may answer the same folder again, and names of jobs cannot be reused.
    digest = hashlib.sha256(f"{package} {source} {secrets.token_hex(8)}".encode()).hexdigest()[:12]
    name = f"{config.endpoint.name}-batch-{match['version']}-{digest}"
    tags = [{"Key": key, "Value": value} for key, value in config.tags.items()]
    model = {**steps["Model-batch"], "PrimaryContainer": {"ModelPackageName": package}, "Tags": tags}
    scope.steps["Model-batch"] = {"ModelName": name}
    job = resolve(steps["Transform"], scope)
    job["TransformOutput"]["S3OutputPath"] = config.storage.uri("batch", "answers", name)
    return {**resolve(model, scope), "ModelName": name}, {**job, "TransformJobName": name}
