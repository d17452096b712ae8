"""INbreast in the layout of its release: file names, semicolons, BI-RADS categories and outlines."""

import plistlib
from pathlib import Path

import numpy as np
import pytest

from mammopipe.processing.datasets.inbreast import DATASET, read_table
from mammopipe.processing.datasets.lesion_masks import with_lesions
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.datasets.registry import dataset_in
from mammopipe.processing.errors import LabelError
from mammopipe.processing.images.pgm_png import write_png
from tests.support.spreadsheets import write_spreadsheet

HEAD = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
ROWS = [("20586908", "6c613a14b80a8591", "R", "CC", "1", "1"), ("20586934", "6c613a14b80a8591", "L", "MLO", "3", "4a")]


def outline(*points: tuple[float, float], name: str = "Mass") -> dict[str, object]:
    return {"Name": name, "Point_px": [f"({x}, {y})" for x, y in points]}


def release(folder: Path, rows=ROWS, suffix: str = "dcm") -> Path:
    (folder / "ALL-IMGS").mkdir()
    (folder / "AllXML").mkdir()
    lines = [HEAD]
    for image, patient, side, view, density, birads in rows:
        lines.append(f"removed;removed;{side};{view};200801;{image};{density};{birads}")
        (folder / "ALL-IMGS" / f"{image}_{patient}_MG_{side}_{view[:2]}_ANON.{suffix}").write_bytes(b"")
    (folder / "INbreast.csv").write_text("\n".join([*lines, ";;;;;;;"]) + "\n")
    regions = [outline((100, 200), (300, 200), (200, 240)), outline((5, 5), name="Calcification")]
    (folder / "AllXML" / "20586934.xml").write_bytes(plistlib.dumps({"Images": [{"ROIs": regions}]}))
    return folder


@pytest.mark.parametrize("suffix", ["dcm", "png"])
def test_the_release_becomes_records(tmp_path: Path, suffix: str) -> None:
    normal, malignant = read_table(release(tmp_path, suffix=suffix) / "INbreast.csv").records
    assert (normal.image_id, normal.laterality, normal.view, normal.label) == (
        "20586908",
        Laterality.RIGHT,
        View.CC,
        Label.NORMAL,
    )
    assert normal.patient_id == malignant.patient_id == "6c613a14b80a8591" and normal.lesions == ()
    assert malignant.path == f"ALL-IMGS/20586934_6c613a14b80a8591_MG_L_ML_ANON.{suffix}"
    assert (malignant.view, malignant.label, malignant.birads, malignant.density) == (
        View.MLO,
        Label.MALIGNANT,
        "4a",
        "3",
    )
    [lesion] = malignant.lesions
    assert (lesion.x, lesion.y, lesion.radius, lesion.finding) == (200, 220, 100, "Mass")


@pytest.mark.parametrize(
    ("birads", "label"),
    [("1", "normal"), ("2", "benign"), ("3", "benign"), ("4b", "malignant"), ("5", "malignant"), ("6", "malignant")],
)
def test_classes_follow_the_stated_convention(tmp_path: Path, birads: str, label: str) -> None:
    [record] = read_table(release(tmp_path, [(*ROWS[0][:5], birads)]) / "INbreast.csv").records
    assert record.label == label and "4 to 6 malignant" in str(DATASET.terms)


