"""Leave-one-dataset-out: trains on all datasets but one, and evaluates the model on the one left out.

The figures of a dataset whose own images trained the model say little about other hospitals. Here each dataset is
judged once by a model that has seen none of its images.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.join import LEAST_DATASETS, join
from mammopipe.pipelines.runs.launch import start
from mammopipe.processing.datasets.own import NAME as OWN
from mammopipe.processing.datasets.registry import EVALUATED
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes, write_csv

COLUMNS = (
    "left_out", "trained_on", "run", "images", "patients", "malignant", "malignant_auc", "low", "high",
    "expected_over_observed", "status",
)  # fmt: skip


def leave_one_out(
    config: PipelineConfig,
    sources: Mapping[str, Path],
    out: Path,
    *,
    weights: str = "",
    bootstrap: int = 1000,
    say: Callable[[str], None] = print,
) -> list[dict[str, str]]:
    """Train once for each dataset, on the other datasets, and evaluate the model on the one left out.

    Args:
        config: The configuration of every run; its dataset is replaced by the joined datasets.
        sources: Folders of at least two datasets as released, by name.
        out: Folder of `leave_one_out.csv`, `leave_one_out.md`, and of each evaluation.
        weights: Pretrained weights for every run.
        bootstrap: Number of resamples of each interval.
        say: Called with each line for the user.

    Returns:
        One row per dataset, with the keys `COLUMNS`. A run that failed has its reason as `status`.

    Raises:
        ConfigError: There are too few datasets.
    """
    if len(sources) < LEAST_DATASETS:
        raise ConfigError(f"{', '.join(sources)}: leaving one out needs at least {LEAST_DATASETS} datasets")
    rows = []
    for name, folder in sources.items():
        others = {other: source for other, source in sources.items() if other != name}
        say(f"{name} left out: training on {', '.join(others)}")
        rows.append(_measured(config, name, folder, others, out, weights=weights, bootstrap=bootstrap, say=say))
        _write(rows, out)
    return rows


def _measured(
    config: PipelineConfig,
    name: str,
    folder: Path,
    others: Mapping[str, Path],
    out: Path,
    *,
    weights: str,
    bootstrap: int,
    say: Callable[[str], None],
) -> dict[str, str]:
    # Imported here: the evaluation needs the packages of the extra `inference`.
    from mammopipe.pipelines.external_evaluation.run import evaluate_model

    with TemporaryDirectory() as scratch:
        joined = Path(scratch) / "joined"
        join(others, joined, config.data.split)
        run = start(
            config.replace(dataset=OWN, deploy=False), source=str(joined), weights=weights, runs=out / "runs", say=say
        )
    row = dict.fromkeys(COLUMNS, "") | {"left_out": name, "trained_on": "+".join(others), "run": run.id}
    if run.status is not Status.SUCCEEDED or run.folder is None:
        return row | {"status": run.reason or str(run.status)}
    dataset = EVALUATED[name]
    say(evaluate_model(run.folder / "model.tar.gz", dataset, dataset.find(folder), out / name, bootstrap=bootstrap))
    return row | figures_of(out / name) | {"status": "measured"}


def figures_of(folder: Path) -> dict[str, str]:
    """Return the columns of an evaluation, from its `external.json`."""
    import json

    found: dict[str, Any] = json.loads((folder / "external.json").read_text(encoding="utf-8"))
    auc, ratio = found["malignant_auc"], found["calibration"]["expected_over_observed"]
    return {
        **{key: str(found["counts"][key]) for key in ("images", "patients", "malignant")},
        **{column: _number(auc[key]) for column, key in (("malignant_auc", "value"), ("low", "low"), ("high", "high"))},
        "expected_over_observed": _number(ratio["value"]),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _write(rows: list[dict[str, str]], out: Path) -> None:
    """Write the rows as CSV and as Markdown, after each dataset, so that an interruption loses only one."""
    write_csv(out / "leave_one_out.csv", list(COLUMNS), rows)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row[column] for column in COLUMNS) + " |" for row in rows]
    write_bytes(out / "leave_one_out.md", ("\n".join(lines) + "\n").encode())
