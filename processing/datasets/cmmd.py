"""Reads CMMD, The Chinese Mammography Database: a table of breasts, and digital mammograms.

Source: C. Cui et al. 2021, The Cancer Imaging Archive, doi 10.7937/tcia.eqde-4b16. The table is
`CMMD_clinicaldata_revision.xlsx`, or a CSV file made from it, with one row per breast: `ID1`, `LeftRight`, `Age`,
`abnormality`, `classification`, `subtype`. The images are `CMMD/<ID1>/<study>/<series>/1-1.dcm`, ...; their headers
state laterality and view.

Classes are pathology by breast: Benign or Malignant. No breast is normal. A breast with several rows has the most
serious of their classes. The release has images of breasts without a row; they are left out.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mammopipe.processing.datasets.collection import dicom_header, files_below, is_dicom_name, is_image, read_rows
from mammopipe.processing.datasets.definition import Dataset, LabelTable, Terms
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.errors import LabelError

NAME = "cmmd"
LABEL_TABLE = "CMMD_clinicaldata_revision.xlsx"
OTHER_TABLES = ("CMMD_clinicaldata_revision*.csv", "CMMD_clinicaldata*.xls*", "CMMD_clinicaldata*.csv")
COLUMNS = ("ID1", "LeftRight", "Age", "abnormality", "classification", "subtype")
CLASSES = {"benign": Label.BENIGN, "malignant": Label.MALIGNANT}
SIDES = {"l": Laterality.LEFT, "left": Laterality.LEFT, "r": Laterality.RIGHT, "right": Laterality.RIGHT}
_PATIENT = re.compile(r"D[12]-\d{4}", re.IGNORECASE)
_NAME = re.compile(r"([LR])[-_ ]?(CC|MLO)|(CC|MLO)[-_ ]?([LR])")
_STATED_VIEWS = {view.value: view for view in View}
_VIEW_CODES = {"399162004": View.CC, "R-10242": View.CC, "399368009": View.MLO, "R-10226": View.MLO}
_ATTRIBUTES = ("PatientID", "ImageLaterality", "Laterality", "ViewPosition", "ViewCodeSequence")
_Breast = tuple[str, Laterality]


def read_release(folder: Path) -> LabelTable:
    """Return one record per image of a breast in the table below a folder.

    Raises:
        LabelError: The table cannot be read, or no image of its breasts is below the folder.
    """
    tables = DATASET.tables(folder)
    if not tables:
        raise LabelError(f"{folder}: no {LABEL_TABLE} here, and no CSV file of this name")
    refused: list[tuple[str, str]] = []
    breasts = _breasts(tables[0], refused)
    records, unlabelled, seen = [], [], set()
    for path in files_below(folder):
        if not is_image(path):
            continue
        place = path.relative_to(folder).as_posix()
        patient, side, view = _read_header(path, place)
        name = f"{patient}_{path.stem}" if patient else path.stem
        if side is None or (patient, side) not in breasts:
            unlabelled.append(
                (name, f"{place}: no row of {tables[0].name} with ID1 {patient}, LeftRight {side or 'unknown'}")
            )
            continue
        seen.add((patient, side))
        records.append(_record(name, place, patient, side, view, breasts[patient, side]))
    for patient, side in sorted(set(breasts) - seen):
        refused.append((f"{patient}_{side}", f"{tables[0].name}: no image of the breast {side} of {patient}"))
    if not records:
        reasons = [reason for _, reason in (*unlabelled, *refused)]
        raise LabelError(f"{folder}: no image of a breast of {tables[0].name}{'; ' + reasons[0] if reasons else ''}")
    return LabelTable(_with_unique_ids(records), refused, unlabelled)


def _breasts(table: Path, refused: list[tuple[str, str]]) -> dict[_Breast, dict[str, str]]:
    found: dict[_Breast, dict[str, str]] = {}
    for line, row in read_rows(table, COLUMNS):
        side = SIDES.get(row["LeftRight"].lower())
        problem = ""
        if side is None:
            problem = f"LeftRight {row['LeftRight']!r} must be L or R"
        elif row["classification"].lower() not in CLASSES:
            problem = f"classification {row['classification']!r} must be Benign or Malignant"
        if problem:
            refused.append((row["ID1"], f"{table.name}, line {line}: {problem}"))
        elif side is not None:
            breast = (row["ID1"].upper(), side)
            found[breast] = max(found.get(breast, row), row, key=lambda each: _class(each).rank)
    return found


def _class(row: Mapping[str, str]) -> Label:
    return CLASSES[row["classification"].lower()]


def _read_header(path: Path, place: str) -> tuple[str, Laterality | None, View | None]:
    """Return patient, side and view, from the folder and the DICOM header, or from the name of another format."""
    known = _PATIENT.search(place)
    if is_dicom_name(path):
        header = dicom_header(path, _ATTRIBUTES)
        patient = known[0] if known else str(header.get("PatientID", ""))
        side = SIDES.get(str(header.get("ImageLaterality", "") or header.get("Laterality", "")).lower())
        codes = [str(item.get("CodeValue", "")) for item in header.get("ViewCodeSequence", None) or ()]
        stated = _STATED_VIEWS.get(str(header.get("ViewPosition", "")).upper())
        return patient.upper(), side, next((_VIEW_CODES[code] for code in codes if code in _VIEW_CODES), stated)
    named = _NAME.search(path.stem.upper())
    patient = known[0].upper() if known else ""
    if named is None:
        return patient, None, None
    return patient, Laterality(named[1] or named[4]), View(named[2] or named[3])


def _record(
    image_id: str, place: str, patient: str, side: Laterality | None, view: View | None, row: Mapping[str, str]
) -> ImageRecord:
    return ImageRecord(
        image_id=image_id,
        patient_id=patient,
        dataset=NAME,
        laterality=side,
        view=view,
        label=_class(row),
        path=place,
        age=float(row["Age"]) if row["Age"].replace(".", "", 1).isdigit() else None,
        finding=" ".join(filter(None, (row["abnormality"], row["subtype"]))),
    )


def _with_unique_ids(records: list[ImageRecord]) -> list[ImageRecord]:
    """Return the records sorted by id; images of a patient with the same file name are numbered."""
    counts: dict[str, int] = {}
    unique = []
    for record in records:
        counts[record.image_id] = counts.get(record.image_id, 0) + 1
        number = counts[record.image_id]
        unique.append(record if number == 1 else replace(record, image_id=f"{record.image_id}_{number}"))
    return sorted(unique, key=lambda record: record.image_id)


DATASET = Dataset(
    name=NAME,
    terms=Terms(
        title="CMMD, The Chinese Mammography Database, digital mammograms of 1,775 women, China. Classes are pathology "
        "by breast: benign or malignant; no breast is normal.",
        licence="CC BY 4.0.",
        citation="Cite C. Cui et al. 2021, The Chinese Mammography Database (CMMD), The Cancer Imaging Archive, doi "
        "10.7937/tcia.eqde-4b16.",
    ),
    label_table=LABEL_TABLE,
    other_tables=OTHER_TABLES,
    anywhere=True,
    patterns=(LABEL_TABLE,),
    read_table=lambda path: read_release(path.parent),
    check=read_release,
)
