"""The result of a cross-validation: its progress, and its out-of-fold predictions, which this module reads and writes.

For each development image, these predictions hold the logits of a network that was not trained on the image.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mammopipe.processing.classes import class_indices, classes_of_number
from mammopipe.processing.datasets.manifest import ImageRecord, breast_id
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256, write_csv
from mammopipe.training.config import Final
from mammopipe.training.fitting.run import TrainingProgress
from mammopipe.training.fitting.step import EpochResult
from mammopipe.training.model.description import DESCRIPTION_FILE, verify
from mammopipe.training.model.predictions import Floats, Integers, ValidationPredictions

FILE = "out_of_fold.csv"
LAST_EPOCH = "the last of every fold"
_RULES: Mapping[Final, Mapping[str, str]] = {
    Final.REFIT: {"epoch_rule": "median of the folds' best", "final": "refit on all development films"},
    Final.MEAN: {"epoch_rule": LAST_EPOCH, "final": "mean of the folds' weights"},
}


@dataclass(frozen=True)
class OutOfFold:
    """The logits of each image from the network of the fold that held it out."""

    image_ids: tuple[str, ...]
    folds: Integers
    """(images,) fold numbers from 0."""
    logits: Floats
    """(images, classes); with several deals, their mean."""
    deals: tuple["OutOfFold", ...] = ()
    """With several deals, the logits of each; `folds` are then those of the first deal."""

    @classmethod
    def mean(cls, deals: Sequence["OutOfFold"]) -> "OutOfFold":
        """Return the mean of several deals; raises `ConfigError` unless they hold the same images."""
        first = deals[0]
        if any(deal.image_ids != first.image_ids for deal in deals):
            raise ConfigError(f"{FILE}: the deals hold different images, or the same images in different orders")
        return cls(first.image_ids, first.folds, np.mean([deal.logits for deal in deals], axis=0), tuple(deals))

    @property
    def each_deal(self) -> tuple["OutOfFold", ...]:
        """The deals; if there is only one, this object itself."""
        return self.deals or (self,)

    @classmethod
    def read(cls, directory: Path, description: Mapping[str, Any]) -> "OutOfFold | None":
        """Read the out-of-fold logits of a model directory; `None` for a model without cross-validation.

        Raises:
            ConfigError: The file is missing, altered, or not of this version.
        """
        stated = description["training"].get("cross_validation")
        if stated is None:
            return None
        path = directory / FILE
        verify(path, stated["sha256"], f"training.cross_validation.sha256 of {DESCRIPTION_FILE}")
        try:
            with path.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            names = _columns(description["classes"])
            found = [
                cls._of_rows([row for row in rows if int(row.get("deal", 0)) == deal], names)
                for deal in range(int(stated.get("deals", 1)))
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: not out-of-fold logits in the format of this version: {error}") from None
        return found[0] if len(found) == 1 else cls.mean(found)

    @classmethod
    def _of_rows(cls, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> "OutOfFold":
        logits = np.array([[float(row[name]) for name in names] for row in rows], np.float64)
        return cls(
            tuple(row["image_id"] for row in rows), np.array([int(row["fold"]) for row in rows], np.int64), logits
        )

    def of(self, records: Sequence[ImageRecord]) -> "OutOfFold":
        """Return the logits in the order of the records; raises `ConfigError` unless the images are the same."""
        place = {image_id: index for index, image_id in enumerate(self.image_ids)}
        names = tuple(record.image_id for record in records)
        if set(names) != set(place) or len(names) != len(self.image_ids):
            raise ConfigError(
                f"{FILE}: {len(place)} images, of which {len(set(names) & set(place))} are among the {len(names)} of "
                f"the development set; a cross-validated model is evaluated on exactly its own development images"
            )
        order = [place[name] for name in names]
        deals = tuple(deal.of(records) for deal in self.deals)
        return OutOfFold(names, self.folds[order], self.logits[order], deals)

    def predictions(self, records: Sequence[ImageRecord]) -> ValidationPredictions:
        """Return the logits as validation predictions, for calibration, thresholds and model selection."""
        labels = class_indices(records, classes_of_number(self.logits.shape[1]))
        return ValidationPredictions(
            self.image_ids,
            tuple(record.patient_id for record in records),
            tuple(breast_id(record) for record in records),
            labels,
            self.of(records).logits,
        )


def _columns(classes: Sequence[str]) -> list[str]:
    return [f"logit_{label}" for label in classes]


def write_out_of_fold(
    directory: Path, records: Sequence[ImageRecord], folds: npt.ArrayLike, logits: npt.NDArray[np.float32]
) -> str:
    """Write the logits and return the file's SHA-256; only image ids identify the images.

    Args:
        directory: The model directory.
        records: The held-out images.
        folds: (images,) fold numbers; with several deals, (deals, images).
        logits: (images, classes); with several deals, (deals, images, classes). Their rows have the column `deal`.
    """
    names = _columns(classes_of_number(logits.shape[-1]))
    several = logits.ndim == 3
    rows = [
        {
            **({"deal": str(deal)} if several else {}),
            "image_id": record.image_id,
            "fold": str(fold),
            # repr, because it reads back as exactly the same number; a rounded one would change the calibration.
            **{name: repr(float(value)) for name, value in zip(names, row, strict=True)},
        }
        for deal, (deal_folds, deal_logits) in enumerate(
            zip(np.atleast_2d(folds).tolist(), logits if several else logits[None], strict=True)
        )
        for record, fold, row in zip(records, deal_folds, deal_logits, strict=True)
    ]
    write_csv(directory / FILE, [*(["deal"] if several else []), "image_id", "fold", *names], rows)
    return sha256(directory / FILE)


@dataclass
class CrossValidated(TrainingProgress):
    """The combined progress of all folds.

    `history` holds the metrics over all held-out images for each epoch; `logits` holds those of the chosen epoch.
    """

    records: Sequence[ImageRecord] = ()
    """The held-out images, in the order of `folds` and of the rows of the logits."""
    folds: Sequence[int] = ()
    epoch: int = 0
    fold_epochs: Sequence[int] = ()
    """The best epoch of each fold."""
    final: Final = Final.REFIT
    """How the final network was made."""
    refit_losses: Sequence[float] = ()
    """Training loss of the final network for each epoch; empty for a mean."""
    sha256: str = ""
    """SHA-256 of the file with the logits."""
    deals: Sequence["CrossValidated"] = ()
    """With several deals, each of them; the metrics of `history` are then means over the deals."""

    @property
    def best_epoch(self) -> int:
        """The number of epochs of the final network."""
        return self.epoch

    def save(self, directory: Path) -> None:
        """Write the out-of-fold logits into the model directory."""
        if self.deals:
            folds, logits = ([deal.folds for deal in self.deals], np.stack([deal.logits[0] for deal in self.deals]))
            self.sha256 = write_out_of_fold(directory, self.records, folds, logits)
        else:
            self.sha256 = write_out_of_fold(directory, self.records, self.folds, self.logits[0])

    def described(self) -> dict[str, Any]:
        """Return further JSON values for `training` of `model.json`."""
        return {
            "cross_validation": {
                "folds": len(self.fold_epochs) // max(1, len(self.deals)),
                "deals": max(1, len(self.deals)),
                "films": len(self.records),
                "fold_best_epochs": list(self.fold_epochs),
                **_RULES[self.final],
                **({"final": f"mean of the weights of the folds of {len(self.deals)} deals"} if self.deals else {}),
                "refit_losses": list(self.refit_losses),
                "file": FILE,
                "sha256": self.sha256,
            }
        }


@dataclass
class OneFold(CrossValidated):
    """The result of a job that trains the network of one fold."""

    of: int = 0
    """Number of folds."""

    def described(self) -> dict[str, Any]:
        """Return further JSON values for `training` of `model.json`."""
        return {
            "cross_validation": {
                "folds": self.of,
                "fold": self.folds[0],
                "films": len(self.records),
                "epoch_rule": LAST_EPOCH,
                "final": "network of one fold",
                "file": FILE,
                "sha256": self.sha256,
            }
        }


def mean_of_deals(deals: Sequence[CrossValidated]) -> CrossValidated:
    """Return the combined progress of several deals; its metrics are means over the deals."""
    first = deals[0]
    # Several deals require `Final.MEAN`, with which every deal trains for all epochs.
    epochs = zip(*(deal.history for deal in deals), strict=True)
    history = [
        EpochResult(
            results[0].epoch,
            **{
                each.name: float(np.mean([getattr(result, each.name) for result in results]))
                for each in fields(EpochResult)
                if each.name not in ("epoch", "seconds")
            },
            seconds=round(sum(result.seconds for result in results), 3),
        )
        for results in epochs
    ]
    return replace(
        first,
        history=history,
        logits=[np.mean([deal.logits[0] for deal in deals], axis=0)],
        fold_epochs=[epoch for deal in deals for epoch in deal.fold_epochs],
        deals=deals,
    )
