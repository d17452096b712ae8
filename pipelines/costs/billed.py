"""Computes what a run cost, from the times that AWS billed."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from mammopipe.pipelines.costs.estimate import Line
from mammopipe.pipelines.costs.prices import Prices

DESCRIBE = {
    "Processing": ("describe_processing_job", "ProcessingJobName"),
    "Training": ("describe_training_job", "TrainingJobName"),
    "Transform": ("describe_transform_job", "TransformJobName"),
}
SEARCH = "Tuning"
"""The type of a step whose training jobs are billed one by one."""


def measured(execution: Mapping[str, Any], prices: Prices) -> list[Line]:
    """Return the figures of each step of a run: AWS's billed times for runs on AWS, else this machine's own hours."""
    lines = []
    for step in execution["steps"]:
        if step["type"] not in (*DESCRIBE, SEARCH) or step["seconds"] is None:
            continue
        job = step.get("job")
        seconds = float(job["billed_seconds"] if job else step["seconds"])
        hours, kind = seconds / 3600, "training" if step["type"] == SEARCH else str(step["type"]).lower()
        usd = hours * job["instances"] * prices.hour(kind, job["instance_type"]) if job else 0.0
        lines.append(
            Line(
                step["name"],
                0,
                "",
                0.0,
                job["instance_type"] if job else "this machine",
                job["instances"] if job else 1,
                0.0,
                hours,
                usd,
                True,
                "billed" if job else "measured here",
            )
        )
    return lines


def billed(sagemaker: Any, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the steps; each AWS job's step gets `job`: its instances and billed seconds.

    A training job states its billable seconds; the other jobs are billed from their start to their end. A search is
    billed for all of its training jobs.
    """
    return [{**step, **_job(sagemaker, step)} for step in steps]


def _job(sagemaker: Any, step: Mapping[str, Any]) -> dict[str, Any]:
    name = step.get("job_name")
    if not name or step["type"] not in (*DESCRIBE, SEARCH):
        return {}
    try:
        if step["type"] == SEARCH:
            trials = [_described(sagemaker, "Training", trial) for trial in _trials(sagemaker, name)]
            return {"job": _together(trials)} if trials else {}
        return {"job": _described(sagemaker, step["type"], name)}
    except ClientError as error:
        if error.response["Error"]["Code"] in ("ValidationException", "ResourceNotFound"):
            return {}
        raise


def _trials(sagemaker: Any, search: str) -> list[str]:
    pages = sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        HyperParameterTuningJobName=search
    )
    return [item["TrainingJobName"] for page in pages for item in page["TrainingJobSummaries"]]


def _together(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the jobs of a search, which are all of one type, as one."""
    return {**trials[0], "billed_seconds": sum(trial["billed_seconds"] for trial in trials)}


def _described(sagemaker: Any, kind: str, name: str) -> dict[str, Any]:
    call, key = DESCRIBE[kind]
    return dict(_bill(getattr(sagemaker, call)(**{key: name}), kind))


def _bill(facts: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    resources = (
        facts["ProcessingResources"]["ClusterConfig"]
        if kind == "Processing"
        else facts["ResourceConfig" if kind == "Training" else "TransformResources"]
    )
    yield "instance_type", resources["InstanceType"]
    yield "instances", resources["InstanceCount"]
    start = facts.get(f"{kind}StartTime") or facts["CreationTime"]
    end = facts.get(f"{kind}EndTime") or datetime.now(start.tzinfo)
    yield "billed_seconds", facts.get("BillableTimeInSeconds", round((end - start).total_seconds()))
    yield "spot", bool(facts.get("EnableManagedSpotTraining"))
