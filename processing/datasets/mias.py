"""Reads the mini-MIAS database: the table `Info.txt` and 322 digitised films as PGM files.

Source: J. Suckling et al. (1994), "The Mammographic Image Analysis Society Digital Mammogram Database", Excerpta
Medica, International Congress Series 1069, pp. 375-378; the notes at the head of `Info.txt`.

Films 2n-1 and 2n belong to one patient. Even numbers are left breasts, odd numbers right breasts; all views are
medio-lateral oblique. The table counts the y of a lesion from the bottom of the 1024 x 1024 film; records count it from
the top.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mammopipe.processing.datasets.definition import Dataset, LabelTable, Terms
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, View
from mammopipe.processing.errors import LabelError

FILM_SIZE = 1024
"""Rows and columns of every film."""
PIXEL_SPACING_MM = 0.2
LABEL_TABLE = "Info.txt"
PHANTOM_NOTICE = "SYNTHETIC FILMS MADE BY MAMMOPIPE: no patient, no film of the MIAS database"
"""First line of label tables of synthetic films (`mammopipe.processing.phantoms.mias_tree`); no real table has it."""
RELEASE_COUNTS = {Label.NORMAL: 207, Label.BENIGN: 63, Label.MALIGNANT: 52}
"""Films of each class in the release of 1995; the worst finding of a film determines its class."""
RELEASE_FILMS = sum(RELEASE_COUNTS.values())
RELEASE_DIGEST = "450170689c783eb601be63905d5639800baf8e07d7fa0750c69668b0fd10954d"
"""SHA-256 of the 330 rows of the released table; words are joined by one space, rows by a line feed."""

MEANINGS = {
    "density": {"F": "fatty", "G": "fatty-glandular", "D": "dense-glandular (not the D of BI-RADS)"},
    "finding": {
        "CALC": "calcification",
        "CIRC": "well-defined or circumscribed mass",
        "SPIC": "spiculated mass",
        "MISC": "other, ill-defined mass",
        "ARCH": "architectural distortion",
        "ASYM": "asymmetry",
    },
}
"""The words of the label table, as the notes at the head of `Info.txt` explain them."""
_DENSITIES, _FINDINGS = tuple(MEANINGS["density"]), tuple(MEANINGS["finding"])
_SEVERITIES = {"B": Label.BENIGN, "M": Label.MALIGNANT}
_ROW = re.compile(r"^mdb\d+\b")


class _Row(NamedTuple):
    """One row of the table; a film has one row per finding."""

    density: str
    finding: str
    label: Label
    lesion: Lesion | None


def read_labels(path: Path) -> list[ImageRecord]:
    """Return one record per film of an `Info.txt`, sorted by film; the worst finding determines the class.

    Films whose calcifications are spread over the breast have no coordinates in the table and therefore no lesions in
    the record. The text above the table is skipped. Raises `LabelError` with file, line, field and rule.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: the MIAS label table must be a readable ASCII file: {error}") from None
    rows: dict[str, list[_Row]] = {}
    for number, line in enumerate(lines, 1):
        if _ROW.match(line):
            film, row = _parse(line.split(), f"{path}, line {number}")
            rows.setdefault(film, []).append(row)
    if not rows:
        raise LabelError(f"{path}: no row `mdbNNN density class ...` found; this is not a MIAS label table")
    synthetic = lines[0].strip() == PHANTOM_NOTICE
    return [_record(film, rows[film], synthetic) for film in sorted(rows)]


def _parse(words: list[str], where: str) -> tuple[str, _Row]:
    film, density, finding = (words + ["", ""])[:3]
    if not re.fullmatch(r"mdb\d{3}", film):
        raise LabelError(f"{where}: film {film!r} must be mdb and three digits")
    if density not in _DENSITIES:
        raise LabelError(f"{where}: density {density!r} must be one of {', '.join(_DENSITIES)}")
    if finding == "NORM" and len(words) == 3:
        return film, _Row(density, finding, Label.NORMAL, None)
    if finding not in _FINDINGS:
        raise LabelError(
            f"{where}: class {finding!r} must be one of {', '.join(_FINDINGS)}, or NORM with nothing after it"
        )
    severity = words[3] if len(words) > 3 else ""
    if severity not in _SEVERITIES:
        raise LabelError(f"{where}: severity {severity!r} must be B or M")
    label = _SEVERITIES[severity]
    return film, _Row(density, finding, label, _lesion(words[4:], label, finding, where))


