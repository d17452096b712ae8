"""Reads CBIS-DDSM: four tables of abnormalities, digitised films, and masks of the abnormalities.

Source: R. Sawyer-Lee et al. 2017, "A curated mammography data set for use in computer-aided detection and diagnosis
research", Scientific Data 4, 170177; the collection CBIS-DDSM of The Cancer Imaging Archive.

Each row of a table is one abnormality: `patient_id`, `left or right breast`, `image view`, `pathology`, and the paths
of the whole image, the cropped lesion and the mask. The paths hold line breaks, are not those of the download, and
confuse cropped lesions with masks. So files are found by the folder of the image (`Mass-Training_P_00001_LEFT_CC`) or
by the UID of its series, in the folders of the archive's downloader as well as in copies with JPEG files.

Classes: a film is malignant if one of its abnormalities is; `BENIGN` and `BENIGN_WITHOUT_CALLBACK` are benign. There is
no normal film. A film that is in the tables of masses and of calcifications is one image with all its abnormalities. A
woman with images in the released training and test sets is in the test set with all her images.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mammopipe.processing.datasets.collection import (
    by_folder,
    dicom_header,
    files_below,
    folder_and_name,
    is_dicom_name,
    is_image,
    meaning_of,
    preferred,
    read_rows,
    worst,
)
from mammopipe.processing.datasets.definition import Dataset, LabelTable, Terms
from mammopipe.processing.datasets.lesion_masks import Mask
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Split, View
from mammopipe.processing.errors import LabelError

NAME = "cbis-ddsm"
LABEL_TABLE = "mass_case_description_train_set.csv"
OTHER_TABLES = (
    "mass_case_description_test_set.csv",
    "calc_case_description_train_set.csv",
    "calc_case_description_test_set.csv",
    "mass_case_description*.csv",
    "calc_case_description*.csv",
)
"""The other released tables, and those of copies that put the released ones together."""
COLUMNS = (
    "patient_id", "left or right breast", "image view", "abnormality id", "abnormality type", "assessment",
    "pathology", "image file path", "cropped image file path", "ROI mask file path",
)  # fmt: skip
PATHOLOGIES = {
    "BENIGN": Label.BENIGN,
    "BENIGN_WITHOUT_CALLBACK": Label.BENIGN,
    "MALIGNANT": Label.MALIGNANT,
}
SIDES = {"LEFT": Laterality.LEFT, "RIGHT": Laterality.RIGHT}
VIEWS = {"CC": View.CC, "MLO": View.MLO}
_DENSITIES = ("breast density", "breast_density")
_SPLIT = re.compile(r"(?<![a-z])(train|test)(?:ing)?(?![a-z])", re.IGNORECASE)
"""The released split in the name of an image's folder or of a table."""
_NO_IMAGE = re.compile(r"roi mask|cropped", re.IGNORECASE)


@dataclass(frozen=True)
class _Row:
    """One abnormality."""

    where: str
    abnormality: tuple[str, str]
    """Type of the abnormality and its number within the image."""
    patient: str
    side: Laterality
    view: View
    label: Label
    split: Split
    density: str
    assessment: str
    finding: str
    image: tuple[str, ...]
    """The parts of the image's path in the table: its folder, the study's UID, the series' UID, the file."""
    cuts: tuple[tuple[str, ...], ...]
    """The parts of the paths of the cropped lesion and of the mask."""

    @property
    def image_id(self) -> str:
        return f"{self.patient}_{self.side.name}_{self.view.name}"


class _Files:
    """The image files of a copy of the collection."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = [path for path in files_below(folder) if is_image(path)]
        self.by_folder = by_folder(self.paths, folder)
        self._by_header: dict[str, list[Path]] | None = None

    def find(self, parts: Sequence[str]) -> list[Path]:
        """Return the files of a path in the table: that file, or those of its series, its image's folder or header."""
        exact = self.folder.joinpath(*parts)
        if exact.is_file():
            return [exact]
        for name in map(str.casefold, (*parts[-2:-1], *parts[:1])):
            if name in self.by_folder:
                return self.by_folder[name]
        if self._by_header is None:  # reading every header takes long, so only if no name leads to a file
            self._by_header = {}
            for path in filter(is_dicom_name, self.paths):
                # Patient ID is the name of the image's folder in the archive.
                name = str(dicom_header(path, ["PatientID"]).get("PatientID", ""))
                self._by_header.setdefault(name, []).append(path)
        return self._by_header.get(parts[0], []) if parts else []


