"""Joins the models of the folds, each trained by its own job, to an ensemble, which is one candidate."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256, write_csv
from mammopipe.training.fitting.out_of_fold import FILE, LAST_EPOCH, OutOfFold
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.network import Ensemble

FINAL = "ensemble of the folds' networks"
_OF_A_FOLD = frozenset({"training", "metrics", "weights_sha256", "files"})
"""Keys of `model.json` that may differ from fold to fold."""
_ALIKE = ("data_digest", "code_digest", "epochs_run")
"""Keys of `training` that must be the same in all folds."""


def join_folds(folders: Sequence[Path], target: Path) -> None:
    """Write the model directory of the ensemble of the folds' networks, with the out-of-fold logits of all folds.

    Args:
        folders: The model directories of all folds of one network, in any order.
        target: The model directory to write.

    Raises:
        ConfigError: A fold is missing or occurs twice, the folds differ in data, code or settings, or an image was held
            out twice.
    """
    loaded = {folder: model_directory.load(folder) for folder in folders}
    descriptions = {folder: model.description for folder, model in loaded.items()}
    _check_folds(descriptions, target.name)
    ordered = sorted(loaded, key=lambda folder: _stated(descriptions[folder])["fold"])
    columns, rows = _held_out(ordered, descriptions)
    if len({row["image_id"] for row in rows}) < len(rows):
        raise ConfigError(
            f"{target.name}: an image was held out in two folds; all folds must use the same assignment of images"
        )
    write_csv(target / FILE, columns, rows)
    found = [descriptions[folder] for folder in ordered]
    network = Ensemble([loaded[folder].network for folder in ordered])
    model_directory.save(target, network, _described(found, len(rows), sha256(target / FILE)))


def _stated(description: Mapping[str, Any]) -> Mapping[str, Any]:
    stated: Mapping[str, Any] = description["training"].get("cross_validation", {})
    return stated


def _settings(description: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in description["training"]["hyperparameters"].items() if key != "fold"}


def _check_folds(found: Mapping[Path, Mapping[str, Any]], name: str) -> None:
    numbers = sorted(_stated(description).get("fold", -1) for description in found.values())
    first = next(iter(found.values()))
    folds = _stated(first).get("folds", 0)
    if numbers != list(range(folds)):
        raise ConfigError(f"{name}: models of the folds {numbers}; there must be one model of each of {folds} folds")
    for folder, description in found.items():
        differs = [key for key in first if key not in _OF_A_FOLD and description.get(key) != first[key]]
        differs += [f"training.{key}" for key in _ALIKE if description["training"][key] != first["training"][key]]
        differs += ["hyperparameters"] if _settings(description) != _settings(first) else []
        if differs:
            raise ConfigError(f"{name}: {folder.name} differs from the other folds in {', '.join(differs)}")


def _held_out(
    folders: Sequence[Path], descriptions: Mapping[Path, Mapping[str, Any]]
) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and the rows of the folds' out-of-fold logits, fold by fold, as in their files."""
    columns: list[str] = []
    rows: list[dict[str, str]] = []
    for folder in folders:
        OutOfFold.read(folder, descriptions[folder])  # refuses a missing, altered or foreign file
        with (folder / FILE).open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            rows += reader
    return columns, rows


def _described(found: Sequence[Mapping[str, Any]], images: int, digest: str) -> dict[str, Any]:
    first, training = found[0], [description["training"] for description in found]
    epochs = zip(*(part["history"] for part in training), strict=True)
    return {
        **first,
        "ensemble": len(found),
        "training": {
            **training[0],
            "hyperparameters": {**training[0]["hyperparameters"], "fold": -1},
            "history": [{key: fmean(fold[key] for fold in epoch) for key in epoch[0]} for epoch in epochs],
            "seconds": round(sum(part["seconds"] for part in training), 3),
            "cross_validation": {
                "folds": len(found),
                "films": images,
                "fold_best_epochs": [part["best_epoch"] for part in training],
                "epoch_rule": LAST_EPOCH,
                "final": FINAL,
                "refit_losses": [],
                "file": FILE,
                "sha256": digest,
            },
        },
        "metrics": {key: fmean(description["metrics"][key] for description in found) for key in first["metrics"]},
    }
