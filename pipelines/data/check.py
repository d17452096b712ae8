"""A first look at a dataset before anything starts: what is there, what is missing, what will be refused."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mammopipe.processing.datasets.definition import Table
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split
from mammopipe.processing.errors import ImageError, LabelError

FEWEST_PATIENTS = 5
"""Patients of a class below which folds and a test split cannot all have one."""


@dataclass(frozen=True)
class Look:
    """What a first look found."""

    images: int
    patients: int
    labels: Mapping[str, int]
    sides: Mapping[str, int]
    views: Mapping[str, int]
    splits: Mapping[str, int]
    lesions: int
    missing: Mapping[str, int]
    """Images without a value, by the field's name."""
    refused: Sequence[str]
    """What will be refused, one sentence an image."""
    duplicates: Sequence[tuple[str, ...]]
    """Images whose files are equal byte by byte."""
    synthetic: int
    problems: Sequence[str] = field(default_factory=list)
    """What would keep a run from succeeding."""

    def as_dict(self) -> dict[str, Any]:
        """Return the look as JSON values."""
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}


def look(table: Table, images: Path, *, read: bool = True, folds: int = 5) -> Look:
    """Return what a label table and its images hold.

    Args:
        table: The label table.
        images: Folder that the records' paths are relative to.
        read: Whether each image is read, too; else only that it is there.
        folds: Folds that the development set will be divided into.
    """
    records = table.records
    refused = [reason for _, reason in table.refused]
    refused += [reason for record in records if (reason := _refusal(record, images, read=read))]
    return Look(
        images=len(records),
        patients=len({record.patient_id for record in records}),
        labels=_count(record.label for record in records),
        sides=_count(record.laterality for record in records),
        views=_count(record.view for record in records),
        splits=_count(record.split for record in records),
        lesions=sum(len(record.lesions) for record in records),
        missing=_missing(records),
        refused=refused,
        duplicates=_duplicates(records, images),
        synthetic=sum(record.synthetic for record in records),
        problems=list(problems(records, folds=folds)),
    )


def problems(records: Sequence[ImageRecord], *, folds: int) -> Iterator[str]:
    """Yield what the table alone shows would keep a run from succeeding."""
    patients: dict[Label, set[str]] = {}
    for record in records:
        patients.setdefault(record.label, set()).add(record.patient_id)
    for label in Label:
        found = len(patients.get(label, ()))
        if found < max(FEWEST_PATIENTS, folds + 1):
            yield (
                f"class {label}: {found} patients; a test split and {folds} folds need at least "
                f"{max(FEWEST_PATIENTS, folds + 1)} of each class"
            )
    stated = {record.split for record in records}
    if None in stated and len(stated) > 1:
        yield "some images have a split and some have none; give one for all of them or for none"
    if None not in stated:
        yield from _split_problems(records)


def _split_problems(records: Sequence[ImageRecord]) -> Iterator[str]:
    splits: dict[str, set[Split | None]] = {}
    for record in records:
        splits.setdefault(record.patient_id, set()).add(record.split)
    crossing = sum(len(found) > 1 for found in splits.values())
    if crossing:
        yield f"{crossing} patients are in more than one split; all images of a patient belong to one"
    for split in (Split.TRAIN, Split.TEST):
        labels = {record.label for record in records if record.split is split}
        lacking = [str(label) for label in Label if label not in labels]
        if lacking:
            yield f"split {split} has no image of class {', '.join(lacking)}"


def require_trainable(records: Sequence[ImageRecord], *, folds: int, where: str) -> None:
    """Raise `LabelError`, with all reasons, where a run on these images could not succeed."""
    found = list(problems(records, folds=folds))
    if found:
        raise LabelError(f"{where}: {'; '.join(found)}")


def _count(values: Any) -> dict[str, int]:
    return {str(value): number for value, number in sorted(Counter(str(v or "unknown") for v in values).items())}


def _missing(records: Sequence[ImageRecord]) -> dict[str, int]:
    names = ("laterality", "view", "age", "density", "machine_id", "site_id", "pixel_spacing_mm")
    empty = {name: sum(getattr(record, name) in (None, "") for record in records) for name in names}
    return {name: number for name, number in empty.items() if number}


def _refusal(record: ImageRecord, images: Path, *, read: bool) -> str:
    path = images / record.path
    if not path.is_file():
        return f"{record.path}: no such file in {images}"
    if not read:
        return ""
    from mammopipe.processing.images.mammogram import identity_fields, read_mammogram

    try:
        named = identity_fields(path)
        mammogram = read_mammogram(path, record=record)
    except ImageError as error:
        return str(error)
    rows, columns = mammogram.pixels.shape
    outside = [lesion for lesion in record.lesions if not (0 <= lesion.x < columns and 0 <= lesion.y < rows)]
    if outside:
        return (
            f"{record.path}: a lesion at x={outside[0].x:g}, y={outside[0].y:g} lies outside {rows} x {columns} pixels"
        )
    return f"{record.path}: {', '.join(named)} name a patient (data.phi)" if named else ""


def _duplicates(records: Sequence[ImageRecord], images: Path) -> list[tuple[str, ...]]:
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
