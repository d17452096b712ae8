"""Reads the inputs of the evaluation job: the folder of segmented images and one trained model per candidate."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import torch

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.classes import TWO, Classes, Question, class_indices, class_of, classes_of, counted_labels
from mammopipe.processing.datasets.manifest import (
    ImageRecord,
    Split,
    SplitProtocol,
    breast_id,
    read_manifest,
    stated_protocol,
)
from mammopipe.processing.errors import ConfigError, ManifestError
from mammopipe.processing.files import read_json
from mammopipe.training.evaluation.batch_prediction import folded
from mammopipe.training.evaluation.fold_ensemble import join_folds
from mammopipe.training.fitting.dataset import learnt
from mammopipe.training.fitting.out_of_fold import OutOfFold
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.archive import unpack
from mammopipe.training.model.views.breasts import breasts_of
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.model_directory import LoadedModel

FOLD = "fold-"
"""Prefix of the name of a fold's folder."""


@dataclass(frozen=True)
class SegmentedData:
    """The output of the Segment job: images of all splits, their manifest, and `stage.json`."""

    folder: Path
    records: tuple[ImageRecord, ...]
    """Originals of every split and the training copies, sorted by image id."""
    stage: Mapping[str, Any]
    """`stage.json`. With several hosts, their common configuration, and each host's file under `parts`."""
    out_of_fold: Mapping[str, OutOfFold] = field(default_factory=dict)
    """Out-of-fold predictions of each candidate, if cross-validated. Validation is then the whole development set."""
    question: Question = Question.CLASSES
    """Which classes the candidates predict: those of the dataset, or malignant or not."""
    level: Level = Level.IMAGE
    """What the candidates judge: images, or breasts by all their views."""

    @cached_property
    def classes(self) -> Classes:
        """The classes that the candidates predict.

        Raises:
            LabelError: The images are of one class.
        """
        return classes_of((record.label for record in self.records), self.question, where=str(self.folder))

    def asked_as(self, models: Mapping[str, LoadedModel]) -> "SegmentedData":
        """Return the data with the models' question and level.

        Raises:
            ConfigError: The models differ in classes or level, or their classes are not those of the data.
        """
        levels = {model.level: name for name, model in models.items()}
        if len(levels) > 1:
            stated = "; ".join(f"{name} {level}" for level, name in levels.items())
            raise ConfigError(f"candidates that judge images and breasts cannot be compared: {stated}")
        found = {model.classes: name for name, model in models.items()}
        if len(found) > 1:
            stated = "; ".join(f"{name} {', '.join(classes)}" for classes, name in found.items())
            raise ConfigError(f"candidates of different classes cannot be compared: {stated}")
        classes = next(iter(found))
        question = Question.BINARY if classes == TWO else Question.CLASSES
        data = replace(self, question=question, level=next(iter(levels)))
        if classes != data.classes:
            raise ConfigError(
                f"{found[classes]}: classes {', '.join(classes)}; the images of {self.folder} have the classes "
                f"{', '.join(data.classes)}"
            )
        return data

    @classmethod
    def read(cls, folder: Path) -> "SegmentedData":
        """Read the data of a folder.

        Raises:
            ManifestError: The manifest is missing or invalid.
            ConfigError: `stage.json` is missing, invalid or contradictory.
        """
        stage = read_stage(folder)
        return cls(folder, tuple(read_manifest(folder, _protocol(stage, folder))), stage)

    @property
    def protocol(self) -> SplitProtocol:
        """The split protocol, which defines which images must be in the same split."""
        return _protocol(self.stage, self.folder)

    def with_out_of_fold(self, found: Mapping[str, OutOfFold | None]) -> "SegmentedData":
        """Return the data with the candidates' out-of-fold predictions.

        Raises:
            ConfigError: Some but not all candidates were cross-validated.
        """
        held = {name: item for name, item in found.items() if item is not None}
        if held and len(held) < len(found):
            raise ConfigError(
                f"{', '.join(sorted(held))} of {', '.join(sorted(found))} were cross-validated; "
                f"candidates are compared on the same images, so cross-validate all or none"
            )
        rows = replace(self, out_of_fold=held).judged(Split.VALIDATION) if held else ()
        return replace(self, out_of_fold={name: item.of(rows) for name, item in held.items()})

    def require_alone(self, other_breast: float) -> None:
        """Raise `ConfigError` if breasts should be compared (`other_breast`) but the models already judge breasts."""
        if other_breast and self.level is Level.BREAST:
            raise ConfigError(
                f"--other-breast={other_breast} must be 0 for models that judge breasts: such models learn the "
                "comparison themselves (hyperparameter other_side)"
            )

    @property
    def fold_names(self) -> dict[str, str]:
        """The fold of each development image by its id; if candidates or deals have different folds, all of them."""
        folds: dict[str, list[str]] = defaultdict(list)
        for held in self.out_of_fold.values():
            for deal in held.each_deal:
                for image_id, fold in zip(deal.image_ids, deal.folds.tolist(), strict=True):
                    folds[image_id].append(str(fold))
        return {
            image_id: f"fold {numbers[0]}" if len(set(numbers)) == 1 else f"folds {'/'.join(numbers)}"
            for image_id, numbers in folds.items()
        }

    @property
    def preprocess(self) -> PreprocessConfig:
        """The preprocessing that made these images from the originals."""
        return PreprocessConfig.from_json(self.stage["config"]["preprocess"])

    @property
    def dataset(self) -> str:
        """The name of the dataset, or of all of them joined by `+`."""
        return "+".join(sorted({str(record.dataset) for record in self.records}))

    @property
    def synthetic(self) -> bool:
        """Whether any image is synthetic; the metrics then say nothing about mammograms."""
        return any(record.synthetic for record in self.records)

    def image_folder(self, split: Split) -> Path:
        """Return the folder with the images of a split."""
        return self.folder / "images" / str(split)

    def originals(self, split: Split) -> tuple[ImageRecord, ...]:
        """Return the rows of a split without augmented copies."""
        return tuple(record for record in self.records if record.split is split and not record.source_image_id)

    def pictures(self, split: Split) -> tuple[ImageRecord, ...]:
        """Return the rows of a split, including augmented copies."""
        return tuple(record for record in self.records if record.split is split)

    def judged(self, split: Split) -> tuple[ImageRecord, ...]:
        """Return the rows on which a split's metrics are computed: those of `images`, or one for each breast."""
        return self.cases(self.images(split))

    def cases(self, images: tuple[ImageRecord, ...]) -> tuple[ImageRecord, ...]:
        """Return the images; with `Level.BREAST`, one row for each breast that they show."""
        if self.level is Level.IMAGE:
            return images
        return tuple(breast.record for breast in breasts_of(images, self.classes, other_side=False))

    def images(self, split: Split) -> tuple[ImageRecord, ...]:
        """Return the rows of the images that are judged in a split.

        For cross-validated candidates, validation is the development set. With the protocol `published`, copies are
        evaluated like originals. Validation must have an image of each class, because calibration, thresholds and
        selection depend on it.

        Raises:
            ManifestError: There is no row, or validation lacks a class.
        """
        parts = (Split.TRAIN, Split.VALIDATION) if self.out_of_fold and split is Split.VALIDATION else (split,)
        kept = self.pictures if self.protocol is SplitProtocol.PUBLISHED else self.originals
        records = tuple(chain.from_iterable(map(kept, parts)))
        present = set(class_indices(records, self.classes).tolist())
        missing = [str(label) for index, label in enumerate(self.classes) if index not in present]
        if not records or (split is Split.VALIDATION and missing):
            raise ManifestError(
                f"{self.folder}: split={split} has no {' and no '.join(missing)} image among its "
                f"{len(records)}; evaluation needs one of each class in validation, and any in test"
            )
        return records

    @property
    def learnt(self) -> tuple[ImageRecord, ...]:
        """All rows except the augmented copies that training jobs leave out."""
        return tuple(learnt(self.records, cross_validated=bool(self.out_of_fold), protocol=self.protocol))

    def in_folders(self, rows: Sequence[ImageRecord]) -> list[tuple[list[ImageRecord], Path]]:
        """Return consecutive rows of the same folder together with that folder; the order of the rows stays."""
        grouped = [(split, list(members)) for split, members in groupby(rows, key=lambda record: record.split)]
        return [(members, self.image_folder(split)) for split, members in grouped if split is not None]

    def labels(self) -> dict[str, int]:
        """Return the number of originals of each label in the dataset's table, over all splits."""
        found = Counter(record.label for record in self.records if not record.source_image_id)
        return {str(label): found[label] for label in counted_labels(found)}

    def counts(self) -> dict[str, dict[str, int]]:
        """Return, for each split, the numbers of originals, patients, originals of each class, and copies."""
        return {str(split): self._count(split) for split in Split}

    def _count(self, split: Split) -> dict[str, int]:
        records = self.originals(split)
        of_class = Counter(class_of(record.label, self.classes) for record in records)
        # Two datasets may use the same patient id for different patients.
        patients = len({(record.dataset, record.patient_id) for record in records})
        copies = sum(record.split is split for record in self.records) - len(records)
        breasts = {"breasts": len(set(map(breast_id, records)))} if self.level is Level.BREAST else {}
        return {
            "images": len(records),
            **breasts,
            "patients": patients,
            **{str(label): of_class[label] for label in self.classes},
            "copies": copies,
        }