def read_release(folder: Path) -> LabelTable:
    """Return one record per image of the tables below a folder, with its masks.

    Raises:
        LabelError: A table cannot be read, or no image of the tables is below the folder.
    """
    tables = DATASET.tables(folder)
    if not tables:
        raise LabelError(f"{folder}: none of {', '.join((LABEL_TABLE, *OTHER_TABLES))} here")
    refused: list[tuple[str, str]] = []
    rows: dict[str, list[_Row]] = {}
    # Of several copies of a table, only the uppermost is read: in the reversed order it is the last of its name.
    for table in {path.name.lower(): path for path in reversed(tables)}.values():
        for row in _rows(table, refused):
            group = rows.setdefault(row.image_id, [])
            # Copies of a table, and tables that were put together, list an abnormality twice.
            if all(
                (row.abnormality, row.label, row.cuts) != (other.abnormality, other.label, other.cuts)
                for other in group
            ):
                group.append(row)
    files, tested = _Files(folder), {row.patient for group in rows.values() for row in group if row.split is Split.TEST}
    records, masks = [], {}
    for image_id, group in sorted(rows.items()):
        found = _image(group, files)
        if found is None:
            refused.append(
                (image_id, f"{group[0].where}: no image in a folder {'/'.join(group[0].image[:1])!r} or of its series")
            )
            continue
        records.append(_record(image_id, group, found.relative_to(folder), tested))
        masks[image_id] = list(_masks(group, files, found))
    if not records:
        raise LabelError(f"{folder}: no image of the tables is here{'; ' + refused[0][1] if refused else ''}")
    return LabelTable(records, refused, masks={image_id: held for image_id, held in masks.items() if held})


def _rows(table: Path, refused: list[tuple[str, str]]) -> Iterable[_Row]:
    for line, row in read_rows(table, COLUMNS):
        where = f"{table.name}, line {line}"
        name = f"{row['patient_id']}_{row['left or right breast']}_{row['image view']}"
        try:
            yield _Row(
                where,
                (row["abnormality type"], row["abnormality id"]),
                row["patient_id"],
                meaning_of(row, "left or right breast", SIDES),
                meaning_of(row, "image view", VIEWS),
                meaning_of(row, "pathology", PATHOLOGIES),
                _split(row["image file path"], table),
                next((row[density] for density in _DENSITIES if row.get(density)), ""),
                row["assessment"],
                row["abnormality type"],
                _parts(row["image file path"]),
                tuple(_parts(row[name]) for name in ("cropped image file path", "ROI mask file path") if row[name]),
            )
        except ValueError as error:
            refused.append((name, f"{where}: {error}"))


def _split(image: str, table: Path) -> Split:
    """Return the released split of an image: the one in its table's name, or else in the name of its folder."""
    for name in (table.stem, *_parts(image)[:1]):
        found = {word.lower() for word in _SPLIT.findall(name)}
        if len(found) == 1:
            return Split.TEST if found == {"test"} else Split.TRAIN
    raise ValueError(f"neither the table's name nor the image file path {image!r} says training or test")


def _parts(path: str) -> tuple[str, ...]:
    """Return the parts of a path in the table; released paths hold line breaks and end in them."""
    return tuple(part.strip() for part in re.sub(r"[\r\n]", "", path).replace("\\", "/").split("/") if part.strip())


def _image(rows: Sequence[_Row], files: _Files) -> Path | None:
    """Return the file of the whole image, the first that is found for one of its abnormalities."""
    for row in rows:
        found = [path for path in files.find(row.image) if not _NO_IMAGE.search(folder_and_name(path))]
        if found:
            return preferred(found)
    return None


def _masks(rows: Sequence[_Row], files: _Files, image: Path) -> Iterable[Mask]:
    """Yield one mask per abnormality: both its files are candidates, because the tables confuse them."""
    for row in rows:
        candidates = {path for parts in row.cuts for path in files.find(parts) if path != image}
        if candidates:
            yield Mask(
                tuple(sorted(path.relative_to(files.folder).as_posix() for path in candidates)),
                row.label,
                row.finding,
                one=True,
            )


def _record(image_id: str, rows: Sequence[_Row], path: Path, tested: set[str]) -> ImageRecord:
    first = rows[0]
    return ImageRecord(
        image_id=image_id,
        patient_id=first.patient,
        dataset=NAME,
        laterality=first.side,
        view=first.view,
        label=worst(row.label for row in rows),
        split=Split.TEST if first.patient in tested else Split.TRAIN,
        path=path.as_posix(),
        density=first.density,
        birads=max(row.assessment for row in rows),
        finding=" and ".join(sorted({row.finding for row in rows})),
    )


DATASET = Dataset(
    name=NAME,
    terms=Terms(
        title="CBIS-DDSM, 3,103 digitised films of 1,566 women, United States. Classes are pathology: malignant, or "
        "benign with or without callback; no film is normal.",
        licence="CC BY 3.0.",
        citation="Cite R. Sawyer-Lee et al. 2016, Curated Breast Imaging Subset of DDSM, The Cancer Imaging Archive, "
        "doi 10.7937/K9/TCIA.2016.7O02S9CY; and R. S. Lee et al. 2017, Scientific Data 4, 170177.",
    ),
    label_table=LABEL_TABLE,
    other_tables=OTHER_TABLES,
    anywhere=True,
    patterns=(LABEL_TABLE, *OTHER_TABLES),
    read_table=lambda path: read_release(path.parent),
    check=read_release,
)