def _lesion(words: list[str], label: Label, finding: str, where: str) -> Lesion | None:
    if not words or words == ["*NOTE", "3*"]:
        return None
    try:
        x, y, radius = map(int, words)
    except ValueError:
        raise LabelError(f"{where}: {' '.join(words)!r} must be x, y and radius in whole pixels") from None
    if not (0 <= x < FILM_SIZE and 0 <= y < FILM_SIZE and 0 < radius < FILM_SIZE):
        raise LabelError(
            f"{where}: x {x}, y {y}, radius {radius} must lie in a film of {FILM_SIZE} x {FILM_SIZE} pixels"
        )
    return Lesion(x, FILM_SIZE - 1 - y, radius, label, finding)


def _record(film: str, rows: list[_Row], synthetic: bool) -> ImageRecord:
    number = int(film[3:])
    worst = max(rows, key=lambda row: row.label.rank)
    return ImageRecord(
        image_id=film,
        patient_id=f"mias{(number + 1) // 2:03d}",
        dataset="mias",
        laterality=Laterality.LEFT if number % 2 == 0 else Laterality.RIGHT,
        view=View.MLO,
        label=worst.label,
        path=f"{film}.pgm",
        density=worst.density,
        finding=worst.finding,
        lesions=tuple(row.lesion for row in rows if row.lesion is not None),
        pixel_spacing_mm=PIXEL_SPACING_MM,
        synthetic=synthetic,
    )


def check_release(folder: Path) -> list[ImageRecord]:
    """Return the records of a folder that holds the released mini-MIAS, or phantoms that are marked as such.

    Altered label tables (209 normal, 61 benign, 52 malignant) and incomplete copies circulate. Raises `LabelError` with
    the difference.
    """
    table = folder / LABEL_TABLE
    if not table.is_file():
        raise LabelError(f"{folder}: no {LABEL_TABLE} here; a MIAS folder holds {LABEL_TABLE} and the films mdbNNN.pgm")
    records = read_labels(table)
    _check_films(folder, records)
    if not records[0].synthetic:
        _check_table(table, records)
    return records


def _check_films(folder: Path, records: Iterable[ImageRecord]) -> None:
    expected = {record.path for record in records}
    found = {path.name for path in folder.glob("*.pgm")}
    for difference, rule in (
        (expected - found, "has a row in Info.txt but no film"),
        (found - expected, "is a film without a row in Info.txt"),
    ):
        if difference:
            raise LabelError(
                f"{folder}: {sorted(difference)[0]} {rule} ({len(difference)} such); each film has its row"
            )


def _check_table(table: Path, records: list[ImageRecord]) -> None:
    counts = Counter(record.label for record in records)
    if counts != RELEASE_COUNTS:
        difference = ", ".join(
            f"{counts[label]} {label} films instead of {count}"
            for label, count in RELEASE_COUNTS.items()
            if counts[label] != count
        )
    elif (digest := _table_digest(table)) != RELEASE_DIGEST:
        difference = f"the SHA-256 of its rows is {digest} instead of {RELEASE_DIGEST}"
    else:
        return
    raise LabelError(
        f"{table}: not the label table of mini-MIAS as released ({RELEASE_FILMS} films): {difference}; "
        f"stage the original all-mias.tar.gz"
    )


def _table_digest(table: Path) -> str:
    rows = [" ".join(line.split()) for line in table.read_text(encoding="ascii").splitlines() if _ROW.match(line)]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


DATASET = Dataset(
    name="mias",
    terms=Terms(
        "mini-MIAS, 322 digitised films of 161 women, United Kingdom.",
        "Research only: it may not be sold or rented.",
        "Cite J. Suckling et al. 1994, The Mammographic Image Analysis Society Digital Mammogram Database, Excerpta "
        "Medica, International Congress Series 1069, 375-378.",
        "Patients mias111 and mias113 show one breast (mdb221 and mdb225): no division into splits or folds separates "
        "them, and figures count them as two patients.",
    ),
    label_table=LABEL_TABLE,
    patterns=(LABEL_TABLE, "Licence.txt", "*.pgm"),
    same_breast={"mias113": "mias111"},
    meanings=MEANINGS,
    read_table=lambda path: LabelTable(read_labels(path)),
    check=lambda folder: LabelTable(check_release(folder)),
)
