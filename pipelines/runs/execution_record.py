"""The account of a run in `execution.json`: its steps and parameters, how it ended, and why its gate stayed closed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mammopipe.pipelines.backends.execution import Execution
from mammopipe.pipelines.backends.step_status import Status, StepRecord
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.pipelines.runs.run import Run

EVALUATE = "Evaluate"
"""Name of the step that reads the test split."""


@dataclass
class ExecutionRecord:
    """Keeps `execution.json` up to date during the run."""

    run: RunFolder
    config: PipelineConfig
    backend: str
    """Value of `Backend`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    status: Status = Status.EXECUTING
    reason: str = ""
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    listener: Callable[[list[StepRecord]], None] | None = None
    evaluated: Callable[[], object] | None = None
    """Called once, as soon as the evaluation has succeeded: an interrupted run has read the test split, too."""
    _clock: float = field(default_factory=time.monotonic)

    def changed(self, records: list[StepRecord]) -> None:
        """Write the status of the steps, and pass it on."""
        done = any(record.name == EVALUATE and record.status is Status.SUCCEEDED for record in records)
        if done and self.evaluated is not None:
            evaluated, self.evaluated = self.evaluated, None
            evaluated()
        self.run.write(
            {
                "id": self.run.id,
                "status": str(self.status),
                "reason": self.reason,
                "pipeline": self.config.name,
                "backend": self.backend,
                "dataset": str(self.config.dataset),
                "profile": str(self.config.profile),
                "protocol": str(self.config.data.protocol),
                "started": self.started,
                "seconds": round(time.monotonic() - self._clock, 3),
                "configuration": self.config.record(),
                "parameters": dict(self.parameters),
                "steps": [record.as_dict() for record in records],
            }
        )
        if self.listener is not None:
            self.listener(records)

    def end(self, execution: Execution) -> Run:
        """Write how the run ended, make it the latest if it reached a verdict, and return it."""
        self.listener = None
        records = list(execution.step_statuses.records.values())
        failed = [record for record in records if record.status is Status.FAILED]
        if failed and not self.reason:
            name, reason = failed[0].name, failed[0].reason
            self.reason = self._closed(reason) if failed[0].type == "Fail" else f"{name}: {reason}"
        self.changed(records)
        if self.status is Status.SUCCEEDED or any(record.type == "Fail" for record in failed):
            self.run.become_latest()
        return Run(self.run.id, self.status, self.reason, self.run.path)

    def _closed(self, reason: str) -> str:
        """Return why the gate stayed closed; the pipeline's own message if the run left no evaluation."""
        if not (self.run.path / "evaluation.json").is_file():
            return reason
        return why_closed(self.run.document("evaluation.json"), self.parameters["MinMacroAuc"])


def why_closed(evaluation: Mapping[str, Any], limit: object) -> str:
    """Return one sentence with the best candidate's figure, the limit and the verdicts of the other conditions.

    Args:
        evaluation: The content of `evaluation.json`.
        limit: The value of the pipeline's parameter MinMacroAuc.
    """
    best = evaluation["selected"]
    least, choice = evaluation.get("min_choice", 0.0), best.get("choice", {})
    chosen = f", a {choice['words']} of {choice['value']:.4f} where min_choice is {least:g}" if least else ""
    return (
        f"Nothing was registered: the best candidate, {best['cnn']}, has a validation macro AUC of {best['figure']} "
        f"where MinMacroAuc is {limit}{chosen}; "
        f"protocol: {evaluation['protocol_verdict']}; "
        f"leakage audit: {evaluation['leakage']['verdict']}"
    )
