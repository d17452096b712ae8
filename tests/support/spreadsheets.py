"""Writes a minimal workbook (Office Open XML) that spreadsheet programs read: one sheet of texts and numbers."""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape
from zipfile import ZipFile

_OFFICE = "http://schemas.openxmlformats.org"
_TYPES = f"""<Types xmlns="{_OFFICE}/package/2006/content-types"><Default Extension="rels"
 ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml"
 ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/><Override
 PartName="/xl/worksheets/sheet1.xml"
 ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>"""


def _relation(kind: str, target: str) -> str:
    return (
        f'<Relationships xmlns="{_OFFICE}/package/2006/relationships"><Relationship Id="rId1" '
        f'Type="{_OFFICE}/officeDocument/2006/relationships/{kind}" Target="{target}"/></Relationships>'
    )


def write_spreadsheet(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Write the rows as the only sheet of an xlsx file; numbers are stored as numbers, other values as text."""
    cells = "".join(
        "<row>"
        + "".join(
            f"<c><v>{value}</v></c>"
            if isinstance(value, int | float)
            else f'<c t="inlineStr"><is><t>{escape(str(value))}</t></is></c>'
            for value in row
        )
        + "</row>"
        for row in rows
    )
    main = f"{_OFFICE}/spreadsheetml/2006/main"
    relations = f"{_OFFICE}/officeDocument/2006/relationships"
    with ZipFile(path, "w") as book:
        book.writestr("[Content_Types].xml", _TYPES)
        book.writestr("_rels/.rels", _relation("officeDocument", "xl/workbook.xml"))
        book.writestr("xl/_rels/workbook.xml.rels", _relation("worksheet", "worksheets/sheet1.xml"))
        book.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{relations}"><sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/>'
            "</sheets></workbook>",
        )
        book.writestr(
            "xl/worksheets/sheet1.xml", f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>'
        )
