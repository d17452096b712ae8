"""Finds and reads the files of public collections, whose copies differ in folders, table formats and extra files."""

import codecs
import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from mammopipe.processing.datasets.manifest import Label, Lesion
from mammopipe.processing.errors import LabelError

Value = TypeVar("Value")
IMAGE_SUFFIXES = (".dcm", ".dicom", ".tif", ".tiff", ".png", ".pgm", ".jpg", ".jpeg")
"""Suffixes of images, the least altered format first; of several copies of an image, the first format is used."""
SPREADSHEETS = (".xls", ".xlsx")
_IGNORED_FOLDERS = ("__MACOSX",)
_SEPARATORS = ";,\t|"


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted, without hidden files and those that operating systems add."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _IGNORED_FOLDERS]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)


def tables_in(folder: Path, patterns: Sequence[str], *, spreadsheets: bool = False) -> list[Path]:
    """Return the files below a folder whose names match a pattern, in upper or lower case.

    Files that match an earlier pattern come first; among equals, the file in the uppermost folder. With `spreadsheets`,
    a pattern of CSV files also matches spreadsheets.
    """
    files = sorted(files_below(folder), key=lambda path: len(path.parts))
    names = [
        other
        for pattern in map(str.lower, patterns)
        for other in (pattern, *(pattern.replace(".csv", each) for each in SPREADSHEETS if spreadsheets))
    ]
    return list(dict.fromkeys(path for name in names for path in files if fnmatch(path.name.lower(), name)))


def preferred(paths: Iterable[Path]) -> Path:
    """Return the file in the least altered format; among equals the one in the uppermost folder."""
    return min(paths, key=lambda path: (IMAGE_SUFFIXES.index(path.suffix.lower()), len(path.parts), str(path)))


def is_image(path: Path) -> bool:
    """Return whether the file name ends like that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_dicom_name(path: Path) -> bool:
    """Return whether the file name ends like that of a DICOM file."""
    return path.suffix.lower() in (".dcm", ".dicom")


def dicom_header(path: Path, keywords: Sequence[str]) -> Any:
    """Return these attributes of a DICOM file by keyword; empty for a file that is no DICOM file, or damaged.

    The reader refuses such a file later, and says why.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
    except (InvalidDicomError, OSError, EOFError, ValueError):
        return {}


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a table with their line numbers; empty rows are left out.

    Args:
        path: A CSV file with any of the separators `; , tab |`, or a spreadsheet (xls, xlsx).
        columns: Names of the columns that the table must have. Spaces around a name and its case do not matter; rows
            hold these columns under the given names, and other columns under their own names.

    Raises:
        LabelError: The table cannot be read, or lacks a column.
    """
    cells = _spreadsheet(path) if path.suffix.lower() in SPREADSHEETS else _text(path)
    known = {_plain(name): name for name in columns}
    start = next((n for n, row in enumerate(cells) if set(known) <= {_plain(cell) for cell in row}), None)
    if start is None:
        head = {_plain(cell) for cell in cells[0]} if cells else set()
        missing = [name for plain, name in known.items() if plain not in head]
        raise LabelError(f"{path}: no column {', '.join(missing)} in its first row")
    names = [known.get(_plain(cell), cell.strip()) for cell in cells[start]]
    rows = []
    for line, row in enumerate(cells[start + 1 :], start + 2):
        if any(cell.strip() for cell in row):
            padded = [*row, *[""] * (len(names) - len(row))]
            rows.append((line, {name: cell.strip() for name, cell in zip(names, padded, strict=False) if name}))
    return rows


def meaning_of(row: Mapping[str, str], name: str, known: Mapping[str, Value]) -> Value:
    """Return the meaning of a cell, in upper or lower case; raises `ValueError` if it has none."""
    for word, value in known.items():
        if row[name].casefold() == word.casefold():
            return value
    raise ValueError(f"{name} {row[name]!r} must be one of {', '.join(known)}")


def _plain(name: str) -> str:
    return "".join(name.split()).casefold()


def _text(path: Path) -> list[list[str]]:
    try:
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # "Unicode text" of spreadsheet programs
            text = data.decode("utf-16")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = data.decode("cp1252")
        first = text.partition("\n")[0]
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=max(_SEPARATORS, key=first.count)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path}: cannot be read as a CSV file: {error}") from None


def _spreadsheet(path: Path) -> list[list[str]]:
    try:
        import pandas

        frame = pandas.read_excel(path, header=None, dtype=object, na_filter=False, engine="calamine")
    except ImportError:
        raise LabelError(
            f"{path}: a spreadsheet needs pandas and python-calamine: pip install 'mammopipe[pipelines]'"
        ) from None
    except Exception as error:  # the libraries that pandas calls raise errors with no narrower common class
        raise LabelError(f"{path}: cannot be read as a spreadsheet: {error}") from None
    return [[_cell(value) for value in row] for row in frame.itertuples(index=False)]


def _cell(value: object) -> str:
    """Return a cell as text; spreadsheets store whole numbers as floating point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def by_folder(paths: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """Return the files by the name of each folder above them, below `root`; names are case-folded."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        for name in {part.casefold() for part in path.relative_to(root).parts[:-1]}:
            found.setdefault(name, []).append(path)
    return found


def folder_and_name(path: Path) -> str:
    """Return a file's name with that of its folder, `Masks/20586908.png`, which show the kind of the file.

    The folders further up may have names that the user chose.
    """
    return f"{path.parent.name}/{path.name}"


def circle_around(left: float, top: float, right: float, bottom: float, label: Label, finding: str = "") -> Lesion:
    """Return the circle around the centre of a box, with half its longer side as radius.

    A finding of a normal image counts as benign.
    """
    shown = Label.BENIGN if label is Label.NORMAL else label
    return Lesion((left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top) / 2, shown, finding)


def worst(labels: Iterable[Label]) -> Label:
    """Return the most serious of several labels."""
    return max(labels, key=lambda label: label.rank)


BIRADS_CLASSES: Mapping[str, Label] = {
    "1": Label.NORMAL,
    "2": Label.BENIGN,
    "3": Label.BENIGN,
    "4": Label.MALIGNANT,
    "5": Label.MALIGNANT,
    "6": Label.MALIGNANT,
}
"""The class of each BI-RADS category, for collections without pathology: the project's convention."""


_BIRADS = re.compile(r"(?:BI-?RADS)?[\s:_-]*(?:([1-6])(?:[.,]0)?|4\s*[ABC])", re.IGNORECASE)


def class_of_birads(text: str, *, where: str) -> Label:
    """Return the class of a BI-RADS category such as `4a` or `BI-RADS 4`; raises `ValueError` outside 1 to 6."""
    found = _BIRADS.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{where} {text!r} must be 1 to 6, with a letter after 4 or not")
    return BIRADS_CLASSES[found[1] or "4"]
