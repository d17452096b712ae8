"""Checks a dataset before a run starts: reports what is present, what is missing, and what a run would refuse."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.processing.classes import Question, class_of, classes_of
from mammopipe.processing.datasets.definition import MAX_REFUSED, LabelTable
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split, SplitProtocol
from mammopipe.processing.errors import ImageError, LabelError
from mammopipe.processing.read_config import Phi, ReadConfig
from mammopipe.processing.splits.assignment import (
    SplitConfig,
    assign_folds,
    assign_splits,
    keep_splits,
    states_splits,
)

BURNT_IN = "BurnedInAnnotation"
"""The DICOM attribute that says that the pixels contain text that identifies the patient (0028,0301)."""


@dataclass(frozen=True)
class DatasetCheck:
    """The results of a check of a dataset."""

    images: int
    patients: int
    labels: Mapping[str, int]
    sides: Mapping[str, int]
    views: Mapping[str, int]
    splits: Mapping[str, int]
    densities: Mapping[str, int]
    """Breast densities in the words of the table; `unknown` without one."""
    findings: Mapping[str, int]
    """Kinds of lesions in the words of the table."""
    lesions: int
    missing: Mapping[str, int]
    """Number of images without a value, by field name."""
    refused: Sequence[str]
    """The images that a run would refuse; one sentence per image."""
    duplicates: Sequence[tuple[str, ...]]
    """Images whose files are identical byte by byte."""
    synthetic: int
    classes: Sequence[str] = ()
    """The classes that a network would tell apart; empty if the labels allow none."""
    notes: Sequence[str] = ()
    """What the user should look at, although a run can succeed."""
    problems: Sequence[str] = field(default_factory=list)
    """The reasons why a run could not succeed."""

    def as_dict(self) -> dict[str, Any]:
        """Return the results as JSON values."""
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}


def check_dataset(table: LabelTable, images: Path, config: PipelineConfig, *, read: bool = True) -> DatasetCheck:
    """Return the contents and problems of a label table and its images.

    Args:
        table: The label table.
        images: Folder that the records' paths are relative to.
        config: The configuration of a run on them.
        read: Whether to read each image; otherwise only its existence is checked.
    """
    data, split, question = config.data, config.data.split, config.training.question
    records = table.records
    rows = [reason for _, reason in table.refused]
    reading = ReadConfig(jpeg_files=True, for_processing=data.for_processing) if read else None
    files = [reason for record in records if (reason := _refusal(record, images, data.phi, reading))]
    duplicates = _duplicates(records, images)
    # The same rules, in the same order, as the jobs of a run apply: a dataset that passes here is not refused later.
    return DatasetCheck(
        images=len(records),
        patients=len({record.patient_id for record in records}),
        labels=_count(record.label for record in records),
        sides=_count(record.laterality for record in records),
        views=_count(record.view for record in records),
        splits=_count(record.split for record in records),
        densities=_count(record.density for record in records if record.density),
        findings=_count(record.finding for record in records if record.finding),
        lesions=sum(len(record.lesions) for record in records),
        missing=_missing(records),
        refused=rows + files,
        duplicates=duplicates,
        synthetic=sum(record.synthetic for record in records),
        classes=_classes(records, question),
        notes=list(_notes(records)),
        problems=[
            *_too_many(len(rows), len(records) + len(rows), MAX_REFUSED, "rows cannot be used"),
            *_too_many(
                len(rows) + len(files), len(records) + len(rows), data.max_quarantine, "images would be refused"
            ),
            *problems(records, split, question, config.training.folds),
            *_divided(records, split, duplicates),
        ],
    )


def _too_many(count: int, whole: int, share: float, what: str) -> Iterator[str]:
    if count > share * whole:
        yield f"{count} of {whole} {what}, more than {share:.0%}"


def _notes(records: Sequence[ImageRecord]) -> Iterator[str]:
    sites: dict[str, set[str]] = {}
    for record in records:
        sites.setdefault(record.patient_id, set()).add(record.site_id)
    several = sorted(patient for patient, names in sites.items() if len(names) > 1)
    if several:
        yield (
            f"{len(several)} patients have images of several sites, such as {several[0]}; if each site numbers its own "
            "patients, include the site in the patient id: otherwise different women count as one"
        )


def _divided(records: Sequence[ImageRecord], split: SplitConfig, groups: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield each group of identical files that the split would divide; the leakage audit of a run would find them."""
    if not groups:
        return
    try:
        placed = keep_splits(records, split) if states_splits(records) else assign_splits(records, split)
    except LabelError:
        return  # `problems` reports it
    places = {record.path: str(record.split) for record in placed}
    for group in groups:
        if len({places[name] for name in group}) > 1:
            where = ", ".join(f"{name} ({places[name]})" for name in group)
            yield f"{where} are the same image in different splits; the leakage audit would refuse the run"