def test_a_missing_image_is_refused_by_name(tmp_path: Path) -> None:
    folder = release(tmp_path)
    next((folder / "ALL-IMGS").glob("20586908*")).unlink()
    table = read_table(folder / "INbreast.csv")
    assert [record.image_id for record in table.records] == ["20586934"] and table.refused[0][0] == "20586908"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((";4a", ";0"), "Bi-Rads '0' must be 1 to 6"),
        ((";4a", ";"), "Bi-Rads '' must be 1 to 6"),
        (("L;MLO", "R;MLO"), "are not those of the file 20586934"),
        (("L;MLO", "L;CC"), "are not those of the file 20586934"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused_with_the_reason(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    table = release(tmp_path) / "INbreast.csv"
    table.write_text(table.read_text().replace(*change))
    found = read_table(table)
    assert [record.image_id for record in found.records] == ["20586908"]
    [(image_id, reason)] = found.refused
    assert image_id == "20586934" and message in reason and "line 3" in reason


def test_a_table_without_a_column_or_a_usable_row_is_refused(tmp_path: Path) -> None:
    table = release(tmp_path) / "INbreast.csv"
    text = table.read_text()
    table.write_text(text.replace("Bi-Rads", "Category"))
    with pytest.raises(LabelError, match="no column Bi-Rads"):
        read_table(table)
    table.write_text(text.replace(";1\n", ";0\n").replace(";4a", ";0"))
    with pytest.raises(LabelError, match="no usable row: INbreast.csv, line 2: Bi-Rads '0'"):
        read_table(table)


def test_irregular_copies_are_read(tmp_path: Path) -> None:
    """Extra files, a second format of an image, commas, other spelling, an image without a row, a row twice."""
    folder = release(tmp_path)
    for name in ("ALL-IMGS/.DS_Store", "ALL-IMGS/._20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm", "ALL-IMGS/Thumbs.db"):
        (folder / name).write_bytes(b"x")
    (folder / "PNG").mkdir()
    (folder / "PNG" / "20586908_6c613a14b80a8591_MG_R_CC_ANON.png").touch()
    (folder / "ALL-IMGS" / "99999999_6c613a14b80a8591_MG_R_CC_ANON.dcm").touch()
    table = folder / "INbreast.csv"
    lines = table.read_text().replace("File Name", " file name ").splitlines()
    table.write_text("\r\n".join([*lines, lines[1]]).replace(";", ","), encoding="utf-8-sig")
    found = read_table(table)
    assert [record.path[-4:] for record in found.records] == [".dcm", ".dcm"]
    assert [name for name, _ in found.refused] == ["20586908"] and "two rows" in found.refused[0][1]
    assert [name for name, _ in found.unlabelled] == ["99999999"]
    assert "no row of INbreast.csv" in found.unlabelled[0][1]


def test_the_table_may_lie_beside_the_folder_of_images_and_be_a_spreadsheet(tmp_path: Path) -> None:
    import pandas

    folder = release(tmp_path)
    rows = [line.split(";") for line in (folder / "INbreast.csv").read_text().splitlines()]
    (folder / "INbreast.csv").unlink()
    (folder / "tables").mkdir()
    frame = pandas.DataFrame(rows[1:-1], columns=rows[0])
    frame["File Name"] = frame["File Name"].astype(float)
    write_spreadsheet(folder / "tables" / "INbreast.xlsx", [list(frame.columns), *frame.values.tolist()])
    dataset, place = dataset_in(tmp_path)
    assert (dataset, place) == (DATASET, folder)
    assert [record.image_id for record in dataset.check(place).records] == ["20586908", "20586934"]


def test_masks_stand_in_for_outlines(tmp_path: Path) -> None:
    folder = release(tmp_path, suffix="png")
    (folder / "AllXML" / "20586934.xml").unlink()
    image = next((folder / "ALL-IMGS").glob("20586934*"))
    write_png(image, np.zeros((200, 160), np.uint16))
    mask = np.zeros((100, 80), np.uint16)
    mask[10:21, 20:41], mask[50:61, 60:71] = 65535, 65535
    (folder / "Masks").mkdir()
    write_png(folder / "Masks" / "20586934_mask.png", mask)
    write_png(folder / "Masks" / "20586934_pectoral_muscle_mask.png", mask)
    table = read_table(folder / "INbreast.csv")
    record = with_lesions(table.records[1], table.masks["20586934"], folder)
    assert [(lesion.x, lesion.y, lesion.radius) for lesion in record.lesions] == [(60, 30, 20), (130, 110, 10)]
    assert {lesion.label for lesion in record.lesions} == {Label.MALIGNANT}


def test_single_calcifications_and_the_pectoral_muscle_are_no_lesions(tmp_path: Path) -> None:
    folder = release(tmp_path)
    square = ((10.0, 10.0), (30.0, 10.0), (30.0, 30.0))
    large = tuple((10 * x, 10 * y) for x, y in square)
    regions = [outline(*square, name="Calcification"), outline(*large, name="Calcifications")]
    regions += [outline(*large, name="Pectoral Muscle"), outline(*square, name="Mass")]
    (folder / "AllXML" / "20586934.xml").write_bytes(plistlib.dumps({"Images": [{"ImageIndex": 0, "ROIs": regions}]}))
    record = read_table(folder / "INbreast.csv").records[1]
    assert [(lesion.finding, lesion.radius) for lesion in record.lesions] == [("Calcifications", 100), ("Mass", 10)]


def test_a_damaged_outline_refuses_its_image_only(tmp_path: Path) -> None:
    folder = release(tmp_path)
    (folder / "AllXML" / "20586934.xml").write_text("<plist><dict>")
    found = read_table(folder / "INbreast.csv")
    assert [record.image_id for record in found.records] == ["20586908"]
    assert found.refused[0][0] == "20586934" and "20586934.xml" in found.refused[0][1]


def test_the_folder_is_known_by_its_table(tmp_path: Path) -> None:
    (tmp_path / "released").mkdir()
    folder = release(tmp_path / "released")
    assert dataset_in(tmp_path) == (DATASET, folder)
