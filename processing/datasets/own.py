"""Reads a site's own images: a table (CSV or Parquet) and images beside it.

The table has one row per image, or one row per lesion. The settings `[own]` (`OwnTable`) map its columns and values.
Before staging, the table is converted to the format of a manifest, `manifest.csv`, and the images are put below
`images/`.
"""

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from mammopipe.processing.datasets.arranged import IMAGE_FOLDER, LABEL_TABLE, check_staged, read_staged
from mammopipe.processing.datasets.definition import Dataset, LabelTable, Terms
from mammopipe.processing.datasets.manifest import (
    ImageRecord,
    Label,
    Laterality,
    Lesion,
    Split,
    View,
    write_manifest,
)
from mammopipe.processing.datasets.own_table import (
    AS_THEY_ARE,
    BOX,
    CIRCLE,
    OwnTable,
    OwnTableRow,
    columns_without_field,
    find_table,
    read_rows,
)
from mammopipe.processing.errors import LabelError

NAME = "own"
IMAGE_SUFFIXES = (".dcm", ".dicom", ".pgm", ".png", ".tif", ".tiff")

LEAST_RADIUS = 0.5
"""Smallest radius of a lesion, in pixels; a smaller number is in another unit, such as shares of the image."""
MOST_SPACING_MM = 2.0
"""Largest plausible pixel spacing; a larger number is in another unit, such as microns."""

_CIRCLE, _BOX = ({name.removeprefix("lesion_") for name in names} for names in (CIRCLE, BOX))
_ID = re.compile(r"[^A-Za-z0-9._-]+")


def read_own(source: Path, mapping: OwnTable = AS_THEY_ARE, *, labelled: bool = True) -> LabelTable:
    """Return the records of a site's own table, with paths relative to the folder of images.

    Args:
        source: The table, CSV or Parquet, or its folder; or the folder of a dataset that has been staged before.
        mapping: The fields of the columns and the meaning of the values.
        labelled: Whether each row needs a label. If not, records of rows without a label have the class normal, which
            then has no meaning.

    Raises:
        LabelError: The table cannot be read, lacks a column, or no row can be used.
    """
    path = find_table(source)
    if _is_staged(path):
        return read_staged(path)
    rows = read_rows(path, mapping.checked(), labelled=labelled)
    files = _Files(images_of(path, mapping))
    grouped: dict[str, list[OwnTableRow]] = {}
    refused: list[tuple[str, str]] = []
    for row in rows:
        grouped.setdefault(row["image"], []).append(row)
    records: dict[str, ImageRecord] = {}
    for image, group in grouped.items():
        try:
            record = _record(group, files.find(image), labelled=labelled)
            if record.image_id in records:
                raise ValueError(f"image {image!r}: another image has the id {record.image_id}, too")
            records[record.image_id] = record
        except ValueError as error:
            refused.append((image_id_of(image), f"{path.name}, line {group[0].line}: {error}"))
    if not records:
        reason = f"; the first: {refused[0][1]}" if refused else ""
        raise LabelError(f"{path}: no usable row{reason}")
    return LabelTable(sorted(records.values(), key=lambda record: record.image_id), refused)


def images_of(table: Path, mapping: OwnTable) -> Path:
    """Return the folder of the images of a table."""
    if _is_staged(table):
        return table.parent / IMAGE_FOLDER
    return (table.parent / mapping.images) if mapping.images else table.parent


def unused_columns(source: Path, mapping: OwnTable) -> list[str]:
    """Return the columns that no field uses, each with the field that may be meant; none for a staged dataset."""
    path = find_table(source)
    return [] if _is_staged(path) else columns_without_field(path, mapping)


def arrange(source: Path, folder: Path, mapping: OwnTable = AS_THEY_ARE) -> LabelTable:
    """Write a site's own table as `manifest.csv` into `folder`, with links to its images below `images/`.

    Returns the table with its refused rows. Raises `LabelError` like `read_own`.
    """
    table = read_own(source, mapping)
    images = images_of(find_table(source), mapping)
    for record in table.records:
        link = folder / IMAGE_FOLDER / record.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((images / record.path).resolve())
    write_manifest(table.records, folder / LABEL_TABLE)
    return table


