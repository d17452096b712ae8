"""Executions on AWS as runs: the same `execution.json` and the same results in `runs/<id>/`, read by every command.

SageMaker holds the authoritative state. The folder is a copy; a command that reads an unfinished run updates it.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mammopipe.pipelines.backends.sessions import aws_errors
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.s3 import Storage
from mammopipe.pipelines.experiment import trials
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.pipelines.runs.results import RESULTS
from mammopipe.processing.files import write_json

BACKEND = "aws"
STATUSES: Mapping[str, Status] = {
    "Starting": Status.EXECUTING,
    "Executing": Status.EXECUTING,
    "Stopping": Status.EXECUTING,
    "Succeeded": Status.SUCCEEDED,
    "Failed": Status.FAILED,
    "Stopped": Status.STOPPED,
}
"""SageMaker's statuses of steps and executions, mapped to the statuses of a run."""
TYPES = {
    "ProcessingJob": "Processing",
    "TrainingJob": "Training",
    "TuningJob": "Tuning",
    "TransformJob": "Transform",
}
"""The names in a step's metadata that differ from those in the definition."""
LOG_GROUPS = {
    "Processing": "/aws/sagemaker/ProcessingJobs",
    "Training": "/aws/sagemaker/TrainingJobs",
    "Tuning": "/aws/sagemaker/TrainingJobs",
    "Transform": "/aws/sagemaker/TransformJobs",
}
PAGES = {
    "Processing": "processing-jobs",
    "Training": "jobs",
    "Tuning": "hyper-tuning-jobs",
    "Transform": "transform-jobs",
}
LOG_LINES = 15


def read_execution(sagemaker: Any, arn: str) -> dict[str, Any]:
    """Return an execution in the form of `execution.json`; raises `ConfigError` if AWS refuses or is unreachable."""
    with aws_errors():
        described = sagemaker.describe_pipeline_execution(PipelineExecutionArn=arn)
        pages = sagemaker.get_paginator("list_pipeline_execution_steps").paginate(
            PipelineExecutionArn=arn, SortOrder="Ascending"
        )
        steps = [_step(item) for page in pages for item in page["PipelineExecutionSteps"]]
        parameters = sagemaker.list_pipeline_parameters_for_execution(PipelineExecutionArn=arn)["PipelineParameters"]
    status = STATUSES[described["PipelineExecutionStatus"]]
    ended = datetime.now(UTC) if status is Status.EXECUTING else described["LastModifiedTime"]
    return {
        "id": arn.rpartition("/")[2],
        "status": str(status),
        "reason": _reason(described, steps),
        "pipeline": arn.split("pipeline/", 1)[-1].partition("/")[0],
        "backend": BACKEND,
        "arn": arn,
        "started": described["CreationTime"].astimezone(UTC).isoformat(timespec="seconds"),
        "seconds": round((ended - described["CreationTime"]).total_seconds(), 1),
        "parameters": {item["Name"]: item["Value"] for item in parameters},
        "steps": steps,
    }


def _step(item: Mapping[str, Any]) -> dict[str, Any]:
    # SageMaker states the facts of a step under one key, which names its kind; a step that has not begun has none.
    word, facts = next(iter(item.get("Metadata", {}).items()), ("", {}))
    status, started = STATUSES[item["StepStatus"]], item.get("StartTime")
    ended = item.get("EndTime")
    arn = facts.get("Arn", "") if isinstance(facts, Mapping) else ""
    return {
        "name": item["StepName"],
        "type": TYPES.get(word, word),
        "status": str(status),
        "started": started.astimezone(UTC).isoformat(timespec="seconds") if started else None,
        "seconds": round((ended - started).total_seconds(), 1) if started and ended else None,
        "reason": " ".join(item.get("FailureReason", "").split()),
        "job_name": arn.rpartition("/")[2] if word in TYPES else "",
        "arn": arn,
    }


def _reason(described: Mapping[str, Any], steps: list[dict[str, Any]]) -> str:
    failed = [f"{step['name']}: {step['reason']}" for step in steps if step["reason"]]
    return failed[0] if failed else " ".join(described.get("FailureReason", "").split())


