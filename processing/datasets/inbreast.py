"""Reads INbreast: the table `INbreast.csv`, digital mammograms, and outlines of the findings.

Source: I. Moreira et al. 2012, "INbreast: toward a full-field digital mammographic database", Academic Radiology 19(2).
An image is named `<id>_<hash of the patient>_MG_<L|R>_<CC|ML>_ANON.dcm`, or the same with `.png`. `AllXML/<id>.xml`
holds the outlines of its findings in pixels of the image.

The classes follow the BI-RADS category of the image, because the release does not have the pathology of every image:
1 is normal, 2 and 3 are benign, 4 to 6 are malignant. Results under other conventions are not comparable.
"""

import csv
import plistlib
import re
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from mammopipe.processing.datasets.definition import Dataset, Table, Terms
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, View
from mammopipe.processing.errors import LabelError

LABEL_TABLE = "INbreast.csv"
OUTLINES = "AllXML"
PIXEL_SPACING_MM = 0.07
"""Pixel spacing of the detector; some headers of the anonymised files lack it."""
CLASSES = {"1": Label.NORMAL, "2": Label.BENIGN, "3": Label.BENIGN}
"""Class by the first character of the BI-RADS category; 4, 5 and 6, with or without a letter, are malignant."""
VIEWS = {"CC": View.CC, "ML": View.MLO, "MLO": View.MLO}

_COLUMNS = ("Laterality", "View", "File Name", "ACR", "Bi-Rads")
_FILE = re.compile(r"(\d+)_([0-9a-f]+)_MG_([LR])_(CC|ML)_ANON\.(dcm|png)", re.IGNORECASE)
_AREA_POINTS = 3
"""Least number of points of an outline that encloses an area; single points mark calcifications and are left out."""


def read_table(path: Path) -> Table:
    """Return one record per row of `INbreast.csv`; the images and outlines beside the table are found by file name.

    Raises:
        LabelError: The table cannot be read, a column is missing, or a value breaks a rule.
    """
    files = {
        found[1]: (found, file) for file in sorted(path.parent.rglob("*")) if (found := _FILE.fullmatch(file.name))
    }
    records, refused = [], []
    for line, row in enumerate(_rows(path), 2):
        image_id = row["File Name"].strip()
        if not image_id:
            continue  # the released table ends in empty rows
        if image_id not in files:
            refused.append((image_id, f"{path.name}, line {line}: no image {image_id}_<hash>_MG_<side>_<view>_ANON"))
            continue
        found, file = files[image_id]
        records.append(_record(row, found, file, path.parent, f"{path}, line {line}"))
    if not records:
        raise LabelError(f"{path}: no row of it has an image {next(iter(refused), ('', ''))[1]}")
    return Table(sorted(records, key=lambda record: record.image_id), refused)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=";")
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            missing = [name for name in _COLUMNS if name not in reader.fieldnames]
            if missing:
                raise LabelError(f"{path}: no column {', '.join(missing)}; the table is separated by semicolons")
            return [{key: value or "" for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path}: cannot be read as a CSV file: {error}") from None


def _record(row: dict[str, str], found: re.Match[str], file: Path, folder: Path, where: str) -> ImageRecord:
    birads, side, view = row["Bi-Rads"].strip(), row["Laterality"].strip(), row["View"].strip()
    if birads[:1] not in tuple("123456"):
        raise LabelError(f"{where}: Bi-Rads {birads!r} must be 1 to 6, with a letter after 4 or not")
    if side != found[3].upper() or VIEWS.get(view) is not VIEWS[found[4].upper()]:
        raise LabelError(f"{where}: side {side!r} and view {view!r} are not those of the file {file.name}")
    label = CLASSES.get(birads[:1], Label.MALIGNANT)
    return ImageRecord(
        image_id=found[1],
        patient_id=found[2].lower(),
        dataset="inbreast",
        laterality=Laterality.LEFT if side == "L" else Laterality.RIGHT,
        view=VIEWS[view],
        label=label,
        path=file.relative_to(folder).as_posix(),
        density=row["ACR"].strip(),
        birads=birads,
        finding="" if label is Label.NORMAL else "BI-RADS " + birads,
        lesions=_outlined(folder / OUTLINES / f"{found[1]}.xml", label),
        pixel_spacing_mm=PIXEL_SPACING_MM,
    )


def _outlined(path: Path, label: Label) -> tuple[Lesion, ...]:
    """Return the circles around an image's outlined findings; () if there is no file of outlines."""
    if not path.is_file():
        return ()
    try:
        images = plistlib.loads(path.read_bytes())["Images"]
        regions = [region for image in images for region in image["ROIs"]]
        return tuple(lesion for region in regions if (lesion := _circle(region, label)) is not None)
    except (ExpatError, plistlib.InvalidFileException, KeyError, TypeError, ValueError) as error:
        raise LabelError(f"{path}: is not a property list with Images, ROIs and Point_px: {error}") from None


def _circle(region: dict[str, Any], label: Label) -> Lesion | None:
    """Return the circle around an outline; `None` for single points."""
    points = [tuple(float(number) for number in text.strip("() ").split(",")) for text in region["Point_px"]]
    if len(points) < _AREA_POINTS:
        return None
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top, bottom = min(y for _, y in points), max(y for _, y in points)
    radius = max(right - left, bottom - top) / 2
    shown = label if label is not Label.NORMAL else Label.BENIGN
    return Lesion((left + right) / 2, (top + bottom) / 2, radius, shown, str(region.get("Name", "")))


def check(folder: Path) -> Table:
    """Return the table of a folder; raises `LabelError` if it differs from the released INbreast."""
    return read_table(folder / LABEL_TABLE)


DATASET = Dataset(
    name="inbreast",
    terms=Terms(
        title="INbreast, 410 full-field digital mammograms of 115 women, Porto, Portugal. Classes are BI-RADS "
        "categories of the images: 1 normal, 2 and 3 benign, 4 to 6 malignant.",
        licence="Research only, on request to its authors; not to be passed on.",
        citation="Cite I. Moreira et al. 2012, INbreast: toward a full-field digital mammographic database, Academic "
        "Radiology 19(2), 236-248.",
    ),
    label_table=LABEL_TABLE,
    patterns=(LABEL_TABLE, "**/*_ANON.dcm", "**/*_ANON.png", f"{OUTLINES}/*.xml"),
    read_table=read_table,
    check=check,
    more_labels=(f"{OUTLINES}/",),
)