class _Files:
    """The images of a folder, found by name with or without suffix, however its accents are written."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._absolute = folder, folder.absolute()
        self._by_stem: dict[str, list[str]] | None = None

    def find(self, name: str) -> str:
        """Return an image's path relative to the folder; raises `ValueError` if no image or several have the name."""
        if not name:
            raise ValueError("image is empty")
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() and path.is_relative_to(self._absolute):
            path = path.relative_to(self._absolute)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"image {name!r} must lie in the folder of images, {self._absolute}; own.images names another"
            )
        if (self._folder / path).is_file():
            return path.as_posix()
        same, last = (unicodedata.normalize("NFC", text) for text in (path.as_posix(), path.name))
        found = self._stems().get(same, []) or self._stems().get(last, [])
        if len(found) != 1:
            raise ValueError(f"image {name!r}: {'several files are' if found else 'no such file'} in {self._absolute}")
        return found[0]

    def _stems(self) -> dict[str, list[str]]:
        if self._by_stem is None:
            self._by_stem = {}
            for path in sorted(self._folder.rglob("*")):
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    place = path.relative_to(self._folder)
                    # A file system may write an accent as a character of its own, where the table has one letter.
                    whole = place.as_posix()
                    for name in {whole, place.with_suffix("").as_posix(), place.stem}:
                        self._by_stem.setdefault(unicodedata.normalize("NFC", name), []).append(whole)
        return self._by_stem


def _record(rows: Sequence[OwnTableRow], path: str, *, labelled: bool) -> ImageRecord:
    """Return the record of an image from its only row, or from one row per lesion."""
    row = rows[0]
    lines: dict[tuple[str, ...], int] = {}
    for each in rows:
        first = lines.setdefault(tuple(each.values.values()), each.line)
        if first != each.line:
            raise ValueError(f"image {row['image']!r}: line {each.line} repeats line {first}")
    for other in rows[1:]:
        for name, value in other.values.items():
            if not name.startswith("lesion") and value != row[name]:
                raise ValueError(
                    f"image {row['image']!r} has {name} {row[name]!r} and, in line {other.line}, {value!r}"
                )
    label = _label(row, labelled=labelled)
    lesions = tuple(lesion for each in rows for lesion in _lesions(each, label))
    if lesions and label is Label.NORMAL and row["label"]:
        raise ValueError(f"label {row['label']!r} contradicts the lesion; call the image benign, malignant or negative")
    return ImageRecord(
        image_id=image_id_of(path),
        patient_id=_patient(row, path, labelled=labelled),
        dataset=NAME,
        laterality=Laterality(_word(row, "side", Laterality)) if row["side"] else None,
        view=View(_word(row, "view", View)) if row["view"] else None,
        label=label,
        split=Split(_word(row, "split", Split)) if row["split"] else None,
        path=path,
        age=_age(row["age"]),
        density=row["density"],
        machine_id=row["machine"],
        site_id=row["site"],
        finding=row["finding"],
        lesions=lesions,
        pixel_spacing_mm=_spacing(row),
        birads=row["birads"],
        implant=_flag(row, "implant"),
        synthetic=bool(_flag(row, "synthetic")),
    )


def _label(row: OwnTableRow, *, labelled: bool) -> Label:
    if not row["label"] and not labelled:
        return Label.NORMAL
    if not row["label"]:
        raise ValueError("label is empty")
    return Label(_word(row, "label", Label))


def _patient(row: OwnTableRow, path: str, *, labelled: bool) -> str:
    if row["patient"]:
        return row["patient"]
    if labelled:
        raise ValueError("patient is empty; without it, a patient's images could be in two splits")
    return image_id_of(path)


def _word(row: OwnTableRow, name: str, choices: type[StrEnum]) -> str:
    words = [str(item) for item in choices]
    if row[name] not in words:
        raise ValueError(
            f"{name} {row[name]!r} must be one of {', '.join(words)} (own.values.{name} maps other values)"
        )
    return row[name]


def _flag(row: OwnTableRow, name: str) -> bool | None:
    if not row[name]:
        return None
    if row[name] not in ("true", "false"):
        raise ValueError(f"{name} {row[name]!r} must be true or false")
    return row[name] == "true"


