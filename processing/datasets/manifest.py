"""One manifest row: what is known of an image, as enums and numbers, and the CSV file that carries it between jobs."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any

from mammopipe.processing.errors import ManifestError
from mammopipe.processing.files import write_bytes


class Label(StrEnum):
    """The three classes of both datasets, from the least to the most serious."""

    NORMAL = "normal"
    BENIGN = "benign"
    MALIGNANT = "malignant"

    @property
    def rank(self) -> int:
        """The class index of every model: 0 normal, 1 benign, 2 malignant."""
        return _RANKS[self]


_RANKS: dict[str, int] = {label: rank for rank, label in enumerate(Label)}


class Laterality(StrEnum):
    """The side of the body (DICOM Image Laterality, PS3.3 C.8.11.7)."""

    LEFT = "L"
    RIGHT = "R"

    @property
    def other(self) -> "Laterality":
        """The side that a horizontal flip makes of this one."""
        return Laterality.RIGHT if self is Laterality.LEFT else Laterality.LEFT


class View(StrEnum):
    """The projection (DICOM View Position, PS3.16 CID 4014)."""

    CC = "CC"
    MLO = "MLO"
    ML = "ML"
    LM = "LM"
    LMO = "LMO"
    AT = "AT"

    @property
    def shows_pectoral(self) -> bool:
        """Whether the pectoral muscle normally crosses the upper corner of the image."""
        return self in (View.MLO, View.LMO, View.ML, View.LM)


class Split(StrEnum):
    """What an image may be used for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class SplitProtocol(StrEnum):
    """What the division into splits keeps together, and whether it comes before the augmentation."""

    PATIENT = "patient"
    """All films of a patient go together, and only training films are augmented: the one that may be trusted."""
    FILM = "film"
    """Each film goes on its own, so that a patient's two breasts may be in two splits; augmented afterwards."""
    PUBLISHED = "published"
    """Every film is augmented first; then the pictures, originals and copies alike, are divided at random."""

    def unit(self, record: "ImageRecord") -> tuple[str, str]:
        """Return the name of what is divided: pictures of one name are in one split."""
        if self is SplitProtocol.PATIENT:
            return str(record.dataset), record.patient_id
        return str(record.dataset), record.original_id if self is SplitProtocol.FILM else record.image_id


@dataclass(frozen=True)
class Lesion:
    """A circle around a finding, in pixel coordinates of its image: x to the right, y downwards, from the top left."""

    x: float
    y: float
    radius: float
    label: Label
    finding: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the circle as JSON values."""
        return {
            "x": round(self.x, 3),
            "y": round(self.y, 3),
            "radius": round(self.radius, 3),
            "label": str(self.label),
            "finding": self.finding,
        }


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and what its label table says of it; `None` is missing, never guessed."""

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
    """The original that an augmented copy was made of; empty for an original."""
    age: float | None = None
    """Years."""
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
    """Whether the image is a phantom, of which no figure says anything about mammograms."""
    quality: Mapping[str, Any] = field(default_factory=dict)
    label_digest: str = ""
    """`split_digest` of the record when it was split; a label that was edited since then does not have it."""

    @property
    def image_flags(self) -> tuple[str, ...]:
        """What the reader warned of (`mammopipe.processing.image_flags`), kept under `image_flags` in `quality`."""
        return tuple(self.quality.get("image_flags", ()))

    @property
    def original_id(self) -> str:
        """The image that these pixels were taken from: the source of a copy, or the image itself."""
        return self.source_image_id or self.image_id

    def placed(self, split: Split, fold: int | None) -> "ImageRecord":
        """Return the record in a split and fold: `dataclasses.replace` at a fraction of its price, for whole tables."""
        values = list(_VALUES(self))
        values[_SPLIT], values[_FOLD] = split, fold
        values[_DIGEST] = _digest(self.dataset, self.original_id, self.label, split)
        return ImageRecord(*values)


def split_digest(record: ImageRecord) -> str:
    """Return the digest of an image's label and split, 16 hexadecimal digits; it holds for copies of the image, too."""
    return _digest(record.dataset, record.original_id, record.label, record.split)


def _digest(dataset: str, original_id: str, label: Label, split: Split | None) -> str:
    return hashlib.sha256(f"{dataset}/{original_id}/{label}/{split}".encode()).hexdigest()[:16]


UNKNOWN_SIDE = "unknown"
"""In place of the laterality in what names a breast (`breast_id`)."""


def breast_id(record: ImageRecord) -> str:
    """Return what names the breast of an image: its labels hold for all views of that breast."""
    return f"{record.patient_id}-{record.laterality or UNKNOWN_SIDE}"


def shows_side(breast: str) -> bool:
    """Return whether what names a breast (`breast_id`) says which of the two it is."""
    return not breast.endswith(f"-{UNKNOWN_SIDE}")


COLUMNS = [item.name for item in fields(ImageRecord)]
_VALUES = attrgetter(*COLUMNS)
_NAMES = frozenset(COLUMNS)
_SPLIT, _FOLD, _LESIONS, _QUALITY, _DIGEST = map(COLUMNS.index, ("split", "fold", "lesions", "quality", "label_digest"))


def to_row(record: ImageRecord) -> dict[str, str]:
    """Return the record as one CSV row of strings; missing values are empty."""
    return {name: "" if value is None else str(value) for name, value in zip(COLUMNS, _cells(record), strict=True)}


def _cells(record: ImageRecord) -> list[Any]:
    """Return the values in the order of the columns; what is no text is what a CSV writer makes the right text of."""
    cells = list(_VALUES(record))
    cells[_LESIONS] = json.dumps([lesion.as_dict() for lesion in record.lesions]) if record.lesions else "[]"
    cells[_QUALITY] = json.dumps(dict(record.quality), sort_keys=True) if record.quality else "{}"
    return cells


def from_row(row: Mapping[str, str], where: str) -> ImageRecord:
    """Return the record in one CSV row; `where` names file and line in a `ManifestError`."""
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
    """Return the protocol that the `config` of a stage states; one that states none is held to `patient`, the strict.

    Raises `ManifestError`, naming `where`, for an unknown one.
    """
    stated = config.get("protocol", str(SplitProtocol.PATIENT))
    if stated not in list(SplitProtocol):
        raise ManifestError(f"{where}: config.protocol={stated!r} must be one of {', '.join(SplitProtocol)}")
    return SplitProtocol(stated)


def write_manifest(records: Iterable[ImageRecord], path: Path) -> None:
    """Write the records, sorted by image id, as one CSV file."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_cells, sorted(records, key=attrgetter("image_id"))))
    write_bytes(path, text.getvalue().encode())


def read_manifest(source: Path, protocol: SplitProtocol = SplitProtocol.PATIENT) -> list[ImageRecord]:
    """Return the records of a manifest, or of all its parts in a folder, sorted by image id and validated.

    Another protocol than `patient` is one that the reader was told of, by the `stage.json` of the manifest's folder. A
    folder holds `manifest.csv`, or one `manifest-<host>.csv` per instance. Raises `ManifestError` when there is none,
    when a row cannot be read, or when the rows contradict each other (`validate`).
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
    """Raise `ManifestError` where ids repeat or what the protocol keeps together is in two splits."""
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
    SplitProtocol.FILM: ("film", "a film and its copies belong to one split"),
}
