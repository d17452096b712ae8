"""Image records and manifests: the CSV files that pass records from one job to the next."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any

from mammopipe.processing.errors import ManifestError
from mammopipe.processing.files import write_bytes


class Label(StrEnum):
    """What a label table says of an image.

    `mammopipe.processing.classes` maps labels to the classes of a network.
    """

    NORMAL = "normal"
    BENIGN = "benign"
    MALIGNANT = "malignant"
    NEGATIVE = "negative"
    """Not malignant, where the table does not say whether normal or benign."""

    @property
    def rank(self) -> int:
        """How serious the label is: 0 normal and negative, 1 benign, 2 malignant. It is no class index."""
        return _RANKS[self]


_RANKS = {Label.NORMAL: 0, Label.NEGATIVE: 0, Label.BENIGN: 1, Label.MALIGNANT: 2}


class Laterality(StrEnum):
    """The side of the body (Image Laterality, PS3.3 C.8.11.7)."""

    LEFT = "L"
    RIGHT = "R"

    @property
    def other(self) -> "Laterality":
        """The opposite side, which a horizontal flip of the image gives."""
        return Laterality.RIGHT if self is Laterality.LEFT else Laterality.LEFT


class View(StrEnum):
    """The projection (View Position; PS3.16 CID 4014)."""

    CC = "CC"
    MLO = "MLO"
    ML = "ML"
    LM = "LM"
    LMO = "LMO"
    AT = "AT"

    @property
    def shows_pectoral(self) -> bool:
        """Whether the upper corner of the image normally shows the pectoral muscle."""
        return self in (View.MLO, View.LMO, View.ML, View.LM)


class Split(StrEnum):
    """The permitted use of an image."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class SplitProtocol(StrEnum):
    """Which images the division keeps in one split, and whether the images are divided before augmentation."""

    PATIENT = "patient"
    """All images of a patient share a split; only training images are augmented. The only reliable protocol."""
    FILM = "film"
    """Each image is divided on its own, so a patient's two breasts may be in two splits; then augmentation."""
    PUBLISHED = "published"
    """Every image is augmented first; then originals and copies alike are divided at random."""

    def unit(self, record: "ImageRecord") -> tuple[str, str]:
        """Return the dataset and name of the record's unit; images of one unit share a split."""
        if self is SplitProtocol.PATIENT:
            return str(record.dataset), record.patient_id
        return str(record.dataset), record.original_id if self is SplitProtocol.FILM else record.image_id


@dataclass(frozen=True)
class Lesion:
    """A circle around a finding, in pixels of its image; x points right and y points down from the top left."""

    x: float
    y: float
    radius: float
    label: Label
    finding: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the circle as JSON values."""
        return {
            **{name: round(float(getattr(self, name)), 3) for name in ("x", "y", "radius")},
            "label": str(self.label),
            "finding": self.finding,
        }


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image with the data from its label table; a missing value is `None`, never guessed."""

    image_id: str
    patient_id: str
    dataset: str
    """Name of the dataset, a key of `mammopipe.processing.datasets.registry.DATASETS`."""
    laterality: Laterality | None
    view: View | None
    label: Label
    split: Split | None = None
    fold: int | None = None
    """Cross-validation fold of a development image; `None` for `test`."""
    path: str = ""
    """The image file, relative to the folder of the manifest."""
    source_image_id: str = ""
    """Image id of the original of an augmented copy; empty for an original."""
    age: float | None = None
    """Age of the patient in years."""
    density: str = ""
    machine_id: str = ""
    site_id: str = ""
    finding: str = ""
    lesions: tuple[Lesion, ...] = ()
    height: int | None = None
    width: int | None = None
    pixel_spacing_mm: float | None = None
    sha256: str = ""
    birads: str = ""
    implant: bool | None = None
    synthetic: bool = False
    """Whether the image is a phantom; results on phantoms say nothing about mammograms."""
    quality: Mapping[str, Any] = field(default_factory=dict)
    label_digest: str = ""
    """`split_digest` at the time of the split; it no longer matches if label, split or lesions were edited later.
    Older manifests have only the first part, that of label and split."""

    @property
    def image_flags(self) -> tuple[str, ...]:
        """The reader's flags (`mammopipe.processing.image_flags`), stored in `quality` under `image_flags`."""
        return tuple(self.quality.get("image_flags", ()))

    @property
    def original_id(self) -> str:
        """Image id of the original: that of the source for a copy, else the image's own."""
        return self.source_image_id or self.image_id

    def placed(self, split: Split | None, fold: int | None) -> "ImageRecord":
        """Return the record with a split, a fold and a new digest."""
        # Whole tables are placed, and `dataclasses.replace` is much slower than a list of the values.
        values = list(_VALUES(self))
        values[_SPLIT], values[_FOLD] = split, fold
        label = _digest(self.dataset, self.original_id, self.label, split)
        values[_DIGEST] = f"{label}-{_digest(*map(Lesion.as_dict, self.lesions))}"
        return ImageRecord(*values)

    def with_moved(self, lesions: Iterable[Lesion], **changes: Any) -> "ImageRecord":
        """Return the record with the lesions' positions after a change of the pixels, and with other changes.

        The digest is renewed for the moved lesions. If the lesions were edited after the split, the old digest is kept:
        it never matches again, so that the audit finds the edit.
        """
        moved = replace(self, lesions=tuple(lesions), **changes)
        label, _, known = self.label_digest.partition("-")
        if not known or known != split_digest(self).partition("-")[2]:
            return moved
        return replace(moved, label_digest=f"{label}-{split_digest(moved).partition('-')[2]}")


