"""Divides images into training, validation and test, by patient and before any pixel is read.

The other protocols of `mammopipe.processing.datasets.manifest.SplitProtocol` divide by other units; they exist for
comparison.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split, SplitProtocol
from mammopipe.processing.datasets.registry import same_breast
from mammopipe.processing.errors import ConfigError, LabelError

Unit = tuple[str, str]
"""Dataset and name of a unit that is never divided: a patient, or under other protocols an original or an image."""
Place = tuple[Split, int | None]
"""A unit's split and fold; the fold is `None` for the test split."""
Placed = TypeVar("Placed")


@dataclass(frozen=True)
class SplitConfig:
    """How patients are divided: first into test set and development set, then the development set into folds."""

    test_fraction: float = 0.2
    """Share of each stratum's patients in the test set."""
    folds: int = 5
    """Number of folds of the development set."""
    validation_fold: int = 0
    """The fold that becomes the validation split; the other folds become the training split."""
    seed: int = 0
    """Seed of the division; another seed gives another test set, too."""

    def __post_init__(self) -> None:
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"test_fraction={self.test_fraction} must lie between 0 and 1")
        if self.folds < 2:
            raise ConfigError(f"folds={self.folds} must be at least 2: one validates, the others train")
        if not 0 <= self.validation_fold < self.folds:
            raise ConfigError(
                f"validation_fold={self.validation_fold} must be one of 0 to {self.folds - 1} (folds={self.folds})"
            )


def assign_splits(
    records: Iterable[ImageRecord],
    config: SplitConfig | None = None,
    protocol: SplitProtocol = SplitProtocol.PATIENT,
) -> list[ImageRecord]:
    """Return the records with `split` and `fold` set, in unchanged order.

    Units (patients, by the default protocol) are stratified by their worst label and ordered by a hash of seed and id.
    So the division depends only on the label table and is the same on every machine. Patients who are known to show one
    breast (`Dataset.same_breast`) share split and fold.

    Args:
        records: The images; under the protocol `published`, originals and copies.
        config: How to divide.
        protocol: Which images form a unit.
    """
    config = config or SplitConfig()
    records = list(records)
    units = [protocol.unit(record) for record in records]
    places = _places(_worst_labels(records, units), config)
    return [record.placed(*places[unit]) for record, unit in zip(records, units, strict=True)]


def states_splits(records: Sequence[ImageRecord]) -> bool:
    """Return whether the label table states the splits; raises `LabelError` if only some of the images have one."""
    stated = sum(record.split is not None for record in records)
    if stated not in (0, len(records)):
        raise LabelError(f"{stated} of {len(records)} images have a split; give one for all of them or for none")
    return stated > 0


def keep_splits(records: Sequence[ImageRecord], config: SplitConfig) -> list[ImageRecord]:
    """Return the records with the splits that their table states, and with folds of the development set.

    If the table has no validation split, the validation fold of its training images becomes the validation split.
    Raises `LabelError` if a patient is in two splits, or if a required split has no image.
    """
    of_patient: dict[Unit, Split | None] = {}
    for record in records:
        unit = _leader(SplitProtocol.PATIENT.unit(record))
        if of_patient.setdefault(unit, record.split) is not record.split:
            other = "" if unit[1] == record.patient_id else f", who shows a breast of patient {unit[1]},"
            raise LabelError(
                f"image {record.image_id}: the table puts its patient{other} in the splits {record.split} and "
                f"{of_patient[unit]}; all images of a patient belong to one split"
            )
    for split in (Split.TRAIN, Split.TEST):
        if not any(record.split is split for record in records):
            raise LabelError(f"the table's split column has no image in {split}")
    validates = any(record.split is Split.VALIDATION for record in records)
    folds = [fold for fold in range(config.folds) if not validates or fold != config.validation_fold]
    training = [record for record in records if record.split is Split.TRAIN]
    dealt = assign_folds(training, len(folds), seed=config.seed, protocol=SplitProtocol.PATIENT)
    fold_of = {record.image_id: folds[fold] for record, fold in zip(training, dealt, strict=True)}

    def place(record: ImageRecord) -> ImageRecord:
        if record.split is Split.TEST:
            return record.placed(Split.TEST, None)
        fold = fold_of.get(record.image_id, config.validation_fold)
        return record.placed(Split.VALIDATION if fold == config.validation_fold else Split.TRAIN, fold)

    return [place(record) for record in records]


def assign_folds(records: Sequence[ImageRecord], folds: int, *, seed: int, protocol: SplitProtocol) -> list[int]:
    """Return, for each record of the development set, the fold that holds it out, 0 to `folds` - 1.

    Images of one unit share a fold; except under `published`, so do an original and its copies. With the seed and the
    number of folds of `SplitConfig`, the result is the manifest's folds.
    """
    units = [protocol.unit(record) for record in records]
    worst = _worst_labels(records, units)
    order = [unit for label in Label for unit in _ordered(worst, label, seed)]
    fold_of = _together({unit: place % folds for place, unit in enumerate(order)})
    return [fold_of[unit] for unit in units]


def _worst_labels(records: Sequence[ImageRecord], units: Sequence[Unit]) -> dict[Unit, Label]:
    worst: dict[Unit, Label] = {}
    for record, unit in zip(records, units, strict=True):
        known = worst.get(unit)
        # Labels of one rank (normal, negative) are ordered by name, so that the order of the rows does not matter.
        if known is None or (record.label.rank, record.label) > (known.rank, known):
            worst[unit] = record.label
    return worst


def _places(worst: Mapping[Unit, Label], config: SplitConfig) -> dict[Unit, Place]:
    places: dict[Unit, Place] = {}
    dealt = 0
    for label in Label:
        units = _ordered(worst, label, config.seed)
        tested = round(len(units) * config.test_fraction)
        if not tested and len(units) > config.folds:
            tested = 1  # A rare class is tested, too, if one of its patients is left for every fold.
        for unit in units[:tested]:
            places[unit] = (Split.TEST, None)
        for unit in units[tested:]:
            fold = dealt % config.folds
            # Deal all strata in one sequence, so that the sizes of the folds differ by at most one patient.
            dealt += 1
            places[unit] = (Split.VALIDATION if fold == config.validation_fold else Split.TRAIN, fold)
    return _together(places)


def _leader(unit: Unit) -> Unit:
    """Return the unit whose split and fold a unit shares: that of the same breast if the release lists it twice."""
    return unit[0], same_breast(*unit)


def _together(place_of: Mapping[Unit, Placed]) -> dict[Unit, Placed]:
    """Return the places; a breast that is listed under two patients gets one place, and no other unit moves."""
    return {unit: place_of.get(_leader(unit), place) for unit, place in place_of.items()}


def _ordered(worst: Mapping[Unit, Label], label: Label, seed: int) -> list[Unit]:
    """Return the units of a label in a pseudo-random order that is the same on every machine."""
    units = (unit for unit, worst_label in worst.items() if worst_label is label)
    return sorted(units, key=lambda unit: hashlib.sha256(f"{seed}/{unit[0]}/{unit[1]}".encode()).hexdigest())
