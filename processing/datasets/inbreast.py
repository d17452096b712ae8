"""Reads INbreast: the table `INbreast.csv`, digital mammograms, and outlines of the findings.

Source: I. Moreira et al. 2012, "INbreast: toward a full-field digital mammographic database", Academic Radiology 19(2).
An image is named `<id>_<hash of the patient>_MG_<L|R>_<CC|ML>_ANON.dcm`; `ML` stands for MLO. Copies hold other image
formats under the same name. `AllXML/<id>.xml` holds the outlines of its findings in pixels of the image (written by
OsiriX); some copies have mask images instead. The table is `INbreast.csv` or `INbreast.xls`.

The classes follow the BI-RADS category of the image, because the release does not have the pathology of every image:
1 is normal, 2 and 3 are benign, 4 to 6 are malignant. Results under other conventions are not comparable.
"""

import plistlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from mammopipe.processing.datasets.collection import (
    circle_around,
    class_of_birads,
    files_below,
    folder_and_name,
    is_image,
    preferred,
    read_rows,
)
from mammopipe.processing.datasets.definition import Dataset, LabelTable, Terms
from mammopipe.processing.datasets.lesion_masks import Mask
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, View
from mammopipe.processing.errors import LabelError

LABEL_TABLE = "INbreast.csv"
OUTLINES = "AllXML"
PIXEL_SPACING_MM = 0.07
"""Pixel spacing of the detector; some headers of the anonymised files lack it."""
VIEWS = {"CC": View.CC, "ML": View.MLO, "MLO": View.MLO, "FB": None}
"""The views of table and file names; `View` has no member for FB (from below)."""

_COLUMNS = ("Laterality", "View", "File Name", "ACR", "Bi-Rads")
_IMAGE = re.compile(r"(\d+)_([0-9a-z]+)_MG_([LR])_([A-Z]+)(_ANON)?(\.dcm|\.dicom)?", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)(\.0+|\.dcm)?", re.IGNORECASE)
"""An image's number in the table; programs write it as a decimal number, or with the suffix of the file."""
_MASK = re.compile(r"(?<![a-z])(all|mass|calc|lesion|finding)?[ _-]?(masks?|rois?)(?![a-z])", re.IGNORECASE)
_NO_FINDING = re.compile(r"pectoral|muscle|(?<!in)breast", re.IGNORECASE)
"""Names of outlines of whole organs; `INbreast` is the name of the collection."""
_AREA_POINTS = 3
"""Least number of points of an outline that encloses an area; single points mark calcifications and are left out."""
_CLUSTER_MM = 3.0
"""Least size of an outlined calcification; smaller ones are single calcifications of a cluster and are left out."""


@dataclass
class _Files:
    """The files of a copy of the release, by image id."""

    images: dict[str, list[Path]] = field(default_factory=dict)
    masks: dict[str, list[Path]] = field(default_factory=dict)
    outlines: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def below(cls, folder: Path) -> "_Files":
        """Return the images, masks and outlines below a folder, by the number that their names begin with."""
        found = cls()
        for path in files_below(folder):
            number = re.match(r"\d+", path.name)
            if number is None:
                continue
            # Some copies have separate files for the muscle's outlines and masks.
            if path.suffix.lower() == ".xml":
                if not _NO_FINDING.search(folder_and_name(path)):
                    found.outlines.setdefault(number[0], path)
            elif is_image(path) and _MASK.search(path.relative_to(folder).as_posix()):
                if not _NO_FINDING.search(folder_and_name(path)):
                    found.masks.setdefault(number[0], []).append(path)
            elif is_image(path) and _IMAGE.fullmatch(path.stem):
                found.images.setdefault(number[0], []).append(path)
        return found


def read_table(path: Path, folder: Path | None = None) -> LabelTable:
    """Return one record per usable row of the table; the images and outlines are found by file name.

    Rows without an image or with values that break a rule are refused with the reason.

    Args:
        path: `INbreast.csv` or `INbreast.xls`.
        folder: Folder of the images; by default the folder of the table.

    Raises:
        LabelError: The table cannot be read, a column is missing, or no row can be used.
    """
    folder = folder or path.parent
    files = _Files.below(folder)
    records: dict[str, ImageRecord] = {}
    refused: list[tuple[str, str]] = []
    named = set()
    for line, row in read_rows(path, _COLUMNS):
        if not row["File Name"]:
            continue  # the released table ends in rows without an image
        number = _NUMBER.fullmatch(row["File Name"])
        image_id = number[1] if number else row["File Name"]
        named.add(image_id)
        try:
            record = _record(image_id, row, files, folder)
            if image_id in records:
                raise ValueError(f"image {image_id} has two rows; the first is used")
            records[image_id] = record
        except ValueError as error:
            refused.append((image_id, f"{path.name}, line {line}: {error}"))
    unlabelled = [
        (image_id, f"{files.images[image_id][0].name}: no row of {path.name} names this image")
        for image_id in sorted(set(files.images) - named)
    ]
    if not records:
        raise LabelError(f"{path}: no usable row{': ' + refused[0][1] if refused else ''}")
    return LabelTable(
        [records[image_id] for image_id in sorted(records)],
        refused,
        unlabelled,
        {
            image_id: [Mask((path.relative_to(folder).as_posix(),), record.label) for path in files.masks[image_id]]
            for image_id, record in records.items()
            if image_id in files.masks and image_id not in files.outlines
        },
    )