def split_digest(record: ImageRecord) -> str:
    """Return the digest of an image's label and split, and that of its lesions: twice 16 hexadecimal digits.

    A copy and its original have the same first digest.
    """
    return record.placed(record.split, record.fold).label_digest


def _digest(*values: Any) -> str:
    return hashlib.sha256("/".join(map(str, values)).encode()).hexdigest()[:16]


UNKNOWN_SIDE = "unknown"
"""Replaces an unknown laterality in `breast_id`."""


def breast_id(record: ImageRecord) -> str:
    """Return the id of the image's breast, which all its views share."""
    return f"{record.patient_id}-{record.laterality or UNKNOWN_SIDE}"


def shows_side(breast: str) -> bool:
    """Return whether a `breast_id` states the laterality."""
    return not breast.endswith(f"-{UNKNOWN_SIDE}")


COLUMNS = [item.name for item in fields(ImageRecord)]
_VALUES = attrgetter(*COLUMNS)
_NAMES = frozenset(COLUMNS)
_SPLIT, _FOLD, _LESIONS, _QUALITY, _DIGEST = map(COLUMNS.index, ("split", "fold", "lesions", "quality", "label_digest"))


def to_row(record: ImageRecord) -> dict[str, str]:
    """Return the record as one CSV row of strings; missing values are empty."""
    return {name: "" if value is None else str(value) for name, value in zip(COLUMNS, _cells(record), strict=True)}


def _cells(record: ImageRecord) -> list[Any]:
    """Return the values in the order of the columns; the CSV writer converts values that are not strings."""
    cells = list(_VALUES(record))
    cells[_LESIONS] = json.dumps([lesion.as_dict() for lesion in record.lesions]) if record.lesions else "[]"
    cells[_QUALITY] = json.dumps(dict(record.quality), sort_keys=True) if record.quality else "{}"
    return cells