def _age(text: str) -> float | None:
    if not text:
        return None
    # DICOM writes an age as 055Y (PS3.5, Age String).
    try:
        age = float(text[:-1]) if re.fullmatch(r"\d{3}Y", text) else float(text)
    except ValueError:
        raise ValueError(f"age {text!r} must be a number of years") from None
    if not 0 < age <= 120:
        raise ValueError(f"age {text!r} must lie between 0 and 120 years")
    return age


def _number(row: OwnTableRow | Mapping[str, Any], name: str, *, above: float | None = None) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        raise ValueError(f"{name} {row[name]!r} must be a number") from None
    if not math.isfinite(value) or (above is not None and value <= above):
        raise ValueError(f"{name} {value:g} must be finite" + ("" if above is None else f" and above {above:g}"))
    return value


def _spacing(row: OwnTableRow) -> float | None:
    if not row["pixel_spacing_mm"]:
        return None
    spacing = _number(row, "pixel_spacing_mm", above=0)
    if spacing > MOST_SPACING_MM:
        raise ValueError(f"pixel_spacing_mm {spacing:g} must be at most {MOST_SPACING_MM:g} millimetres")
    return spacing


def _lesions(row: OwnTableRow, label: Label) -> Iterator[Lesion]:
    own = Label(_word(row, "lesion_label", Label)) if row["lesion_label"] else label
    if row["lesions"]:
        try:
            items = json.loads(row["lesions"])
        except ValueError:
            raise ValueError("lesions must be a JSON list") from None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ValueError(
                "lesions must be a JSON list of circles {x, y, radius} or boxes {x_min, y_min, x_max, y_max}"
            )
        for item in items:
            if item.get("label", own) not in list(Label):
                raise ValueError(f"lesions: label {item['label']!r} must be one of {', '.join(Label)}")
            yield _lesion(item, Label(item.get("label", own)), str(item.get("finding", "")))
    for names in (CIRCLE, BOX):
        given = [name for name in names if row[name]]
        if given and len(given) < len(names):
            raise ValueError(f"{', '.join(name for name in names if name not in given)} must be given with {given[0]}")
        if given:
            yield _lesion({name.removeprefix("lesion_"): row[name] for name in names}, own, row["finding"])


def _lesion(item: Mapping[str, Any], label: Label, finding: str) -> Lesion:
    """Return a lesion's circle; a box becomes a circle around its centre with half its longer side as radius."""
    if not (_CIRCLE <= item.keys() or _BOX <= item.keys()):
        raise ValueError(
            f"lesion {{{', '.join(item)}}} must have {', '.join(sorted(_CIRCLE))} or {', '.join(sorted(_BOX))}"
        )
    if "radius" in item:
        x, y, radius = _number(item, "x"), _number(item, "y"), _number(item, "radius", above=0)
        return Lesion(x, y, _in_pixels(radius), label, finding)
    left, top, right, bottom = (_number(item, name.removeprefix("lesion_")) for name in BOX)
    if right <= left or bottom <= top:
        raise ValueError(f"lesion box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) must end after it begins")
    radius = _in_pixels(max(right - left, bottom - top) / 2)
    return Lesion((left + right) / 2, (top + bottom) / 2, radius, label, finding)


def _in_pixels(radius: float) -> float:
    if radius < LEAST_RADIUS:
        raise ValueError(
            f"a lesion of radius {radius:g} must have at least {LEAST_RADIUS:g} pixels; positions and sizes are in "
            "pixels, not shares of the image"
        )
    return radius


def image_id_of(path: str) -> str:
    """Return the id of an image from its path relative to the folder of images."""
    return _ID.sub("_", PurePosixPath(path).with_suffix("").as_posix().replace("/", "_")).strip("_.") or "image"


def _is_staged(table: Path) -> bool:
    """Return whether a table is the manifest of a staged dataset, which `arrange` writes."""
    if table.name != LABEL_TABLE:
        return False
    with table.open("rb") as stream:
        return stream.readline().startswith(b"image_id,patient_id,dataset,")


DATASET = Dataset(
    name=NAME,
    terms=Terms(
        "Images of the site's own, from a table that it made.", "The site is responsible for its right to use them."
    ),
    label_table=LABEL_TABLE,
    image_folder=IMAGE_FOLDER,
    patterns=(LABEL_TABLE, f"{IMAGE_FOLDER}/**/*"),
    read_table=read_staged,
    check=check_staged,
)