def _record(image_id: str, row: Mapping[str, str], files: _Files, folder: Path) -> ImageRecord:
    side, view = row["Laterality"].upper(), row["View"].upper()
    if image_id not in files.images:
        raise ValueError(f"no image {image_id}_<hash>_MG_<side>_<view>_ANON")
    label = class_of_birads(row["Bi-Rads"], where="Bi-Rads")
    file = preferred(files.images[image_id])
    name = _IMAGE.fullmatch(file.stem)
    assert name is not None  # only such files are among the images
    if side != name[3].upper() or view not in VIEWS or VIEWS[view] is not VIEWS.get(name[4].upper()):
        raise ValueError(f"side {side!r} and view {view!r} are not those of the file {file.name}")
    return ImageRecord(
        image_id=image_id,
        patient_id=name[2].lower(),
        dataset="inbreast",
        laterality=Laterality(side),
        view=VIEWS[view],
        label=label,
        path=file.relative_to(folder).as_posix(),
        density=row["ACR"],
        birads=row["Bi-Rads"],
        finding="" if label is Label.NORMAL else "BI-RADS " + row["Bi-Rads"],
        lesions=tuple(_outlined(files.outlines[image_id], label)) if image_id in files.outlines else (),
        pixel_spacing_mm=PIXEL_SPACING_MM,
    )


def _outlined(path: Path, label: Label) -> Iterator[Lesion]:
    """Yield the circles around an image's outlined findings."""
    try:
        images = plistlib.loads(path.read_bytes())["Images"]
        for region in (region for image in images for region in image["ROIs"]):
            lesion = _circle(region, label)
            if lesion is not None:
                yield lesion
    except (ExpatError, plistlib.InvalidFileException, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.name} is not a property list with Images, ROIs and Point_px: {type(error).__name__} {error}"
        ) from None


def _circle(region: Mapping[str, Any], label: Label) -> Lesion | None:
    """Return the circle around an outline; `None` for single points, single calcifications and the pectoral muscle."""
    points = [tuple(float(number) for number in text.strip("() ").split(",")[:2]) for text in region["Point_px"]]
    name = str(region.get("Name", "")).strip()
    if len(points) < _AREA_POINTS or _NO_FINDING.search(name):
        return None
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    lesion = circle_around(min(xs), min(ys), max(xs), max(ys), label, name)
    single = name.lower().startswith("calcif") and 2 * lesion.radius * PIXEL_SPACING_MM < _CLUSTER_MM
    return None if single else lesion


def check(folder: Path) -> LabelTable:
    """Return the table of a folder; raises `LabelError` if it holds no usable INbreast."""
    tables = DATASET.tables(folder)
    if not tables:
        raise LabelError(f"{folder}: no {LABEL_TABLE} and no INbreast.xls here")
    return read_table(tables[0], folder)


DATASET = Dataset(
    name="inbreast",
    terms=Terms(
        title="INbreast, 410 full-field digital mammograms of 115 women, Porto, Portugal. Classes are BI-RADS "
        "categories of the images: 1 normal, 2 and 3 benign, 4 to 6 malignant.",
        licence="Research only, on request to its authors; not to be passed on.",
        citation="Cite I. Moreira et al. 2012, INbreast: toward a full-field digital mammographic database, Academic "
        "Radiology 19(2), 236-248.",
        note="The classes are readers' opinions, not pathology: what counts as malignant here need not be cancer.",
    ),
    label_table=LABEL_TABLE,
    other_tables=("INbreast.xls", "INbreast.xlsx"),
    anywhere=True,
    patterns=(LABEL_TABLE, "**/*_ANON.dcm", "**/*_ANON.png", f"{OUTLINES}/*.xml"),
    read_table=read_table,
    check=check,
    more_labels=(f"{OUTLINES}/",),
)