def _classes(records: Sequence[ImageRecord], question: Question) -> Sequence[str]:
    try:
        return [str(label) for label in classes_of((record.label for record in records), question, where="table")]
    except LabelError:
        return []


def problems(
    records: Sequence[ImageRecord], split: SplitConfig, question: Question = Question.CLASSES, folds: int = 0
) -> Iterator[str]:
    """Yield the problems in the table that would make a run fail; uses the same split as Prepare."""
    try:
        placed = keep_splits(records, split) if states_splits(records) else assign_splits(records, split)
        classes = classes_of((record.label for record in records), question, where=f"{len(records)} images")
    except LabelError as error:
        yield str(error)
        return
    patients: dict[Label, set[str]] = {}
    for record in records:
        patients.setdefault(class_of(record.label, classes), set()).add(record.patient_id)
    for part in Split:
        present = {class_of(record.label, classes) for record in placed if record.split is part}
        lacking = [label for label in classes if label not in present]
        if lacking:
            shown = ", ".join(f"{label} (of {len(patients.get(label, ()))} patients)" for label in lacking)
            yield f"split {part} would have no image of class {shown}; each split needs every class"
    if folds:
        yield from _fold_problems(
            [record for record in placed if record.split is not Split.TEST], split, classes, folds
        )


def _fold_problems(
    records: Sequence[ImageRecord], split: SplitConfig, classes: Sequence[Label], folds: int
) -> Iterator[str]:
    """Yield the folds of a cross-validation that lack a class; uses the same folds as training."""
    assigned = assign_folds(records, folds, seed=split.seed, protocol=SplitProtocol.PATIENT)
    present: dict[int, set[Label]] = {fold: set() for fold in range(folds)}
    for record, fold in zip(records, assigned, strict=True):
        present[fold].add(class_of(record.label, classes))
    lacking = {fold: [str(label) for label in classes if label not in found] for fold, found in present.items()}
    texts = [f"fold {fold} would have no {' and no '.join(names)}" for fold, names in lacking.items() if names]
    if texts:
        shown = ", ".join(texts[:3]) + (f" and {len(texts) - 3} more folds" if len(texts) > 3 else "")
        yield (
            f"training.folds={folds}: each fold needs an image of every class; of {len(records)} images, {shown}; "
            "choose fewer folds"
        )


def require_trainable(
    records: Sequence[ImageRecord],
    split: SplitConfig,
    *,
    where: str,
    question: Question = Question.CLASSES,
    folds: int = 0,
) -> None:
    """Raise `LabelError`, with all reasons, if a run on these images could not succeed."""
    found = list(problems(records, split, question, folds))
    if found:
        raise LabelError(f"{where}: {'; '.join(found)}")


def _count(values: Any) -> dict[str, int]:
    return {str(value): number for value, number in sorted(Counter(str(v or "unknown") for v in values).items())}


def _missing(records: Sequence[ImageRecord]) -> dict[str, int]:
    names = ("laterality", "view", "age", "density", "machine_id", "site_id", "pixel_spacing_mm")
    empty = {name: sum(getattr(record, name) in (None, "") for record in records) for name in names}
    return {name: number for name, number in empty.items() if number}


def _refusal(record: ImageRecord, images: Path, phi: Phi, reading: ReadConfig | None) -> str:
    """Return why Prepare would refuse the image, or an empty text; without `reading` only its existence is checked."""
    path = images / record.path
    if not path.is_file():
        return f"{record.path}: no such file in {images}"
    if reading is None:
        return ""
    from mammopipe.processing.images.mammogram import identity_fields, read_mammogram

    try:
        named = identity_fields(path)
        mammogram = read_mammogram(path, record=record, config=reading)
    except ImageError as error:
        return str(error)
    rows, columns = mammogram.pixels.shape
    outside = [lesion for lesion in record.lesions if not (0 <= lesion.x < columns and 0 <= lesion.y < rows)]
    if outside:
        return (
            f"{record.path}: a lesion at x={outside[0].x:g}, y={outside[0].y:g} lies outside {rows} x {columns} pixels"
        )
    # Removing the header does not remove text burnt into the pixels.
    kept = [name for name in named if phi is Phi.REFUSE or name == BURNT_IN]
    hint = " (data.phi=drop reads the image without its header)" if kept and BURNT_IN not in kept else ""
    return f"{record.path}: {', '.join(kept)} must be empty with data.phi={phi}{hint}" if kept else ""


def _duplicates(records: Sequence[ImageRecord], images: Path) -> list[tuple[str, ...]]:
    # Only files of equal size can be equal, so most files need not be read.
    sizes: dict[int, list[Path]] = {}
    for record in records:
        path = images / record.path
        if path.is_file():
            sizes.setdefault(path.stat().st_size, []).append(path)
    equal: dict[str, list[str]] = {}
    for paths in sizes.values():
        for path in paths if len(paths) > 1 else ():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            equal.setdefault(digest, []).append(path.relative_to(images).as_posix())
    return [tuple(names) for names in equal.values() if len(names) > 1]
