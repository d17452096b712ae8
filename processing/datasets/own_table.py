"""Reads a site's own table (CSV, spreadsheet or Parquet) as rows of text with this project's names of the fields.

The settings `[own]` (`OwnTable`) map the table's columns and values. `mammopipe.processing.datasets.own` makes records
from the rows.
"""

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mammopipe.processing.datasets.manifest import Label, Split, View
from mammopipe.processing.errors import LabelError
from mammopipe.processing.settings import Settings, close_to, suggestion

if TYPE_CHECKING:
    import pandas

SPREADSHEETS = (".xlsx", ".xls", ".ods")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", *SPREADSHEETS)
SEPARATORS = ",;\t|"
REQUIRED = ("image", "patient", "label")
CIRCLE = ("lesion_x", "lesion_y", "lesion_radius")
BOX = ("lesion_x_min", "lesion_y_min", "lesion_x_max", "lesion_y_max")
NUMBERS = (*CIRCLE, *BOX, "age", "pixel_spacing_mm")
FIELDS: Mapping[str, str] = {
    "image": "the image's file, relative to the folder of images; the suffix may be left out",
    "patient": "pseudonym of the patient: splits keep a patient's images together by it",
    "label": "normal, benign and malignant; or negative and malignant",
    "side": "L or R",
    "view": "CC, MLO, ML, LM, LMO, AT",
    "split": "train, validation or test; kept where every row has one",
    "age": "years",
    "density": "breast density, as the site writes it",
    "site": "where the image was made",
    "machine": "the device that made it",
    "birads": "BI-RADS assessment",
    "finding": "kind of lesion",
    "implant": "true or false",
    "pixel_spacing_mm": "millimetres from pixel to pixel",
    "synthetic": "true for synthetic images, which show no patient",
    "lesions": "JSON list of circles {x, y, radius} or boxes {x_min, y_min, x_max, y_max}, in pixels from the top left",
    **dict.fromkeys(CIRCLE, "a circle around a lesion, in pixels from the top left; several rows are several lesions"),
    **dict.fromkeys(BOX, "a box around a lesion, in pixels from the top left; several rows are several lesions"),
    "lesion_label": "benign, malignant or negative; empty: the image's label",
}
"""The fields of a table, with the names to which `[own.columns]` maps columns."""
_WORDS: Mapping[str, Mapping[str, str]] = {
    "side": {"l": "L", "left": "L", "r": "R", "right": "R"},
    "label": {str(label): str(label) for label in Label},
    "lesion_label": {str(label): str(label) for label in Label},
    "view": {str(view).lower(): str(view) for view in View},
    "split": {str(split): str(split) for split in Split} | {"val": "validation", "valid": "validation"},
    "implant": {"true": "true", "1": "true", "yes": "true", "false": "false", "0": "false", "no": "false"},
    "synthetic": {"true": "true", "1": "true", "yes": "true", "false": "false", "0": "false", "no": "false"},
}
"""The values that need no mapping, in lower case."""
_MISSING = ("nan", "<na>", "#n/a", "n/a", "na", "nat", "null", "none")
"""The words, in lower case, that programs write for a missing value."""
_FREE = ("site", "machine", "finding")
"""In these fields, only the first three of these words mean a missing value: NA may name a site, none a finding."""
_SYNONYMS: Mapping[str, str] = {"laterality": "side", "breast": "side", "projection": "view", "position": "view"}
"""The field for other common names of its column."""


class OwnTable(Settings):
    """The mapping of the columns and values of a site's own table."""

    columns: Mapping[str, str] = Field(
        default_factory=dict,
        description="the table's column for a field (image, patient, label, side, view, ...), if the column has "
        'another name: patient = "PatientNo"',
    )
    values: Mapping[str, Mapping[str, str]] = Field(
        default_factory=dict,
        description='meanings of the table\'s values, for each field: [own.values.label] "1" = "malignant"',
    )
    images: str = Field(default="", description="folder of the images; empty: the folder of the table")

    def checked(self) -> "OwnTable":
        """Return the mapping; raises `LabelError` for an unknown field name."""
        for table, names in (("columns", self.columns), ("values", self.values)):
            for name in names:
                if name not in FIELDS:
                    raise LabelError(f"own.{table}.{name}: no such name{suggestion(name, FIELDS)}")
        return self


