"""Reads a site's own table, CSV or Parquet, as rows of text under our names of the fields.

The settings `[own]` (`OwnTable`) map the table's columns and values. `mammopipe.processing.datasets.own` makes records
of the rows.
"""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mammopipe.processing.datasets.manifest import Label, Split, View
from mammopipe.processing.errors import LabelError
from mammopipe.processing.settings import Settings, suggestion

if TYPE_CHECKING:
    import pandas

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
REQUIRED = ("image", "patient", "label")
CIRCLE = ("lesion_x", "lesion_y", "lesion_radius")
BOX = ("lesion_x_min", "lesion_y_min", "lesion_x_max", "lesion_y_max")
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
    "synthetic": "true for images that no patient is behind",
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
    "synthetic": {"true": "true", "1": "true", "false": "false", "0": "false"},
}
"""The values that need no mapping, in lower case."""


class OwnTable(Settings):
    """The mapping of the columns and values of a site's own table."""

    columns: Mapping[str, str] = Field(
        default_factory=dict,
        description="column of the table for each of our names (image, patient, label, side, view, ...), where the "
        'table calls it otherwise: patient = "PatientNo"',
    )
    values: Mapping[str, Mapping[str, str]] = Field(
        default_factory=dict,
        description='for each of our names, what the table\'s values mean: [own.values.label] "1" = "malignant"',
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
class Row:
    """One row of the table with our field names and all values as text."""

    line: int
    values: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")


def find_table(source: Path) -> Path:
    """Return the table: the source itself, or the only table in it; raises `LabelError` for none or several."""
    if source.is_file():
        if source.suffix.lower() not in TABLE_SUFFIXES:
            raise LabelError(f"{source}: a table ends in {', '.join(TABLE_SUFFIXES)}")
        return source
    found = (
        sorted(path for path in source.glob("*") if path.suffix.lower() in TABLE_SUFFIXES) if source.is_dir() else []
    )
    if len(found) != 1:
        names = f"; here are {', '.join(path.name for path in found)}" if found else ""
        raise LabelError(f"{source}: must be a table ({', '.join(TABLE_SUFFIXES)}) or a folder that holds one{names}")
    return found[0]


def _frame(path: Path) -> "pandas.DataFrame":
    import pandas

    try:
        if path.suffix.lower() == ".parquet":
            return pandas.read_parquet(path)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            text = stream.read()
        first = text.partition("\n")[0]
        separator = max(",;\t", key=first.count)
        return pandas.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except ImportError:
        raise LabelError(f"{path}: a Parquet table needs pyarrow; pip install 'mammopipe[parquet]'") from None
    except (OSError, ValueError, csv.Error) as error:
        raise LabelError(f"{path}: cannot be read as a table: {str(error).splitlines()[0]}") from None


def read_rows(path: Path, mapping: OwnTable, *, labelled: bool) -> list[Row]:
    """Return the rows with our field names and mapped values."""
    frame = _frame(path)
    columns: dict[str, str] = {}
    for name in FIELDS:
        column = mapping.columns.get(name, name)
        if column in frame.columns:
            columns[name] = column
        elif name in mapping.columns:
            hint = suggestion(column, map(str, frame.columns))
            raise LabelError(f"{path}: no column {column!r}, which own.columns.{name} names{hint}")
    for name in REQUIRED if labelled else ("image",):
        if name not in columns:
            raise LabelError(
                f"{path}: no column {name!r}; its columns are {', '.join(map(str, frame.columns))}: say which one it "
                f'is by [own.columns] {name} = "..."'
            )
    if frame.empty:
        raise LabelError(f"{path}: has no rows")
    texts = {name: [_text(value) for value in frame[column]] for name, column in columns.items()}
    found = []
    for index in range(len(frame)):
        values = {name: _mapped(name, texts[name][index], mapping) for name in columns}
        found.append(Row(index + 2, values))
    return found


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
    text = meanings.get(text, text)
    return _WORDS.get(name, {}).get(text.lower(), text)
