"""A search over hyperparameters as local training jobs, one after another, with the values that Optuna proposes.

Source: "How Hyperparameter Tuning Works" (SageMaker Developer Guide); `HyperParameterTrainingJobSummary` (API
reference): the objective is the last value that a job printed. Optuna's sampler is the tree-structured Parzen estimator
(Bergstra et al. 2011), SageMaker uses Bayesian optimisation: both learn from earlier trials, but propose different
values.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mammopipe.pipelines.backends.jobs import JobContext, StepFailed, model_folder, run_training
from mammopipe.pipelines.config.search_space import Kind, Space
from mammopipe.pipelines.config.tuning import Strategy
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_json

if TYPE_CHECKING:
    import optuna

MOST_LISTED = 50
"""Number of trials in a step's properties; SageMaker Pipelines keeps as many ("Tuning step")."""
OBJECTIVE_KEY = "_tuning_objective_metric"
"""The hyperparameter that SageMaker adds to each job of a search."""


RESULT = "trial.json"
"""The file beside a trial's model with its figure; the step cache stores both."""


class Reuse(Protocol):
    """Reuses the result of an earlier, equal training job, if there is one."""

    def __call__(
        self, request: Mapping[str, Any], places: Mapping[str, str], log: Path
    ) -> AbstractContextManager[bool]:
        """Return a context manager that yields whether an earlier result was reused, so that the job need not run."""


@dataclass(frozen=True)
class SearchStep:
    """A search step whose references are resolved."""

    step: str
    """Name of the step; the names of the logs begin with it."""
    request: Mapping[str, Any]
    """The `CreateHyperParameterTuningJob` request."""
    context: JobContext
    threads: int
    reuse: Reuse

    @property
    def job(self) -> str:
        """Name of the search."""
        return str(self.request["HyperParameterTuningJobName"])

    @property
    def objective(self) -> Mapping[str, str]:
        """`Type` and `MetricName` of the figure that is improved."""
        return dict(self.request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"])


def run_tuning(search: SearchStep) -> dict[str, Any]:
    """Run the trials of a search.

    Args:
        search: The search.

    Returns:
        The step's properties: those of `DescribeHyperParameterTuningJob`, and the `TrainingJobSummaries` of the trials,
        the best first.

    Raises:
        StepFailed: No trial ended with a figure.
    """
    config = search.request["HyperParameterTuningJobConfig"]
    study, spaces = _study(config), list(spaces_of(config["ParameterRanges"]))
    from optuna.trial import TrialState  # `_study` has checked that optuna is installed

    summaries = []
    trials = config["ResourceLimits"]["MaxNumberOfTrainingJobs"]
    for number in range(1, trials + 1):
        trial = study.ask()
        summary = _trial(search, number, {space.key: space.suggest(trial) for space in spaces})
        summaries.append(summary)
        _say(search, f"trial {number} of {trials}: {described(summary)}")
        # The next proposals depend on this figure; a trial without one must not count as a bad value.
        figure = summary.get("FinalHyperParameterTuningJobObjectiveMetric")
        if figure is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, figure["Value"])
    ordered = ranked(summaries)
    if ordered[0].get("FinalHyperParameterTuningJobObjectiveMetric") is None:
        raise StepFailed(f"none of {len(summaries)} trials ended with a figure; the first: {_reason(summaries[0])}")
    return {
        **search.request,
        "BestTrainingJob": ordered[0],
        "TrainingJobSummaries": ordered[:MOST_LISTED],
        "AllTrainingJobSummaries": summaries,
    }


def described(summary: Mapping[str, Any]) -> str:
    """Return a trial as one line: its values and its figure, or the reason why it has no figure."""
    shown = ", ".join(f"{key}={value}" for key, value in summary["TunedHyperParameters"].items())
    figure = summary.get("FinalHyperParameterTuningJobObjectiveMetric")
    return f"{shown}: {figure['MetricName']} {figure['Value']:.4f}" if figure else f"{shown}: {_reason(summary)}"


def _say(search: SearchStep, line: str) -> None:
    """Append a line to the log of the search, which the run's progress display shows."""
    with (search.context.logs / f"{search.step}.log").open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")


