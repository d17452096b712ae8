"""Reads the RSNA Screening Mammography Breast Cancer Detection dataset: the table `train.csv`.

Source: RSNA / Kaggle 2023. Each row describes one image. `cancer`, `biopsy`, `invasive` and `BIRADS` apply to the
breast and are repeated for each of its views. The images are `train_images/PATIENT/IMAGE.dcm`; their headers lack
modality and view.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mammopipe.processing.datasets.definition import Dataset, LabelTable, Terms
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.errors import LabelError

LABEL_TABLE = "train.csv"
IMAGE_FOLDER = "train_images"
COLUMNS = (
    "site_id", "patient_id", "image_id", "laterality", "view", "age", "cancer", "biopsy", "invasive", "BIRADS",
    "implant", "density", "machine_id", "difficult_negative_case",
)  # fmt: skip
Meaning = TypeVar("Meaning")

_IMAGE_ID = COLUMNS.index("image_id")
_FLAGS = ("cancer", "biopsy", "invasive", "implant")
# The permitted values of the cells and their meaning, as look-up tables: the table has some 550,000 cells.
_FLAG = {"0": False, "1": True}
_TRUTH = {"True": True, "False": False}
_LATERALITY = {side.value: side for side in Laterality}
_VIEW = {view.value: view for view in View}
_DENSITY = {letter: letter for letter in ("", "A", "B", "C", "D")}
_BIRADS = {text: text[:1] for text in ("", "0", "1", "2", "0.0", "1.0", "2.0")}


def read_table(path: Path) -> LabelTable:
    """Return the usable rows as records, sorted by image id, and the other rows with their reasons.

    The images of a breast with cancer are malignant, those with a biopsy but no cancer are benign, all others are
    normal. Empty cells are missing values. A row is left out if its image id has occurred before or if a value is not
    permitted. Raises `LabelError` if the file cannot be read or does not have the dataset's columns.
    """
    records: dict[str, ImageRecord] = {}
    refused: list[tuple[str, str]] = []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            if tuple(header) != COLUMNS:
                raise LabelError(f"{path}: columns must be {','.join(COLUMNS)}, not {','.join(header)}")
            for cells in filter(None, reader):
                image_id = "".join(cells[_IMAGE_ID : _IMAGE_ID + 1])
                try:
                    record = _record(cells)
                    if image_id in records:
                        raise ValueError("the image id occurs twice")
                    records[image_id] = record
                except ValueError as error:
                    refused.append((image_id, f"{path.name}, line {reader.line_num}: {error}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path}: the RSNA label table must be a readable CSV file: {error}") from None
    if not records:
        raise LabelError(f"{path}: no usable row")
    return LabelTable(sorted(records.values(), key=lambda record: record.image_id), refused)


def _record(cells: Sequence[str]) -> ImageRecord:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} cells where there are {len(COLUMNS)} columns")
    row = dict(zip(COLUMNS, cells, strict=True))
    cancer, biopsy, invasive, implant = (_choice(row, name, _FLAG) for name in _FLAGS)
    difficult = _choice(row, "difficult_negative_case", _TRUTH)
    patient_id, image_id = _digits(row, "patient_id"), _digits(row, "image_id")
    return ImageRecord(
        image_id=image_id,
        patient_id=patient_id,
        dataset="rsna",
        laterality=_choice(row, "laterality", _LATERALITY),
        view=_choice(row, "view", _VIEW),
        label=Label.MALIGNANT if cancer else Label.BENIGN if biopsy else Label.NORMAL,
        path=f"{patient_id}/{image_id}.dcm",
        age=_age(row["age"]),
        density=_choice(row, "density", _DENSITY),
        machine_id=row["machine_id"],
        site_id=row["site_id"],
        finding="invasive" if invasive else "difficult-negative" if difficult else "",
        birads=_choice(row, "BIRADS", _BIRADS),
        implant=implant,
    )


def _choice(row: Mapping[str, str], name: str, meanings: Mapping[str, Meaning]) -> Meaning:
    try:
        return meanings[row[name]]
    except KeyError:
        raise ValueError(f"{name}={row[name]!r} must be one of {', '.join(filter(None, meanings))}") from None


def _digits(row: Mapping[str, str], name: str) -> str:
    """Return an id, which must consist of digits, because it becomes part of a path."""
    if not row[name].isascii() or not row[name].isdigit():
        raise ValueError(f"{name} must be digits")
    return row[name]


def _age(text: str) -> float | None:
    if not text:
        return None
    age = float(text)
    if not 18 <= age <= 120:
        raise ValueError(f"age={text} must lie between 18 and 120 years")
    return age


def check_release(folder: Path) -> LabelTable:
    """Return the label table of a folder with `train.csv` and images; raises `LabelError` if they are missing."""
    table = read_table(folder / LABEL_TABLE)
    table.require_usable(folder / LABEL_TABLE)
    if not any((folder / IMAGE_FOLDER).glob("*/*.dcm")):
        raise LabelError(
            f"{folder}: no {IMAGE_FOLDER}/PATIENT/IMAGE.dcm here; an RSNA folder holds them beside {LABEL_TABLE}"
        )
    return table


DATASET = Dataset(
    name="rsna",
    terms=Terms(
        "RSNA Screening Mammography Breast Cancer Detection challenge 2023, screening exams from Australia and the "
        "United States.",
        "Non-commercial research only.",
    ),
    label_table=LABEL_TABLE,
    image_folder=IMAGE_FOLDER,
    patterns=(LABEL_TABLE, f"{IMAGE_FOLDER}/*/*.dcm"),
    meanings={
        "density": {
            "A": "almost entirely fatty",
            "B": "scattered fibroglandular densities",
            "C": "heterogeneously dense",
            "D": "extremely dense (BI-RADS)",
        }
    },
    read_table=read_table,
    check=check_release,
)
