"""Writes the figures of a run of `mias-located` into the documentation: `python -m benchmarks.studies.mias_page RUN`.

RUN is the folder of a finished run on the original mini-MIAS, with `evaluation.json` and `execution.json`. The command
replaces the text between two marks in docs/explanation/mias.md and in docs/BENCHMARKS.md. Every number comes from the
two files; no page is changed if a file is missing.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import replace_between
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.splits import read_register

DOCS = Path(__file__).parents[2] / "docs"
PAGE, BENCHMARKS = "explanation/mias.md", "BENCHMARKS.md"
SPLITS = {"validation": "out of fold", "test": "frozen test"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both pages, and print their paths."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.mias_page", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run, such as runs/latest")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
    options = parser.parse_args(arguments)
    evaluation, execution = (_read(options.run / name) for name in ("evaluation.json", "execution.json"))
    check(evaluation, options.run)
    texts = {PAGE: "\n".join(page(evaluation, execution)), BENCHMARKS: "\n".join(pointing(evaluation))}
    for name, text in texts.items():
        replace_between(options.docs / name, "mias-located", text + "\n")
        print(options.docs / name)
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None


def check(evaluation: Mapping[str, Any], run: Path) -> None:
    """Raise `ConfigError` unless the run is of the kind that the pages describe."""
    rules = {
        "dataset": "mias",
        "synthetic": False,
        "profile": "full",
        "protocol": "patient",
    }
    for key, value in rules.items():
        if evaluation[key] != value:
            raise ConfigError(f"{run}: {key} is {evaluation[key]}; the pages describe a run with {key} {value}")
    if not evaluation["leakage"]["passed"]:
        raise ConfigError(f"{run}: the leakage audit {evaluation['leakage']['verdict']}")
    if not evaluation["validation_folds"] or not evaluation["selected"]["compared"]:
        raise ConfigError(f"{run}: the pages describe a cross-validated run that compares breasts (mias-located)")


def words(figure: Mapping[str, Any], digits: int = 3) -> str:
    """Return a figure with its interval."""
    if figure["value"] is None:
        return "undefined"
    if figure["low"] is None:
        return f"{figure['value']:.{digits}f} (no interval)"
    return f"{figure['value']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def page(evaluation: Mapping[str, Any], execution: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the section in docs/explanation/mias.md."""
    yield (
        f"One run of {execution['started'][:10]}, {execution['seconds'] / 60:.0f} minutes: "
        f"`{evaluation['selected']['cnn']}`, seed {evaluation['bootstrap']['seed']}. These are figures of one "
        f"assignment of patients to folds. Intervals are 95 %, by patient; they leave out the assignment and the "
        f"training. {read_register.sentence(evaluation['test_reads'])}"
    )
    yield ""
    yield from _performance(evaluation)
    yield from _by_negatives(evaluation)
    yield from _thresholds(evaluation)
    yield from _calibration(evaluation)
    yield from pointing(evaluation)


def _performance(evaluation: Mapping[str, Any]) -> Iterator[str]:
    selected = evaluation["selected"]
    yield "| images | macro AUC | malignant AUC | balanced accuracy | log loss |"
    yield "|---|---|---|---|---|"
    for split, name in SPLITS.items():
        for how, figures in (("each alone", selected[split]), ("each beside the other", selected["compared"][split])):
            cells = [words(figures[key]) for key in ("macro_auc", "malignant_auc", "balanced_accuracy", "log_loss")]
            yield f"| {name}, {figures['images']} images, {how} | {' | '.join(cells)} |"
    yield ""


def _by_negatives(evaluation: Mapping[str, Any]) -> Iterator[str]:
    found = evaluation["selected"]["compared"]["validation"]["by_negatives"]
    yield "Malignant AUC out of fold by kind of negative. The gain is paired."
    yield ""
    yield "| negatives | images | women | alone | beside the other | gain |"
    yield "|---|---|---|---|---|---|"
    for row in found["kinds"]:
        cells = [words(row[key]) for key in ("alone", "beside", "gain")]
        yield f"| {row['kind']} | {row['images']} | {row['women']} | {' | '.join(cells)} |"
    for key, title in (("as_here", "all, as they occur here"), ("as_in_screening", "all, weighted as in screening")):
        yield f"| {title} | | | {' | '.join(words(found[key][name]) for name in ('alone', 'beside', 'gain'))} |"
    yield ""


def _thresholds(evaluation: Mapping[str, Any]) -> Iterator[str]:
    selected = evaluation["selected"]
    yield "Thresholds fixed out of fold, on test:"
    yield ""
    yield "| threshold holds | sensitivity | specificity |"
    yield "|---|---|---|"
    for goal in ("sensitivity", "specificity"):
        point = selected["operating_points"][goal]
        rates = [words(point["on_test"][name]) for name in ("sensitivity", "specificity")]
        yield f"| {goal} {point['target']:.2f}, images alone | {' | '.join(rates)} |"
        compared = selected["compared"]["test"]["breast"]["operating_points"][goal]
        rates = [words(compared[name]) for name in ("sensitivity", "specificity")]
        yield f"| {goal} {point['target']:.2f}, breasts compared | {' | '.join(rates)} |"
    yield ""


def _calibration(evaluation: Mapping[str, Any]) -> Iterator[str]:
    yield f"Calibration (`{evaluation['calibration']['served']}`, cross-fitted out of fold):"
    yield ""
    yield "| images | log loss | log loss of the class frequencies | expected over observed malignant | slope |"
    yield "|---|---|---|---|---|"
    keys = ("log_loss", "log_loss_of_frequencies", "expected_over_observed", "calibration_slope")
    for split, name in SPLITS.items():
        found = evaluation["calibration"]["of_malignant"][split]
        yield f"| {name} | {' | '.join(words(found[key]) for key in keys)} |"
    yield ""


def pointing(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sentences about the heatmap's maximum on the test images."""
    for label in ("malignant", "benign"):
        found = evaluation["pointing"]["test"][label]
        hits = found["hits"]
        if hits["value"] is None:
            yield f"- No {label} test image has an annotated lesion."
            continue
        yield (
            f"- The maximum of the heatmap lies inside an annotated circle in {round(hits['value'] * found['images'])} "
            f"of {found['images']} {label} test images: {words(hits, 2)}, chance {found['chance']['value']:.2f}."
        )


if __name__ == "__main__":
    sys.exit(main())
