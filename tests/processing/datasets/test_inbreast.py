"""INbreast in the layout of its release: file names, semicolons, BI-RADS categories and outlines."""

import plistlib
from pathlib import Path

import pytest

from mammopipe.processing.datasets.inbreast import DATASET, read_table
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.datasets.registry import dataset_in
from mammopipe.processing.errors import LabelError

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


def test_an_image_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    folder = release(tmp_path)
    next((folder / "ALL-IMGS").glob("20586908*")).unlink()
    table = read_table(folder / "INbreast.csv")
    assert [record.image_id for record in table.records] == ["20586934"] and table.refused[0][0] == "20586908"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Bi-Rads", "BIRADS"), "no column Bi-Rads"),
        ((";4a", ";0"), "Bi-Rads '0' must be 1 to 6"),
        (("L;MLO", "R;MLO"), "are not those of the file 20586934"),
    ],
)
def test_what_breaks_a_rule_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    table = release(tmp_path) / "INbreast.csv"
    table.write_text(table.read_text().replace(*change))
    with pytest.raises(LabelError, match=message):
        read_table(table)


def test_the_folder_is_known_by_its_table(tmp_path: Path) -> None:
    (tmp_path / "released").mkdir()
    folder = release(tmp_path / "released")
    assert dataset_in(tmp_path) == (DATASET, folder)