def ranked(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the trials in the order of their figures, the best first; those without a figure last."""

    def rank(summary: Mapping[str, Any]) -> tuple[bool, float]:
        figure = summary.get("FinalHyperParameterTuningJobObjectiveMetric")
        if figure is None:
            return True, 0.0
        return False, -figure["Value"] if figure["Type"] == "Maximize" else figure["Value"]

    return sorted(summaries, key=rank)


def spaces_of(ranges: Mapping[str, Any]) -> Iterator[Space]:
    """Yield the ranges of a request."""
    for item in ranges.get("IntegerParameterRanges", []):
        yield Space(item["Name"], Kind.INT, (item["MinValue"], item["MaxValue"]))
    for item in ranges.get("ContinuousParameterRanges", []):
        kind = Kind.LOG if item["ScalingType"] == "Logarithmic" else Kind.UNIFORM
        yield Space(item["Name"], kind, (item["MinValue"], item["MaxValue"]))
    for item in ranges.get("CategoricalParameterRanges", []):
        yield Space(item["Name"], Kind.CHOICE, tuple(item["Values"]))


def _study(config: Mapping[str, Any]) -> "optuna.Study":
    try:
        import optuna
    except ImportError:
        raise ConfigError("a tuning step needs optuna; pip install 'mammopipe[pipelines]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {Strategy.BAYESIAN: optuna.samplers.TPESampler, Strategy.RANDOM: optuna.samplers.RandomSampler}
    sampler = samplers[Strategy(config["Strategy"])](seed=config.get("RandomSeed"))
    direction = config["HyperParameterTuningJobObjective"]["Type"].lower()
    return optuna.create_study(direction=direction, sampler=sampler)


def _trial(search: SearchStep, number: int, values: Mapping[str, str]) -> dict[str, Any]:
    """Run one training job and return its summary; a job that fails ends the trial, not the search."""
    request = training_request(search, number, values)
    name = f"{search.step}-{number:03d}"
    log = search.context.logs / f"{name}.log"
    started, summary = datetime.now(UTC), _summary(request, values)
    metric = next(
        item
        for item in request["AlgorithmSpecification"]["MetricDefinitions"]
        if item["Name"] == search.objective["MetricName"]
    )
    folder = model_folder(request)
    try:
        with search.reuse(request, {"model": folder}, log) as done:
            if not done:
                run_training(name, request, search.context, threads=search.threads)
                figure = last_figure(log, metric["Regex"])
                write_json(search.context.work / name / RESULT, {"figure": figure})
                search.context.storage.put(search.context.work / name / RESULT, f"{folder}/{RESULT}")
        found = json.loads(search.context.storage.read(f"{folder}/{RESULT}"))["figure"]
    except StepFailed as error:
        return summary | {"TrainingJobStatus": "Failed", "FailureReason": str(error), "ObjectiveStatus": "Failed"}
    finally:
        summary |= {"TrainingStartTime": started, "TrainingEndTime": datetime.now(UTC)}
    if found is None:
        reason = f"the job printed no {search.objective['MetricName']}"
        return summary | {"TrainingJobStatus": "Completed", "FailureReason": reason, "ObjectiveStatus": "Failed"}
    return summary | {
        "TrainingJobStatus": "Completed",
        "ObjectiveStatus": "Succeeded",
        "FinalHyperParameterTuningJobObjectiveMetric": {**search.objective, "Value": found},
    }


def training_request(search: SearchStep, number: int, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the `CreateTrainingJob` request of a trial, with the hyperparameters as SageMaker passes them."""
    definition = dict(search.request["TrainingJobDefinition"])
    static = definition.pop("StaticHyperParameters")
    definition.pop("RetryStrategy", None)
    own = {OBJECTIVE_KEY: search.objective["MetricName"]}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return {
        **definition,
        "TrainingJobName": f"{search.job}-{number:03d}-{digest}",
        "HyperParameters": {**static, **values, **own},
    }


def _summary(request: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Return what is known of a trial before it has run."""
    name = request["TrainingJobName"]
    return {
        "TrainingJobName": name,
        "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{name}",
        "CreationTime": datetime.now(UTC),
        "TunedHyperParameters": dict(values),
    }


def last_figure(log: Path, pattern: str) -> float | None:
    """Return the last figure in a log that matches a metric definition; None if there is none."""
    found = re.findall(pattern, log.read_text(encoding="utf-8", errors="replace"))
    return float(found[-1]) if found else None


def _reason(summary: Mapping[str, Any]) -> str:
    return str(summary.get("FailureReason") or "it ended without a reason")