AS_THEY_ARE = OwnTable()


@dataclass(frozen=True)
class OwnTableRow:
    """One row of the table with our field names and all values as text."""

    line: int
    values: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")


def find_table(source: Path) -> Path:
    """Return the table: the source itself, or the only table in it; raises `LabelError` for none or several."""
    if not source.exists():
        raise LabelError(f"{source}: no such file or folder")
    if source.is_file():
        if source.suffix.lower() not in TABLE_SUFFIXES:
            raise LabelError(f"{source}: a table ends in {', '.join(TABLE_SUFFIXES)}")
        return source
    found = (
        sorted(path for path in source.glob("*") if path.suffix.lower() in TABLE_SUFFIXES) if source.is_dir() else []
    )
    if len(found) != 1:
        names = f"; here are {', '.join(path.name for path in found)}" if found else ""
        raise LabelError(
            f"{source}: must be a table ({', '.join(TABLE_SUFFIXES)}) or a folder that holds one{names}; "
            f"a table has the columns {', '.join(REQUIRED)} and one row per image"
        )
    return found[0]


@dataclass(frozen=True)
class _Cells:
    """A table as it is written: the names of its columns, and each row with its line."""

    columns: Sequence[str]
    rows: Sequence[tuple[int, Sequence[Any]]]
    decimal_comma: bool = False
    """Whether a number may be written with a decimal comma, as spreadsheets do that separate columns by semicolons."""


def _read(path: Path) -> _Cells:
    try:
        if path.suffix.lower() in SPREADSHEETS:
            return _spreadsheet(path)
        if path.suffix.lower() == ".parquet":
            import pandas

            frame = pandas.read_parquet(path)
            # A column that was made the index has a name; other indices are numbers of rows.
            return _of_frame(frame.reset_index() if any(frame.index.names) else frame)
        return _text_table(path)
    except ImportError as error:
        raise LabelError(f"{path}: needs {error.name}; pip install 'mammopipe[pipelines]'") from None
    except OSError as error:
        raise LabelError(f"{path}: cannot be read as a table: {error.strerror or str(error).splitlines()[0]}") from None
    except ValueError as error:
        raise LabelError(f"{path}: cannot be read as a table: {str(error).splitlines()[0]}") from None


