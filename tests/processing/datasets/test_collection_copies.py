"""Copies of public collections: other table formats, folders and suffixes, and rows that break a rule."""

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mammopipe.processing.datasets import cbis_ddsm, vindr_mammo
from mammopipe.processing.datasets.collection import class_of_birads
from mammopipe.processing.datasets.definition import LabelTable
from mammopipe.processing.datasets.lesion_masks import read_masks
from mammopipe.processing.datasets.manifest import Label, View
from mammopipe.processing.datasets.registry import dataset_in
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.pgm_png import write_png
from tests.processing.datasets.conftest import COLLECTIONS
from tests.support.spreadsheets import write_spreadsheet

Tree = Callable[[str], Path]
CMMD_TABLE = "CMMD_clinicaldata_revision.csv"


def read(folder: Path) -> tuple[LabelTable, Path]:
    dataset, place = dataset_in(folder)
    return dataset.check(place), place


def rows_of(path: Path) -> list[list[str]]:
    data = path.read_text().replace("\r\n", "\n")
    return list(csv.reader(io.StringIO(data, newline=""), delimiter=max(";,", key=data.partition("\n")[0].count)))


def write_rows(path: Path, rows: Sequence[Sequence[str]], *, separator: str = ",", coding: str = "utf-8") -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows(rows)
    path.write_bytes(text.getvalue().encode(coding))


def seen(table: LabelTable) -> list[tuple[object, ...]]:
    """Return what a table states about each image, without its file."""
    return [
        (each.image_id, each.patient_id, each.laterality, each.view, each.label, each.split, len(each.lesions))
        for each in table.records
    ]


@pytest.mark.parametrize("name", COLLECTIONS)
@pytest.mark.parametrize(("separator", "coding"), [(";", "utf-8-sig"), ("\t", "utf-16"), ("|", "cp1252")])
def test_tables_as_spreadsheet_programs_write_them(tree: Tree, name: str, separator: str, coding: str) -> None:
    folder = tree(name)
    expected, _ = read(folder)
    for path in folder.rglob("*.csv"):
        head, *rows = rows_of(path)
        changed = [[f" {cell.upper()} " for cell in head], *rows, [""] * len(head)]
        write_rows(path, changed, separator=separator, coding=coding)
    found, _ = read(folder)
    assert seen(found) == seen(expected) and found.refused == [] and found.unlabelled == []


@pytest.mark.parametrize("name", COLLECTIONS)
def test_suffixes_in_upper_case_spaces_and_files_of_the_system(tree: Tree, name: str) -> None:
    folder = tree(name)
    expected, _ = read(folder)
    folder = folder.rename(folder.with_name("heroic cropped breasts (copy)"))
    inner = folder / "unpacked cropped data"
    inner.mkdir()
    for path in [path for path in folder.iterdir() if path != inner]:
        path.rename(inner / path.name)
    for path in [path for suffix in ("dcm", "dicom") for path in folder.rglob(f"*.{suffix}")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    for extra in (".DS_Store", "Thumbs.db", "readme (1).txt", "metadata.csv", "__MACOSX/1-1.dcm", "~$INbreast.xlsx"):
        (inner / extra).parent.mkdir(exist_ok=True)
        (inner / extra).write_bytes(b"x")
    found, _ = read(folder)
    assert seen(found) == seen(expected) and found.refused == [] and found.unlabelled == []


@pytest.mark.parametrize("text", ["4", "4a", "4 B", "BI-RADS 4", "BIRADS-4a", "bi-rads: 4b", "4.0", "4,0", " 5 ", "6"])
def test_categories_are_read_as_sites_write_them(text: str) -> None:
    assert class_of_birads(text, where="Bi-Rads") is Label.MALIGNANT


@pytest.mark.parametrize("text", ["", "0", "7", "44", "5d", "2a", "four", "4.5", "1-2", "BI-RADS"])
def test_other_categories_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 6, with a letter after 4 or not"):
        class_of_birads(text, where="Bi-Rads")


def cbis_images(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "CBIS-DDSM").iterdir() if path.name.endswith(("_CC", "_MLO")))