def from_row(row: Mapping[str, str], where: str) -> ImageRecord:
    """Return the record of a CSV row; `where` names the file and line in a `ManifestError`."""
    if row.keys() != _NAMES or None in row.values():
        unknown, missing = set(row) - set(COLUMNS), set(COLUMNS) - set(row)
        raise ManifestError(
            f"{where}: columns must be those of the manifest: "
            f"unknown {sorted(map(str, unknown))}, missing {sorted(missing)}"
        )
    name = "row"
    try:
        values: dict[str, Any] = {}
        for name, text in row.items():
            values[name] = _READERS[name](text) if name in _READERS else text
        return ImageRecord(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{where}: {name}={row.get(name, '')!r} cannot be read: {error}") from None


def _finite(text: str) -> float | None:
    if not text:
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return value


def _lesions(text: str) -> tuple[Lesion, ...]:
    if text in ("", "[]"):
        return ()
    return tuple(
        Lesion(float(item["x"]), float(item["y"]), float(item["radius"]), Label(item["label"]), str(item["finding"]))
        for item in json.loads(text)
    )


_BOOLEANS = {"": None, "True": True, "False": False}

_READERS: dict[str, Any] = {
    "laterality": lambda text: Laterality(text) if text else None,
    "view": lambda text: View(text) if text else None,
    "label": Label,
    "split": lambda text: Split(text) if text else None,
    "fold": lambda text: int(text) if text else None,
    "age": _finite,
    "lesions": _lesions,
    "height": lambda text: int(text) if text else None,
    "width": lambda text: int(text) if text else None,
    "pixel_spacing_mm": _finite,
    "implant": lambda text: _BOOLEANS[text],
    "synthetic": lambda text: _BOOLEANS[text] or False,
    "quality": lambda text: {} if text in ("", "{}") else json.loads(text),
}


def stated_protocol(config: Mapping[str, Any], *, where: str) -> SplitProtocol:
    """Return the protocol in the `config` of a stage; the default is `patient`, the strictest.

    Raises `ManifestError`, naming `where`, for an unknown protocol.
    """
    stated = config.get("protocol", str(SplitProtocol.PATIENT))
    if stated not in list(SplitProtocol):
        raise ManifestError(f"{where}: config.protocol={stated!r} must be one of {', '.join(SplitProtocol)}")
    return SplitProtocol(stated)


def write_manifest(records: Iterable[ImageRecord], path: Path) -> None:
    """Write the records as one CSV file, sorted by image id."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_cells, sorted(records, key=attrgetter("image_id"))))
    write_bytes(path, text.getvalue().encode())


def read_manifest(source: Path, protocol: SplitProtocol = SplitProtocol.PATIENT) -> list[ImageRecord]:
    """Return the validated records of a manifest, or of all its parts in a folder, sorted by image id.

    Args:
        source: A CSV file, or a folder with `manifest.csv` or with one `manifest-<host>.csv` per instance.
        protocol: The protocol that the `stage.json` beside the manifest states.

    Raises:
        ManifestError: There is no manifest, a row cannot be read, or rows contradict each other (`validate`).
    """
    parts = sorted(source.glob("manifest*.csv")) if source.is_dir() else [source]
    if not parts or not all(part.is_file() for part in parts):
        raise ManifestError(f"{source}: no manifest.csv and no manifest-<host>.csv here")
    records = [record for part in parts for record in _read_part(part)]
    validate(records, where=str(source), protocol=protocol)
    return sorted(records, key=lambda record: record.image_id)


def _read_part(path: Path) -> list[ImageRecord]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            return [from_row(row, f"{path}, line {reader.line_num}") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: not a CSV file: {error}") from None


def validate(records: Sequence[ImageRecord], *, where: str, protocol: SplitProtocol = SplitProtocol.PATIENT) -> None:
    """Raise `ManifestError` if an image id repeats, or if a unit of the protocol is in two splits."""
    seen: set[str] = set()
    splits: dict[tuple[str, str], tuple[Split | None, str]] = {}
    for record in records:
        if record.image_id in seen:
            raise ManifestError(f"{where}: image_id={record.image_id} occurs twice; each image has one row")
        seen.add(record.image_id)
        unit = protocol.unit(record)
        split, first = splits.setdefault(unit, (record.split, record.image_id))
        if split is not record.split:
            kept, rule = _TOGETHER[protocol]
            raise ManifestError(
                f"{where}: {kept}={unit[1]} is in the splits {split} (image {first}) and {record.split} "
                f"(image {record.image_id}); {rule}"
            )


_TOGETHER = {
    SplitProtocol.PATIENT: ("patient_id", "all images of a patient belong to one split"),
    SplitProtocol.FILM: ("film", "an image and its copies belong to one split"),
}