def refresh(folder: RunFolder, sagemaker: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Update an execution's `execution.json`, keeping the values that only the start knew, and return it."""
    kept = {key: known[key] for key in ("dataset", "profile", "results", "region", "model_card") if key in known}
    execution = {**read_execution(sagemaker, known["arn"]), **kept}
    write_json(folder.path / "execution.json", execution)
    return execution


def record(root: Path, config: PipelineConfig, arn: str, region: str, *, ours: bool = True) -> RunFolder:
    """Create the folder of an execution.

    Args:
        root: The folder of all runs.
        config: The configuration.
        arn: ARN of the execution.
        region: Its region.
        ours: Whether `config` is the execution's own; otherwise only its evaluation knows its dataset and profile.
    """
    run = arn.rpartition("/")[2]
    folder = RunFolder(root, run)
    dataset, profile = (str(config.dataset), str(config.profile)) if ours else ("", "")
    write_json(
        folder.path / "execution.json",
        {
            "id": run,
            "status": str(Status.EXECUTING),
            "reason": "",
            "pipeline": config.name,
            "backend": BACKEND,
            "arn": arn,
            "region": region,
            "dataset": dataset,
            "profile": profile,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "parameters": {},
            "steps": [],
            "results": config.storage.uri("executions", run),
            "model_card": config.registry.model_card,
        },
    )
    return folder


def adopt(
    root: Path, config: PipelineConfig, sagemaker: Any, region: str, *, limit: int, say: Callable[[str], None]
) -> None:
    """Create folders for the newest executions of the configuration's pipeline, whoever started them.

    Args:
        root: The folder of all runs.
        config: The configuration.
        sagemaker: A boto3 client of SageMaker.
        region: The client's region.
        limit: Number of executions to consider; existing folders count and are left unchanged.
        say: Called if the pipeline has older executions.
    """
    with aws_errors():
        found = (
            sagemaker.get_paginator("list_pipeline_executions")
            .paginate(
                PipelineName=config.name,
                SortBy="CreationTime",
                SortOrder="Descending",
                PaginationConfig={"MaxItems": limit},
            )
            .build_full_result()
        )
    for item in found["PipelineExecutionSummaries"]:
        arn = item["PipelineExecutionArn"]
        if not (root / arn.rpartition("/")[2] / "execution.json").is_file():
            folder = record(root, config, arn, region, ours=False)
            refresh(folder, sagemaker, folder.document("execution.json"))
    if "NextToken" in found:
        say(f"Only the {limit} newest executions of pipeline {config.name}; runs --aws N takes more")


def fetch_results(folder: RunFolder, storage: Storage) -> list[str]:
    """Download the results of a finished execution that are not here yet; returns their names.

    `execution.json` then records the results as fetched, so no command asks AWS again, even if a failed execution
    left only some of them.
    """
    execution, fetched = folder.document("execution.json"), []
    results = execution["results"]
    for output, names in RESULTS.items():
        wanted = [name for name in names if not (folder.path / name).is_file()]
        there = {item.key.rpartition("/")[2]: item for item in storage.list(f"{results}/{output}/")} if wanted else {}
        present = [there[name] for name in wanted if name in there]
        storage.download(f"{results}/{output}/", folder.path, present)
        fetched += [item.key.rpartition("/")[2] for item in present]
    evaluation = folder.document("evaluation.json") if (folder.path / "evaluation.json").is_file() else {}
    known: dict[str, Any] = {name: evaluation[name] for name in ("dataset", "profile") if name in evaluation}
    write_json(folder.path / "execution.json", {**execution, **known, "fetched": True})
    return fetched


def trials_of(sagemaker: Any, step: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return one row per trial of a tuning step, and none for another step."""
    if step["type"] != "Tuning" or not step.get("job_name"):
        return []
    with aws_errors():
        pages = sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
            HyperParameterTuningJobName=step["job_name"]
        )
        found = [item for page in pages for item in page["TrainingJobSummaries"]]
    return trials.rows(step["name"].removeprefix("Tune-"), found)


def last_words(logs: Any, step: Mapping[str, Any]) -> list[str]:
    """Return the last lines of a job's log on CloudWatch, at most `LOG_LINES`; empty if the job logged nothing."""
    group, name = LOG_GROUPS.get(step["type"]), step.get("job_name")
    if not (group and name):
        return []
    with aws_errors():
        streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=name)["logStreams"]
        if not streams:
            return []
        # Each instance has a stream of its own; the one that logged last shows how the job ended.
        last = max(streams, key=lambda stream: stream.get("lastEventTimestamp", 0))["logStreamName"]
        events = logs.get_log_events(logGroupName=group, logStreamName=last, limit=LOG_LINES, startFromHead=False)
    return [event["message"].rstrip() for event in events["events"]]


def links(execution: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of each step with a job and the address of that job's page in the console."""
    region = execution["arn"].split(":")[3]
    for step in execution["steps"]:
        if step["type"] in PAGES and step.get("job_name"):
            yield step["name"], console_page(region, step["type"], step["job_name"])


def console_page(region: str, kind: str, job: str) -> str:
    """Return the address of a job's page in the AWS console."""
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/{PAGES[kind]}/{job}"
