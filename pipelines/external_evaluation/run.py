"""Runs an external evaluation: loads the model, judges the images, and writes results and report."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mammopipe import __version__
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.pipelines.external_evaluation import figures, judging
from mammopipe.pipelines.external_evaluation.cases import judged_cases
from mammopipe.pipelines.external_evaluation.report import render
from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.datasets.definition import Dataset, LabelTable
from mammopipe.processing.datasets.manifest import Split
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes, write_csv, write_json
from mammopipe.processing.jobs.journal import Journal
from mammopipe.training.model.archive import unpack
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.description import read_description
from mammopipe.training.model.views.attention import ViewAttention

LEAST_RESAMPLES = 100
JOURNAL = ".judged.jsonl"
"""Name of the journal of judged images in the output folder."""


def evaluate_model(
    model: Path,
    dataset: Dataset,
    folder: Path,
    output: Path,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    split: Split | None = None,
) -> str:
    """Evaluate a model on a labelled dataset that it has never seen.

    An interrupted evaluation resumes where it stopped if it is called again with the same arguments.

    Args:
        model: `model.tar.gz` or the model directory.
        dataset: The dataset's definition.
        folder: Folder of the dataset as released.
        output: Folder for `external.json`, `predictions.csv`, `refused.csv` and `report.html`.
        bootstrap: Number of resamples for each interval.
        seed: Seed of the resamples.
        split: The split of the released table whose images are evaluated; `None`: all images.

    Returns:
        The main results as lines of text.

    Raises:
        ConfigError: The model is damaged, or no image can be judged.
        LabelError: The dataset is not as released.
    """
    if bootstrap < LEAST_RESAMPLES:
        raise ConfigError(f"bootstrap={bootstrap}: an interval needs at least {LEAST_RESAMPLES} resamples")
    table = _of_split(dataset.check(folder), split, folder)
    images = folder / dataset.image_folder
    with TemporaryDirectory() as scratch:
        directory = model if model.is_dir() else Path(scratch)
        if directory != model:
            unpack(model, directory)
        description = read_description(directory)
        attention = ViewAttention.read(directory, description)
        preprocessing = PreprocessConfig.from_json(description["preprocess"])
        journal = Journal(output / JOURNAL, _fingerprint(description, table, images, __version__))
        with closing(journal):
            judgement = judging.judge(Predictor(directory), preprocessing, table, images, journal)
    if not judgement.images:
        first = ": ".join(judgement.refused[0])
        raise ConfigError(f"{folder}: none of {len(judgement.refused)} images could be judged; {first}")
    cases = judged_cases(judgement, description["classes"], attention)
    found = figures.figures(description, judgement, cases, dataset, figures.Plan(bootstrap, seed), model)
    found |= {"synthetic": dataset.is_synthetic(folder, table), "split": None if split is None else str(split)}
    # The figures may be of fewer classes than the model has; the table holds what the model answers.
    shares = Calibration.of(description).probabilities(cases.predictions.logits)
    rows = list(cases.rows(shares, found["model_classes"]))
    write_csv(output / "predictions.csv", list(rows[0]), rows)
    refused = [{"image_id": name, "reason": why} for name, why in (*judgement.refused, *judgement.unlabelled)]
    write_csv(output / "refused.csv", ["image_id", "reason"], refused)
    write_json(output / "external.json", found)
    write_bytes(output / "report.html", render(found).encode())
    journal.path.unlink()
    return _summary(found, output)


def _fingerprint(description: Mapping[str, Any], table: LabelTable, folder: Path, version: str) -> str:
    """Return a digest of the model, the version of the code, and the images with their sizes.

    Args:
        description: The model's verified `model.json`.
        table: The label table of the images.
        folder: Folder that the records' paths are relative to.
        version: The version of the package.
    """
    digest = hashlib.sha256(json.dumps([version, description], sort_keys=True).encode())
    for record in table.records:
        path = folder / record.path
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{record.image_id} {record.path} {size}\n".encode())
    return digest.hexdigest()


def _of_split(table: LabelTable, split: Split | None, folder: Path) -> LabelTable:
    """Return the images of one split of the released table; raises `ConfigError` if it has none."""
    if split is None:
        return table
    records = [record for record in table.records if record.split is split]
    if not records:
        raise ConfigError(f"--split {split}: no image of {folder} is in this split of the released table")
    return replace(table, records=records)


def _summary(found: dict[str, Any], output: Path) -> str:
    def text(figure: dict[str, Any]) -> str:
        """Return a value with its interval as text, or the reason why it is undefined."""
        if figure["value"] is None:
            return str(figure["reason"])
        bounds = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
        return f"{figure['value']:.3f}{bounds}"

    counts = found["counts"]
    breasts = f"{counts['breasts']} breasts, " if "breasts" in counts else ""
    unlabelled = f", {counts['unlabelled']} without a row of the table" if counts["unlabelled"] else ""
    return "\n".join(
        [
            f"{found['model']} on {found['dataset']}: {counts['images']} images of {counts['patients']} patients, "
            f"{breasts}{counts['malignant']} malignant, {counts['refused']} refused{unlabelled}",
            f"macro AUC {text(found['macro_auc'])}; malignant AUC {text(found['malignant_auc'])}",
            f"expected over observed malignant {text(found['calibration']['expected_over_observed'])}",
            f"report: {output / 'report.html'}",
        ]
    )
