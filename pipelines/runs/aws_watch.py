"""Live view of an execution on AWS, like that of a local run: its steps, its jobs' pages, and why it failed."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mammopipe.pipelines.account.finish import finish
from mammopipe.pipelines.backends.sessions import ExpiredCredentialsError, TransientError, aws_errors
from mammopipe.pipelines.backends.step_status import Status, StepRecord
from mammopipe.pipelines.data.s3 import ExpiredAccessError, Storage
from mammopipe.pipelines.experiment import trials
from mammopipe.pipelines.runs import aws
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.processing.errors import ConfigError

POLL_SECONDS = 10.0
LONGEST_PAUSE = 300.0
"""Seconds between two attempts while AWS does not respond."""
LONGEST_SILENCE = 3600.0
"""Seconds without any response after which watching ends."""
QUESTION = "Stop the execution on AWS, too? [y/N] "


@dataclass(frozen=True)
class Clients:
    """The AWS clients used for watching."""

    sagemaker: Any
    logs: Any
    storage: Storage


def records_of(execution: dict[str, Any]) -> list[StepRecord]:
    """Return the steps of an `execution.json` as records for a table."""
    names = ("name", "type", "started", "seconds", "reason")
    return [
        StepRecord(status=Status(step["status"]), **{name: step[name] for name in names}, clock=_begun(step["started"]))
        for step in execution["steps"]
    ]


def _begun(started: str | None) -> float:
    """Return the reading of the monotonic clock at which a step began."""
    if not started:
        return 0.0
    try:
        since = (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return time.monotonic() - since


def watch(
    folder: RunFolder,
    clients: Clients,
    show: Callable[..., Any],
    say: Callable[[str], None],
    *,
    wait: Callable[[float], None] = time.sleep,
    ask: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """Show an execution until it ends or Ctrl-C ends the watching, and return its last known state.

    Ctrl-C asks whether to stop the execution as well; otherwise it continues. `ask` returns the answer to a question;
    without it, when nobody can be asked, the execution continues.

    Raises:
        ConfigError: AWS refuses, or has not responded for `LONGEST_SILENCE`.
        ExpiredCredentialsError: The credentials expired while watching; a subclass of `ConfigError`.
    """
    execution = folder.document("execution.json")
    shown: set[str] = set()
    try:
        with show(folder.logs) as progress:
            while True:
                execution = _look(folder, clients, execution, say, wait)
                progress.changed(records_of(execution))
                for name, page in aws.links(execution):
                    if name not in shown:
                        shown.add(name)
                        say(f"  {name}: {page}")
                if execution["status"] != Status.EXECUTING:
                    break
                wait(POLL_SECONDS)
    except KeyboardInterrupt:
        return _interrupted(folder, execution, clients, say, ask)
    try:
        _report_end(folder, execution, clients, say)
    except (ExpiredCredentialsError, ExpiredAccessError) as error:
        run = execution["id"]
        raise ExpiredCredentialsError(
            f"{error}; {run} has ended on AWS: {execution['status']}. Log in again (aws sso login), then mammopipe "
            f"status {run} --watch fetches its results"
        ) from None
    return execution


def _look(
    folder: RunFolder,
    clients: Clients,
    execution: dict[str, Any],
    say: Callable[[str], None],
    wait: Callable[[float], None],
) -> dict[str, Any]:
    """Return the current state of the execution; retries while AWS throttles or is unreachable.

    Raises `ConfigError` after `LONGEST_SILENCE`, since a lost network looks the same and nobody may be present.
    """
    pause, waited = POLL_SECONDS, 0.0
    while True:
        try:
            return aws.refresh(folder, clients.sagemaker, execution)
        except ExpiredCredentialsError as error:
            run = execution["id"]
            raise ExpiredCredentialsError(
                f"{error}; {run} continues on AWS. Log in again (aws sso login), then mammopipe status {run} "
                "--watch shows it again"
            ) from None
        except TransientError as error:
            if waited >= LONGEST_SILENCE:
                run = execution["id"]
                raise ConfigError(
                    f"{error}, for {waited / 60:.0f} minutes; {run} continues there, and "
                    f"mammopipe status {run} --watch shows it again"
                ) from None
            if not waited:
                say(f"  {error}; trying again for up to {LONGEST_SILENCE / 60:.0f} minutes")
            wait(pause)
            waited += pause
            pause = min(2 * pause, LONGEST_PAUSE)


def _interrupted(
    folder: RunFolder,
    execution: dict[str, Any],
    clients: Clients,
    say: Callable[[str], None],
    ask: Callable[[str], str] | None,
) -> dict[str, Any]:
    if ask is not None and _answered(ask) in ("y", "yes"):
        with aws_errors():
            clients.sagemaker.stop_pipeline_execution(PipelineExecutionArn=execution["arn"])
        say(f"Stopping {execution['id']}; mammopipe status {execution['id']} shows when it has stopped")
        return aws.refresh(folder, clients.sagemaker, execution)
    say(f"{execution['id']} continues on AWS; mammopipe status {execution['id']} shows it")
    return execution


def _answered(ask: Callable[[str], str]) -> str:
    """Return the answer; Ctrl-C or Ctrl-D at the question does not count as yes."""
    try:
        return ask(QUESTION).strip().lower()
    except (KeyboardInterrupt, EOFError):
        return ""


def _report_end(folder: RunFolder, execution: dict[str, Any], clients: Clients, say: Callable[[str], None]) -> None:
    for step in execution["steps"]:
        if step["status"] == Status.FAILED:
            say(f"\n{step['name']} failed: {step['reason'] or 'no reason given'}")
            lines = aws.last_words(clients.logs, step)
            if lines:
                say("The end of its log:")
            for line in lines:
                say(f"  {line}")
    aws.fetch_results(folder, clients.storage)
    trials.write(folder.path, [row for step in execution["steps"] for row in aws.trials_of(clients.sagemaker, step)])
    if execution["status"] == Status.SUCCEEDED:
        finish(folder.path, execution, clients.sagemaker, clients.storage, say)
        folder.become_latest()


def terminal_question() -> Callable[[str], str] | None:
    """Return the function that asks the person at the terminal, or None where there is no terminal."""
    return input if sys.stdin.isatty() and sys.stdout.isatty() else None