def _protocol(stage: Mapping[str, Any], folder: Path) -> SplitProtocol:
    return stated_protocol(stage["config"], where=f"{folder}: stage.json")


def read_stage(folder: Path) -> dict[str, Any]:
    """Return `stage.json`, or the common configuration of the files of several hosts.

    Raises:
        ConfigError: No file is found, a file is invalid, or the files disagree.
    """
    paths = sorted(folder.glob("stage*.json"))
    if not paths:
        raise ConfigError(f"{folder}: no stage.json and no stage-<host>.json here")
    parts = {path: read_json(path) for path in paths}
    for path, part in parts.items():
        if not isinstance(part.get("config"), dict) or "preprocess" not in part["config"]:
            raise ConfigError(f"{path}: config.preprocess is missing; only the Segment job's output can be evaluated")
        if part["config"] != parts[paths[0]]["config"]:
            raise ConfigError(f"{path}: config differs from that of {paths[0].name}; one run has one configuration")
    if len(paths) == 1:
        return parts[paths[0]]
    first = parts[paths[0]]
    return {"stage": first.get("stage"), "config": first["config"], "parts": {path.stem: parts[path] for path in paths}}


def read_candidates(folder: Path, scratch: Path, preprocess: PreprocessConfig) -> dict[str, LoadedModel]:
    """Load the models of `<folder>/<cnn>/model.tar.gz` and the ensembles of `<folder>/<cnn>/fold-*/model.tar.gz`.

    Their batch normalisations are folded into the convolutions for faster inference (`folded`).

    Args:
        folder: Folder of the archives.
        scratch: Folder to unpack the archives in, as `<scratch>/<cnn>`.
        preprocess: Preprocessing of the images; the models must use the same.

    Returns:
        The models by name.

    Raises:
        ConfigError: There is no model, one is damaged, or one has other preprocessing.
    """
    archives = {archive.parent.name: [archive] for archive in folder.glob("*/model.tar.gz")}
    for fold in sorted(folder.glob(f"*/{FOLD}*/model.tar.gz")):
        archives.setdefault(fold.parents[1].name, []).append(fold)
    if not archives:
        raise ConfigError(f"{folder}: no <cnn>/model.tar.gz here; there is nothing to evaluate")
    models = {}
    for name, found in sorted(archives.items()):
        _unpack_candidate(found, scratch / name)
        model = model_directory.load(scratch / name)
        _check_fit(found[0], model.preprocess, preprocess)
        # The format of training; depthwise convolutions are faster in it.
        model.network.to(memory_format=torch.channels_last)
        # A generator of its own, so that the probe does not change the job's random numbers.
        probe = torch.rand(1, 1, *model.input_shape, generator=torch.Generator().manual_seed(0))
        models[name] = replace(model, network=folded(model.network, probe))
    return models


def _unpack_candidate(archives: Sequence[Path], target: Path) -> None:
    """Unpack the archive of a network, or join those of its folds, into the folder `target`."""
    of_folds = [archive for archive in archives if archive.parents[1].name == target.name]
    if not of_folds:
        unpack(archives[0], target)
        return
    if len(of_folds) < len(archives):
        raise ConfigError(
            f"{archives[0]}: a complete model next to the models of {len(of_folds)} folds; keep either the complete "
            "model or the folds"
        )
    # A hidden folder, because `target` itself becomes the model directory of the ensemble.
    folders = [target.with_name(f".{target.name}") / archive.parent.name for archive in archives]
    for archive, folder in zip(archives, folders, strict=True):
        unpack(archive, folder)
    join_folds(folders, target)
    shutil.rmtree(folders[0].parent)


def _check_fit(archive: Path, trained: PreprocessConfig, given: PreprocessConfig) -> None:
    if trained != given:
        raise ConfigError(
            f"{archive}: preprocess digest {trained.digest} is not that of the images, {given.digest}; "
            f"a model must be evaluated on images with the same preprocessing as in its training"
        )