def test_cbis_folders_of_the_older_download_and_in_lower_case(tree: Tree) -> None:
    folder = tree("cbis-ddsm")
    expected, _ = read(folder)
    for place in list((folder / "CBIS-DDSM").iterdir()):
        files = sorted(place.rglob("*.dcm"))
        target = folder / "CBIS-DDSM" / place.name.lower() / "1.3.6.1.4.1.9590.1" / "1.3.6.1.4.1.9590.2"
        target.mkdir(parents=True)
        for number, path in enumerate(files):
            path.rename(target / f"{number:06d}.dcm")
        shutil.rmtree(place)
    found, place = read(folder)
    assert seen(found) == seen(expected) and found.refused == []
    for record in found.records:
        with_lesions, unplaced = read_masks(record, found.masks[record.image_id], place)
        assert with_lesions.lesions and unplaced == 0


def test_cbis_masks_that_are_missing_or_of_other_proportions_leave_the_image(tree: Tree) -> None:
    folder = tree("cbis-ddsm")
    table, place = read(folder)
    first, second, third = table.records[:3]
    masks = {
        record.image_id: [place / path for mask in table.masks[record.image_id] for path in mask.paths]
        for record in table.records
    }
    for path in masks[first.image_id]:
        path.unlink()
    for path in masks[second.image_id]:
        cut = pydicom.dcmread(path)
        pixels = np.ascontiguousarray(cut.pixel_array[: cut.Rows // 2])
        cut.Rows, cut.PixelData = pixels.shape[0], pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        cut.save_as(path)
    table, place = read(folder)
    assert [record.image_id for record in table.records[:3]] == [first.image_id, second.image_id, third.image_id]
    found = [read_masks(each, table.masks.get(each.image_id, ()), place) for each in table.records[:3]]
    assert [(len(record.lesions) > 0, unplaced) for record, unplaced in found] == [(False, 0), (False, 1), (True, 0)]


def test_cbis_masks_in_colour_and_of_another_size_are_read(tree: Tree) -> None:
    folder = tree("cbis-ddsm")
    table, place = read(folder)
    record = table.records[0]
    expected, _ = read_masks(record, table.masks[record.image_id], place)
    for path in (place / name for mask in table.masks[record.image_id] for name in mask.paths):
        mask = pydicom.dcmread(path)
        half = np.ascontiguousarray(mask.pixel_array[::2, ::2])
        colour = np.repeat(half[..., None], 3, axis=2)
        mask.SamplesPerPixel, mask.PhotometricInterpretation, mask.PlanarConfiguration = 3, "RGB", 0
        mask.Rows, mask.Columns = half.shape
        mask.PixelData = colour.tobytes() + b"\0" * (colour.nbytes % 2)
        mask.save_as(path)
    found, unplaced = read_masks(record, table.masks[record.image_id], place)
    assert unplaced == 0 and len(found.lesions) == len(expected.lesions)
    for one, other in zip(found.lesions, expected.lesions, strict=True):
        assert (one.x, one.y, one.radius) == pytest.approx((other.x, other.y, other.radius), abs=3)


@pytest.mark.parametrize("classes", [("Benign", "Malignant"), ("Malignant", "Benign")])
def test_a_cmmd_breast_with_two_rows_has_its_most_serious_class(tree: Tree, classes: tuple[str, str]) -> None:
    path = tree("cmmd") / CMMD_TABLE
    head, first, *rest = rows_of(path)
    place = head.index("classification")
    both = [[*first[:place], name, *first[place + 1 :]] for name in classes]
    write_rows(path, [head, *both, *rest])
    table, _ = read(path.parent)
    labels = {
        record.label for record in table.records if (record.patient_id, str(record.laterality)) == tuple(first[:2])
    }
    assert labels == {Label.MALIGNANT} and table.refused == []


def test_cmmd_images_by_the_view_in_words_and_ids_in_lower_case(tree: Tree) -> None:
    folder = tree("cmmd")
    expected, _ = read(folder)
    for path in sorted(folder.rglob("*.dcm")):
        header = pydicom.dcmread(path)
        header.ViewPosition = {"399162004": "CC", "399368009": "MLO"}[header.ViewCodeSequence[0].CodeValue]
        del header.ViewCodeSequence
        header.save_as(path)
    for place in list((folder / "CMMD").glob("D1-*")):
        place.rename(place.with_name(place.name.lower()))
    found, _ = read(folder)
    assert seen(found) == seen(expected) and {record.view for record in found.records} == {View.CC, View.MLO}


def changed(path: Path, column: str, value: str) -> str:
    """Write a value into the first row of a table that has a box, or into its first row; return its image id."""
    head, *rows = rows_of(path)
    row = next((row for row in rows if "xmin" in head and row[head.index("xmin")]), rows[0])
    row[head.index(column)] = value
    write_rows(path, [head, *rows])
    return row[head.index("image_id")]


@pytest.mark.parametrize(("column", "value"), [("xmax", "-5"), ("xmin", "nan"), ("ymax", "1e999"), ("ymin", "left")])
def test_an_invalid_vindr_box_refuses_its_image_only(tree: Tree, column: str, value: str) -> None:
    folder = tree("vindr-mammo")
    image_id = changed(folder / vindr_mammo.FINDINGS, column, value)
    table, _ = read(folder)
    [(refused, reason)] = table.refused
    assert refused == image_id not in [record.image_id for record in table.records]
    assert f"{column}={value!r}" in reason and f"{vindr_mammo.FINDINGS}, line " in reason


def test_vindr_cells_without_a_value_and_in_other_case(tree: Tree) -> None:
    folder = tree("vindr-mammo")
    expected, _ = read(folder)
    head, *rows = rows_of(folder / vindr_mammo.FINDINGS)
    write_rows(folder / vindr_mammo.FINDINGS, [head, *([cell or "nan" for cell in row] for row in rows)])
    head, *rows = rows_of(folder / vindr_mammo.LABEL_TABLE)
    names = [head.index(name) for name in ("laterality", "view_position", "split")]
    for row in rows:
        for place in names:
            row[place] = row[place].lower()
    write_rows(folder / vindr_mammo.LABEL_TABLE, [head, *rows])
    for path in list(folder.rglob("*.dicom")):
        path.rename(path.with_name(path.stem.upper() + path.suffix))
    assert seen(read(folder)[0]) == seen(expected)


def test_a_vindr_image_without_a_row_is_named(tree: Tree) -> None:
    path = tree("vindr-mammo") / vindr_mammo.LABEL_TABLE
    head, first, *rest = rows_of(path)
    write_rows(path, [head, *rest])
    table, _ = read(path.parent)
    assert [name for name, _ in table.unlabelled] == [first[head.index("image_id")]] and table.refused == []


def test_cbis_tables_of_one_kind_alone_are_enough(tree: Tree) -> None:
    folder = tree("cbis-ddsm")
    for name in cbis_ddsm.OTHER_TABLES:
        (folder / name).unlink(missing_ok=True)
    table, _ = read(folder)
    assert table.records and len(table.records) < len(cbis_images(folder)) and table.refused == []


def test_inbreast_outlines_of_the_muscle_are_no_findings_and_masks_below_a_folder_of_that_name(tree: Tree) -> None:
    folder = tree("inbreast")
    table, place = read(folder)
    first = next(record for record in table.records if record.lesions)
    outlines = place / "AllXML" / f"{first.image_id}.xml"
    muscle = place / "PectoralMuscle" / "Pectoral Muscle XML" / f"{first.image_id}_muscle.xml"
    muscle.parent.mkdir(parents=True)
    outlines.rename(muscle)
    height, width = pydicom.dcmread(place / first.path).pixel_array.shape
    mask = np.zeros((height, width), np.uint16)
    mask[40:80, 40:80] = 65535
    (place / "INbreast masks").mkdir()
    write_png(place / "INbreast masks" / f"{first.image_id}.png", mask)
    found, place = read(folder)
    record = next(each for each in found.records if each.image_id == first.image_id)
    assert record.lesions == () and len(read_masks(record, found.masks[record.image_id], place)[0].lesions) == 1


def test_inbreast_numbers_as_programs_write_them(tree: Tree) -> None:
    folder = tree("inbreast")
    expected, place = read(folder)
    path = place / "INbreast.csv"
    head, *rows = rows_of(path)
    number = head.index("File Name")
    for turn, row in enumerate(row for row in rows if row[number]):
        row[number] += ("", ".0", ".dcm")[turn % 3]
    rows[-1][number] = "total 20"
    write_rows(path, [head, *rows], separator=";")
    found, _ = read(folder)
    assert seen(found) == seen(expected)
    assert [name for name, _ in found.refused] == ["total 20"]


@pytest.mark.parametrize("name", COLLECTIONS)
def test_tables_may_be_spreadsheets_and_list_everything_twice(tree: Tree, name: str) -> None:
    folder = tree(name)
    expected, _ = read(folder)
    for path in folder.rglob("*.csv"):
        head, *rows = rows_of(path)
        twice = rows if "breast-level" in path.name or name == "inbreast" else [*rows, *rows]
        write_spreadsheet(path.with_suffix(".xlsx"), [head, *twice])
        path.unlink()
    found, _ = read(folder)
    assert seen(found) == seen(expected) and found.refused == []
    masks = [{image: len(held) for image, held in table.masks.items()} for table in (found, expected)]
    assert masks[0] == masks[1], "a finding that is listed twice is one lesion"


def test_vindr_boxes_with_a_decimal_comma(tree: Tree) -> None:
    folder = tree("vindr-mammo")
    expected, _ = read(folder)
    head, *rows = rows_of(folder / "finding_annotations.csv")
    numbers = [head.index(name) for name in ("xmin", "ymin", "xmax", "ymax")]
    assert any("." in row[place] for row in rows for place in numbers)
    changed = [[cell.replace(".", ",") if n in numbers else cell for n, cell in enumerate(row)] for row in rows]
    write_rows(folder / "finding_annotations.csv", [head, *changed], separator=";")
    found, _ = read(folder)
    assert [each.lesions for each in found.records] == [each.lesions for each in expected.records]


def test_cbis_tables_put_together_keep_the_split_of_the_images_folders(tree: Tree) -> None:
    folder = tree("cbis-ddsm")
    expected, _ = read(folder)
    assert {str(each.split) for each in expected.records} == {"train", "test"}
    tables = sorted(folder.rglob("*_case_description_*.csv"))
    head = rows_of(tables[0])[0]
    for kind in ("mass", "calc"):
        parts = [path for path in tables if path.name.startswith(kind)]
        rows = [row for path in parts for row in rows_of(path)[1:]]
        for path in parts:
            path.unlink()
        if rows:
            write_rows(folder / f"{kind}_case_description_set.csv", [head, *rows])
    found, _ = read(folder)
    assert seen(found) == seen(expected)
    merged = next(folder.glob("*_case_description_set.csv"))
    head, *rows = rows_of(merged)
    place = head.index("image file path")
    write_rows(merged, [head, [cell if n != place else "x/y/1-1.dcm" for n, cell in enumerate(rows[0])], *rows[1:]])
    refused = read(folder)[0].refused
    assert any("'x/y/1-1.dcm' says training or test" in reason for _, reason in refused)


def test_archives_in_the_place_of_a_dataset_are_named(tmp_path: Path) -> None:
    (tmp_path / "INbreast Release 1.0.tgz").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"archives, which must be unpacked first: INbreast Release 1\.0\.tgz"):
        dataset_in(tmp_path)
