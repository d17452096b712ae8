"""Reads VinDr-Mammo: a table of breasts, a table of findings with boxes, and digital mammograms.

Source: H. T. Nguyen et al. 2023, "VinDr-Mammo: A large-scale benchmark dataset for computer-aided diagnosis in
full-field digital mammography", Scientific Data 10, 277; PhysioNet, version 1.0.0.

`breast-level_annotations.csv` has one row per image; `finding_annotations.csv` has one row per finding, with a box in
pixels of the image. Images are `images/<study_id>/<image_id>.dicom`. Each study is of a different woman.

The release has no pathology. Classes follow the BI-RADS category of the breast: 1 is normal, 2 and 3 are benign, 4 and
5 are malignant. Results under other conventions are not comparable.
"""

import ast
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from mammopipe.processing.datasets.collection import (
    circle_around,
    class_of_birads,
    files_below,
    is_image,
    meaning_of,
    preferred,
    read_rows,
    tables_in,
)
from mammopipe.processing.datasets.definition import Dataset, LabelTable, Terms
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, Split, View
from mammopipe.processing.errors import LabelError

NAME = "vindr-mammo"
LABEL_TABLE = "breast-level_annotations.csv"
FINDINGS = "finding_annotations.csv"
COLUMNS = ("study_id", "image_id", "laterality", "view_position", "breast_birads", "breast_density", "split")
FINDING_COLUMNS = ("image_id", "finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax")
SPLITS = {"training": Split.TRAIN, "test": Split.TEST}
_BOX = ("xmin", "ymin", "xmax", "ymax")
_EMPTY = ("", "nan", "none")
"""Cells without a value, as programs write them."""
_VIEWS = {view.value: view for view in View}
_SIDES = {side.value: side for side in Laterality}


def read_release(folder: Path) -> LabelTable:
    """Return one record per image of the table below a folder, with the boxes of its findings as circles.

    Raises:
        LabelError: A table cannot be read, or no image of the table is below the folder.
    """
    tables = DATASET.tables(folder)
    if not tables:
        raise LabelError(f"{folder}: no {LABEL_TABLE} here")
    files: dict[str, list[Path]] = {}
    for path in files_below(folder):
        if is_image(path):
            files.setdefault(path.stem.casefold(), []).append(path)
    refused: list[tuple[str, str]] = []
    records: dict[str, ImageRecord] = {}
    found, named = _findings(folder), set()
    for line, row in read_rows(tables[0], COLUMNS):
        image_id = row["image_id"]
        named.add(image_id.casefold())
        try:
            if image_id in records:
                raise ValueError("the image id occurs twice; the first row is used")
            # A finding that the table lists twice is one lesion.
            lesions = list(dict.fromkeys(_lesion(*finding) for finding in found.get(image_id.casefold(), ())))
            records[image_id] = _record(row, files.get(image_id.casefold(), []), folder, lesions)
        except ValueError as error:
            refused.append((image_id, f"{tables[0].name}, line {line}: {error}"))
    if not records:
        raise LabelError(f"{tables[0]}: no usable row{': ' + refused[0][1] if refused else ''}")
    unlabelled = [
        (paths[0].stem, f"{paths[0].relative_to(folder)}: no row of {tables[0].name} names this image")
        for name, paths in sorted(files.items())
        if name not in named
    ]
    return LabelTable([records[image_id] for image_id in sorted(records)], refused, unlabelled)


def _record(row: Mapping[str, str], paths: Iterable[Path], folder: Path, lesions: Iterable[Lesion]) -> ImageRecord:
    paths = list(paths)
    if not paths:
        raise ValueError(f"no image images/{row['study_id']}/{row['image_id']}.dicom")
    side, view = meaning_of(row, "laterality", _SIDES), meaning_of(row, "view_position", _VIEWS)
    birads = row["breast_birads"].upper().removeprefix("BI-RADS").strip()
    return ImageRecord(
        image_id=row["image_id"],
        patient_id=row["study_id"],
        dataset=NAME,
        laterality=side,
        view=view,
        label=class_of_birads(row["breast_birads"], where="breast_birads"),
        split=meaning_of(row, "split", SPLITS),
        path=preferred(paths).relative_to(folder).as_posix(),
        density=row["breast_density"].upper().removeprefix("DENSITY").strip(),
        birads=birads,
        finding=", ".join(sorted({lesion.finding for lesion in lesions})),
        lesions=tuple(lesions),
    )


def _findings(folder: Path) -> dict[str, list[tuple[str, Mapping[str, str]]]]:
    """Return the rows with a box, each with its table and line, by case-folded image id."""
    found: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    for table in tables_in(folder, (FINDINGS,), spreadsheets=True)[:1]:
        for line, row in read_rows(table, FINDING_COLUMNS):
            if any(row[name].casefold() not in _EMPTY for name in _BOX):  # a row without a box has no finding
                found.setdefault(row["image_id"].casefold(), []).append((f"{table.name}, line {line}", row))
    return found


def _lesion(where: str, row: Mapping[str, str]) -> Lesion:
    left, top, right, bottom = (_number(row[name]) for name in _BOX)
    if not (left < right < math.inf and top < bottom < math.inf and min(left, top) > -math.inf):
        cells = ", ".join(f"{name}={row[name]!r}" for name in _BOX)
        raise ValueError(f"{where}: {cells} must be numbers, xmin below xmax and ymin below ymax")
    label = (
        Label.BENIGN
        if row["finding_birads"].casefold() in _EMPTY
        else class_of_birads(row["finding_birads"], where="finding_birads")
    )
    return circle_around(left, top, right, bottom, label, ", ".join(_names(row["finding_categories"])))


def _number(text: str) -> float:
    """Return a number, with a decimal point or comma; NaN for other text."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan


def _names(text: str) -> list[str]:
    """Return the categories in a cell such as `['Mass', 'Skin Retraction']`."""
    try:
        return [str(name) for name in ast.literal_eval(text)]
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(f"finding_categories {text!r} must be a list of names") from None


DATASET = Dataset(
    name=NAME,
    terms=Terms(
        title="VinDr-Mammo, 20,000 digital mammograms of 5,000 exams, Hanoi, Vietnam. Classes are BI-RADS categories "
        "of the breasts: 1 normal, 2 and 3 benign, 4 and 5 malignant.",
        licence="PhysioNet Restricted Health Data License 1.5.0: research only, not to be passed on.",
        citation="Cite H. T. Nguyen et al. 2023, VinDr-Mammo: A large-scale benchmark dataset for computer-aided "
        "diagnosis in full-field digital mammography, Scientific Data 10, 277.",
        note="The classes are readers' opinions, not pathology: what counts as malignant here need not be cancer.",
    ),
    label_table=LABEL_TABLE,
    anywhere=True,
    patterns=(LABEL_TABLE, FINDINGS),
    read_table=lambda path: read_release(path.parent),
    check=read_release,
)
