"""Synthetic RSNA exams: the table's rules, the files' attributes, and pixels that survive the standard's path."""

import csv
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_voi_lut

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.phantoms.mias_tree import write_rsna_tree
from mammopipe.processing.phantoms.rsna_tree import (
    COLUMNS,
    PHANTOM_WRITER,
    Machine,
    rsna_images,
    write_rsna_image,
)

HEIGHT = 256
REAL_HEADER = (
    "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,"
    "machine_id,difficult_negative_case"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rsna")
    write_rsna_tree(folder, patients=12, seed=1, height=HEIGHT)
    return folder


@pytest.fixture(scope="module")
def rows(tree: Path):
    with (tree / "train.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def file_of(tree: Path, row: dict[str, str]) -> Path:
    return tree / "train_images" / row["patient_id"] / f"{row['image_id']}.dcm"


def presentation(dataset: pydicom.Dataset) -> np.ndarray:
    """The standard's path, by pydicom: stored values, VOI by its function, then the inversion; scaled to 0..1."""
    stored = imagecodecs.jpeg2k_decode(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    top = 2**dataset.BitsStored - 1
    shown = apply_voi_lut(stored, dataset, index=0) / top
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
        shown[stored == dataset.PixelPaddingValue] = 0
    return shown


def test_the_table_has_the_real_columns_and_a_file_for_each_row(tree: Path, rows):
    assert (tree / "train.csv").read_text(encoding="utf-8").splitlines()[0] == REAL_HEADER == ",".join(COLUMNS)
    assert {file_of(tree, row) for row in rows} == set((tree / "train_images").rglob("*.dcm"))
    assert len({row["image_id"] for row in rows}) == len(rows) > 48


def test_findings_belong_to_a_breast_and_every_class_meets_both_machines_and_sites(rows):
    breasts: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for row in rows:
        finding = tuple(row[name] for name in ("cancer", "biopsy", "invasive", "BIRADS", "difficult_negative_case"))
        breasts.setdefault((row["patient_id"], row["laterality"]), set()).add(finding)
    assert all(len(findings) == 1 for findings in breasts.values())
    for name in ("machine_id", "site_id", "laterality"):
        for cancer, biopsy in (("1", "1"), ("0", "1"), ("0", "0")):
            values = {row[name] for row in rows if (row["cancer"], row["biopsy"]) == (cancer, biopsy)}
            assert len(values) == 2, (name, cancer, biopsy)
    assert all(row["biopsy"] == "1" for row in rows if row["cancer"] == "1")


def test_every_patient_has_four_views_some_more_and_values_may_be_missing(rows):
    views: dict[str, list[str]] = {}
    for row in rows:
        views.setdefault(row["patient_id"], []).append(row["laterality"] + row["view"])
    assert all({"LCC", "LMLO", "RCC", "RMLO"} <= set(names) for names in views.values())
    assert {len(names) for names in views.values()} == {4, 5}
    for name in ("age", "BIRADS", "density"):
        assert {bool(row[name]) for row in rows} == {True, False}


def test_the_files_carry_the_attributes_of_their_machine(tree: Path, rows):
    for row in rows:
        dataset = pydicom.dcmread(file_of(tree, row))
        assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.90"
        assert dataset.file_meta.ImplementationVersionName == PHANTOM_WRITER
        assert dataset.PatientID == row["patient_id"] and dataset.ImageLaterality == row["laterality"]
        assert "ViewPosition" not in dataset and "Modality" not in dataset
        if row["machine_id"] == "21":
            assert (dataset.PhotometricInterpretation, dataset.BitsStored) == ("MONOCHROME2", 12)
            assert (dataset.WindowCenter, dataset.WindowWidth) == (2048, 4096)
            assert (dataset.Rows, dataset.Columns) == (HEIGHT, 192)
        else:
            assert (dataset.PhotometricInterpretation, dataset.BitsStored) == ("MONOCHROME1", 16)
            assert dataset.VOILUTFunction == "SIGMOID" and len(dataset.WindowCenter) == 3
            assert (dataset.Rows, dataset.Columns) == (HEIGHT, 235)


def test_the_standards_path_gives_back_the_image(tree: Path):
    for row, machine, image in rsna_images(4, 1, height=HEIGHT):
        shown = presentation(pydicom.dcmread(file_of(tree, row))) * 65535
        # Machine 29's sigmoid has a step of up to 4 grey values, and never quite reaches 0.
        assert np.abs(shown - image.pixels).max() <= (0.5 if machine is Machine.LINEAR else 20)
        air = ~(image.breast | image.artefacts | image.padding)
        assert np.median(shown[air]) < 20
        assert np.median(shown[image.breast]) > 0.25 * 65535


def test_the_reader_gives_back_the_image(tree: Path):
    for row, machine, image in rsna_images(2, 1, height=HEIGHT):
        mammogram = read_mammogram(file_of(tree, row))
        assert mammogram.laterality is image.laterality
        difference = np.abs(mammogram.pixels.astype(int) - image.pixels)
        assert difference.max() <= (0 if machine is Machine.LINEAR else 20)
        assert not mammogram.pixels[image.padding].any()


def test_padding_is_no_grey_value_of_the_image(tree: Path):
    padded = [image for image in rsna_images(6, 1, height=HEIGHT) if image[1] is Machine.SIGMOID]
    for row, _, image in padded:
        dataset = pydicom.dcmread(file_of(tree, row))
        stored = imagecodecs.jpeg2k_decode(next(generate_frames(dataset.PixelData, number_of_frames=1)))
        assert image.padding.any() and np.array_equal(stored == dataset.PixelPaddingValue, image.padding)
        assert not (image.padding & (image.breast | image.artefacts)).any()


def test_a_diseased_breast_shows_its_lesion_in_each_view(rows):
    for row, _, image in rsna_images(6, 1, height=HEIGHT):
        assert bool(image.lesions) == (row["biopsy"] == "1")
        assert image.view == row["view"] and image.laterality == row["laterality"]


def test_the_same_arguments_give_the_same_bytes(tree: Path, tmp_path: Path):
    write_rsna_tree(tmp_path, patients=2, seed=1, height=HEIGHT)
    for path in sorted(tmp_path.rglob("*.dcm")):
        assert path.read_bytes() == (tree / path.relative_to(tmp_path)).read_bytes()
    table, whole = ((folder / "train.csv").read_text(encoding="utf-8") for folder in (tmp_path, tree))
    assert whole.startswith(table)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="patients=0"):
        rsna_images(0)
    with pytest.raises(ConfigError, match="seed=-4"):
        rsna_images(1, -4)
    with pytest.raises(ConfigError, match="height=20"):
        next(rsna_images(1, 0, height=20))


def test_the_real_size_is_the_machines():
    assert Machine.LINEAR.full_size == (2776, 2082) and Machine.SIGMOID.full_size == (5355, 4915)


@pytest.mark.parametrize("height", [180, 192, 199, 200])
def test_a_small_image_of_either_machine_keeps_its_breast(height: int):
    for _, machine, image in rsna_images(6, 1, height=height):
        assert image.pixels.mean() > 1000 and image.padding.any() == (machine is Machine.SIGMOID)


@pytest.mark.parametrize("machine", ["29", "49"])
def test_a_row_of_any_table_becomes_a_file_with_its_side_view_and_machine(tmp_path: Path, machine: str):
    values = ("2", "10006", "462822612", "R", "AT", "61.0", "1", "1", "1", "", "0", "", machine, "False")
    row = dict(zip(COLUMNS, values, strict=True))
    write_rsna_image(tmp_path, row, height=192)
    read = read_mammogram(file_of(tmp_path, row))
    assert read.pixels.shape[0] == 192 and read.laterality == "R" and read.pixels.mean() > 1000
    write_rsna_image(tmp_path / "again", row, height=192)
    assert file_of(tmp_path / "again", row).read_bytes() == file_of(tmp_path, row).read_bytes()
    assert pydicom.dcmread(file_of(tmp_path, row)).BitsStored == (16 if machine == "29" else 12)
