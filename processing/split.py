"""Which image may be used for what: split by patient before any pixel is touched."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from processing.errors import ConfigError
from processing.leakage import Finding, LeakageReport, audit_leakage
from processing.records import ImageRecord, Label, Split

__all__ = ["Finding", "LeakageReport", "SplitConfig", "assign_splits", "audit_leakage"]

Place = tuple[Split, int | None]
"""A patient's split, and fold when it is not the test."""


@dataclass(frozen=True)
class SplitConfig:
    """How patients are divided. The frozen test set comes first; the rest, the development set, is cut into folds."""

    test_fraction: float = 0.2
    """Share of each stratum's patients that is kept for the test."""
    folds: int = 5
    """Number of folds of the development set."""
    validation_fold: int = 0
    """The fold that is the validation split; the others train."""
    seed: int = 0
    """Another seed gives another division, and so another test set."""

    def __post_init__(self) -> None:
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"test_fraction={self.test_fraction} must lie between 0 and 1")
        if self.folds < 2:
            raise ConfigError(f"folds={self.folds} must be at least 2: one validates, the others train")
        if not 0 <= self.validation_fold < self.folds:
            raise ConfigError(
                f"validation_fold={self.validation_fold} must be one of 0 to {self.folds - 1} (folds={self.folds})"
            )


def assign_splits(records: Iterable[ImageRecord], config: SplitConfig | None = None) -> list[ImageRecord]:
    """Return the records with `split` and `fold` set, in their order.

    All images of a patient go together. Patients are stratified by their worst label and ordered by a hash of seed and
    patient id, so the division depends on the label table alone and is the same on every machine.
    """
    config = config or SplitConfig()
    records = list(records)
    places = _places(_worst_labels(records), config)
    return [record.placed(*places[_patient(record)]) for record in records]


def _patient(record: ImageRecord) -> tuple[str, str]:
    return str(record.dataset), record.patient_id


def _worst_labels(records: Sequence[ImageRecord]) -> dict[tuple[str, str], Label]:
    worst: dict[tuple[str, str], Label] = {}
    for record in records:
        patient = _patient(record)
        known = worst.get(patient)
        if known is None or record.label.rank > known.rank:
            worst[patient] = record.label
    return worst


def _places(worst: dict[tuple[str, str], Label], config: SplitConfig) -> dict[tuple[str, str], Place]:
    places: dict[tuple[str, str], Place] = {}
    dealt = 0
    for label in Label:
        patients = sorted(
            (patient for patient, worst_label in worst.items() if worst_label is label),
            key=lambda patient: _order(patient, config.seed),
        )
        tested = round(len(patients) * config.test_fraction)
        if patients and not tested and len(patients) > config.folds:
            tested = 1
        for patient in patients[:tested]:
            places[patient] = (Split.TEST, None)
        for patient in patients[tested:]:
            fold = dealt % config.folds
            # One deal over all strata, so that the folds' sizes differ by one patient at the most.
            dealt += 1
            places[patient] = (Split.VALIDATION if fold == config.validation_fold else Split.TRAIN, fold)
    return places


def _order(patient: tuple[str, str], seed: int) -> str:
    return hashlib.sha256(f"{seed}/{patient[0]}/{patient[1]}".encode()).hexdigest()
