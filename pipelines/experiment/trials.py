"""The trials of a pipeline's searches as one table, made from SageMaker's own summaries of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mammopipe.processing.files import write_csv

TABLE = "tuning.csv"
COLUMNS = ("network", "trial", "job", "status", "objective", "value")


def rows(network: str, summaries: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return one row per trial of a search, in the order in which they started.

    Args:
        network: The network that was trained.
        summaries: `HyperParameterTrainingJobSummary` of each trial.

    Returns:
        `COLUMNS`, one column per hyperparameter, and `reason`.
    """
    found = []
    for number, summary in enumerate(sorted(summaries, key=lambda item: str(item["TrainingJobName"])), 1):
        figure = summary.get("FinalHyperParameterTuningJobObjectiveMetric", {})
        found.append(
            {
                "network": network,
                "trial": str(number),
                "job": str(summary["TrainingJobName"]),
                "status": str(summary["TrainingJobStatus"]),
                "objective": str(figure.get("MetricName", "")),
                "value": str(figure.get("Value", "")),
                **{key: str(value) for key, value in summary.get("TunedHyperParameters", {}).items()},
                "reason": " ".join(str(summary.get("FailureReason", "")).split()),
            }
        )
    return found


def write(folder: Path, table: list[dict[str, str]]) -> None:
    """Write the rows of all searches of a run to `tuning.csv` in its folder; writes nothing if there are none."""
    if not table:
        return
    searched = sorted({key for row in table for key in row} - {*COLUMNS, "reason"})
    columns = [*COLUMNS, *searched, "reason"]
    write_csv(folder / TABLE, columns, [{name: row.get(name, "") for name in columns} for row in table])