def _text_table(path: Path) -> _Cells:
    data = path.read_bytes()
    coding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(coding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise LabelError(
            f"{path}: line {line}, byte {error.start} is not UTF-8; save the table as UTF-8 (in Excel: CSV UTF-8)"
        ) from None
    if not text.strip():
        raise LabelError(f"{path}: is empty")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise LabelError(f"{path}: line {line} contains a zero byte, which no text has; the file is damaged")
    first = text.partition("\n")[0].strip()
    stated = re.fullmatch(r"sep=(.)", first, re.IGNORECASE)  # Excel's own line, which no other program shows
    separator = stated[1] if stated else max(SEPARATORS, key=first.count)
    columns, *rows = _lines(path, text, separator)[1 if stated else 0 :] or [(1, [])]
    if len(columns[1]) < 2 and rows:
        raise LabelError(
            f"{path}: line {columns[0]}, {first[:60]!r}, must name the columns, such as {', '.join(REQUIRED)}, with "
            "a comma, semicolon, tab or vertical bar between them"
        )
    for line, row in rows:
        if len(row) != len(columns[1]):
            raise LabelError(
                f"{path}: line {line} has {len(row)} fields, the header {len(columns[1])}; quote a value that contains "
                f"{separator!r}"
            )
    return _Cells(columns[1], rows, decimal_comma=separator != ",")


def _lines(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return the header and the rows of a text that are not empty, each with its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found, begins = [], 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                found.append((begins, row))
            begins = reader.line_num + 1
    except csv.Error as error:
        reason = "opens a quote that is not closed" if "end of data" in str(error) else f"cannot be read: {error}"
        raise LabelError(f"{path}: line {begins} {reason}") from None
    return found


def _spreadsheet(path: Path) -> _Cells:
    import pandas
    from python_calamine import CalamineError

    try:
        sheets = pandas.read_excel(path, sheet_name=None, dtype=object, na_filter=False, engine="calamine")
    except CalamineError as error:
        raise LabelError(f"{path}: cannot be read as a spreadsheet: {error}") from None
    if len(sheets) > 1:
        raise LabelError(f"{path}: has {len(sheets)} sheets; a table has one")
    return _of_frame(next(iter(sheets.values())))


def _of_frame(frame: "pandas.DataFrame") -> _Cells:
    rows = enumerate(frame.values.tolist(), 2)
    return _Cells([str(name) for name in frame.columns], [(line, row) for line, row in rows if any(map(_text, row))])


def read_rows(path: Path, mapping: OwnTable, *, labelled: bool) -> list[OwnTableRow]:
    """Return the rows with our field names and mapped values."""
    table = _read(path)
    places = _places(path, table.columns, mapping)
    for name in REQUIRED if labelled else ("image",):
        if name not in places:
            raise LabelError(
                f"{path}: no column {name!r}; its columns are {', '.join(table.columns)}: map one of them with "
                f'[own.columns] {name} = "..."'
            )
    if not table.rows:
        raise LabelError(f"{path}: has no rows")
    found = []
    for line, cells in table.rows:
        texts = {name: _text(cells[place]) for name, place in places.items()}
        if table.decimal_comma:
            texts |= {name: _with_point(texts[name]) for name in NUMBERS if name in texts}
        found.append(OwnTableRow(line, {name: _mapped(name, text, mapping) for name, text in texts.items()}))
    _require_distinct_patients(path, found)
    return found


def columns_without_field(path: Path, mapping: OwnTable) -> list[str]:
    """Return the columns that no field uses, each with the field that may be meant: `laterality (side?)`."""
    columns = _read(path).columns
    used = set(_places(path, columns, mapping).values())
    unused = [name.strip() for place, name in enumerate(columns) if place not in used and name.strip()]
    words = [name.casefold() for name in unused]
    meant = [_SYNONYMS.get(word) or next(iter(close_to(word, FIELDS)), "") for word in words]
    return [f"{name} ({field}?)" if field else name for name, field in zip(unused, meant, strict=True)]


def _require_distinct_patients(path: Path, rows: Sequence[OwnTableRow]) -> None:
    """Raise `LabelError` for two spellings that may be one patient, whose images could then be in two splits."""
    first: dict[str, OwnTableRow] = {}
    for row in rows:
        known = first.setdefault(_spelling(row["patient"]), row)
        if known["patient"] != row["patient"]:
            raise LabelError(
                f"{path}: patient {known['patient']!r} in line {known.line} and {row['patient']!r} in line {row.line} "
                "may be one; write a patient in one way, or map it: [own.values.patient]"
            )


def _spelling(patient: str) -> str:
    """Return a pseudonym in lower case, without spaces, leading zeros and the decimal point that programs add."""
    text = "".join(unicodedata.normalize("NFKC", patient).casefold().split())
    number = re.fullmatch(r"0*(\d+?)(\.0*)?", text)
    return number[1] if number else text


def _places(path: Path, columns: Sequence[str], mapping: OwnTable) -> dict[str, int]:
    """Return the position of each field's column; upper and lower case and spaces around a name do not matter."""
    names = [name.strip().casefold() for name in columns]
    found = {}
    for name in FIELDS:
        column = mapping.columns.get(name, name)
        places = [place for place, other in enumerate(columns) if other.strip() == column]
        places = places or [place for place, other in enumerate(names) if other == column.casefold()]
        if len(places) > 1:
            raise LabelError(f"{path}: {len(places)} columns are named {column!r}; give each another name")
        if places:
            found[name] = places[0]
        elif name in mapping.columns:
            hint = suggestion(column, columns)
            raise LabelError(f"{path}: no column {column!r}, which own.columns.{name} names{hint}")
    return found


def _with_point(text: str) -> str:
    return text.replace(",", ".") if re.fullmatch(r"-?\d+,\d+", text) else text


def _text(value: Any) -> str:
    """Return a cell as text: a missing value as "", a whole number without a decimal point."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str):
        return value.strip()
    if hasattr(value, "tolist"):
        value = value.tolist()
    return json.dumps(value) if isinstance(value, list | dict) else str(value).strip()


def _mapped(name: str, text: str, mapping: OwnTable) -> str:
    meanings = mapping.values.get(name, {})
    if text in meanings:
        text = meanings[text]
    elif text.lower() in (_MISSING[:3] if name in _FREE else _MISSING):
        return ""
    return _WORDS.get(name, {}).get(text.lower(), text)
