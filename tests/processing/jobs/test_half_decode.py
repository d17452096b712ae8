"""Decoding at half resolution: off by default, of the same geometry, measured, and not used if it differs too much."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammopipe.processing.breast.preprocess import reduce_height
from mammopipe.processing.container.paths import BASE_VARIABLE
from mammopipe.processing.datasets.manifest import (
    ImageRecord,
    Label,
    Laterality,
    Lesion,
    Split,
    View,
    read_manifest,
)
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.jobs import prepare
from mammopipe.processing.jobs.half_decode import LEAST_PSNR, SAMPLE, ImageFile, measure, psnr_of_half
from mammopipe.processing.jobs.prepare import PrepareTask, prepare_image
from mammopipe.processing.jobs.stage import Stage
from mammopipe.processing.phantoms.mias_tree import write_rsna_tree

J2K = "1.2.840.10008.1.2.4.90"
RECORD = ImageRecord(
    "7", "3", "rsna", Laterality.LEFT, View.CC, Label.MALIGNANT, Split.TRAIN,
    lesions=(Lesion(60.0, 100.0, 9.0, Label.MALIGNANT),),
)  # fmt: skip


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The first patient's machine is the linear one; the second patient's pads its frame and inverts the values."""
    folder = tmp_path_factory.mktemp("trees")
    for patients in (1, 2):
        write_rsna_tree(folder / str(patients), patients=patients, height=500)
    return {patients: folder / str(patients) for patients in (1, 2)}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def start(tree: Path, name: str, *arguments: str) -> Path:
        inputs = tmp_path / name / "processing" / "input"
        inputs.mkdir(parents=True)
        (inputs / "labels").symlink_to(tree)
        (inputs / "images").symlink_to(tree / "train_images")
        monkeypatch.setenv(BASE_VARIABLE, str(tmp_path / name))
        prepare.main(["--dataset", "rsna", "--max-height", "200", *arguments])
        return tmp_path / name / "processing" / "output" / "prepared"

    return start


def test_half_resolution_is_off_by_default_and_then_leaves_no_trace(
    trees: dict[int, Path], run: Callable[..., Path]
) -> None:
    default, off = run(trees[1], "default"), run(trees[1], "off", "--reduced-decode", "false")
    names = sorted(path.relative_to(default) for path in default.rglob("*") if path.is_file())
    tables = {name.name for name in names if name.suffix != ".png"}
    assert tables == {"manifest.csv", "quarantine.csv", "stage.json", "unseen.csv"} and len(names) == 4 + len(tables)
    assert [name for name in names if (default / name).read_bytes() != (off / name).read_bytes()] == []
    assert "reduced_decode" not in (default / "stage.json").read_text()


def test_half_resolution_gives_the_same_manifest_and_states_how_much_the_pixels_differ(
    trees: dict[int, Path], run: Callable[..., Path]
) -> None:
    whole, half = run(trees[1], "whole"), run(trees[1], "half", "--reduced-decode", "true")
    account = json.loads((half / "stage.json").read_text())
    first, second = read_manifest(whole), read_manifest(half)
    assert account["config"]["reduced_decode"] is True
    found = account["reduced_decode"]
    assert found["images"] == [record.image_id for record in second] and found["required_db"] == LEAST_PSNR
    noise = [
        cv2.PSNR(read_mammogram(whole / each.path).pixels, read_mammogram(half / each.path).pixels, R=65535)
        for each in first
    ]
    assert found["psnr_db"] == {"min": round(min(noise), 2), "median": round(float(np.median(noise)), 2)}
    assert 40 <= min(noise) < 100
    assert [replace(each, sha256="") for each in first] == [replace(each, sha256="") for each in second]


def test_an_image_with_bright_padding_is_decoded_in_full(trees: dict[int, Path], run: Callable[..., Path]) -> None:
    """Half a decode would blend the padding lines of the second patient's machine into the tissue beside them."""
    whole, half = run(trees[2], "whole"), run(trees[2], "half", "--reduced-decode", "true")
    measured = json.loads((half / "stage.json").read_text())["reduced_decode"]["images"]
    of_second = [record for record in read_manifest(half) if record.image_id not in measured]
    assert measured and of_second
    assert {record.patient_id for record in of_second} != {record.patient_id for record in read_manifest(half)}
    for record in of_second:
        assert (half / record.path).read_bytes() == (whole / record.path).read_bytes()


def test_images_that_half_resolution_changes_too_much_are_decoded_in_full(
    make_dicom: Callable[..., bytes], tmp_path: Path
) -> None:
    """One such image in the sample means that every image is measured; the others stay at half resolution."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 4096, (400, 300), np.uint16)
    smooth = cv2.GaussianBlur(noise, (0, 0), 8)
    sources = []
    for number in range(12):
        (tmp_path / f"{number}.dcm").write_bytes(make_dicom(noise if number in (3, 8) else smooth, syntax=J2K, bits=12))
        record = replace(RECORD, image_id=str(number), path=f"{number}.dcm", lesions=())
        sources.append(ImageFile(record, tmp_path / f"{number}.dcm", 200))
    alike = [source for source in sources if source.record.image_id not in ("3", "8")]
    assert len(measure(alike)["images"]) == SAMPLE and measure(alike)["whole"] == []
    account = measure(sources)
    assert account["whole"] == ["3", "8"] and len(account["images"]) == 12
    assert account["psnr_db"]["min"] < LEAST_PSNR

    stage = Stage("prepare", tmp_path / "prepared", "one", ("one",), {}, "")
    prepare.prepare([source.record for source in sources], tmp_path, stage, max_height=200, half=True)
    assert stage.measured["reduced_decode"] == account and not stage.quarantined
    for record in stage.records:
        whole = reduce_height(read_mammogram(tmp_path / f"{record.image_id}.dcm").pixels, 200)
        same = np.array_equal(read_mammogram(tmp_path / "prepared" / record.path).pixels, whole)
        assert same == (record.image_id in account["whole"])


@pytest.mark.parametrize("size", [(402, 301), (403, 401), (401, 207), (777, 555)])
def test_lesions_size_and_spacing_are_those_of_full_resolution(
    make_dicom: Callable[..., bytes], tmp_path: Path, size: tuple[int, int]
) -> None:
    cells = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 4096, size, np.uint16), (0, 0), 8)
    (tmp_path / "7.dcm").write_bytes(make_dicom(cells, syntax=J2K, bits=12, ImagerPixelSpacing=["0.1", "0.1"]))
    source = ImageFile(RECORD, tmp_path / "7.dcm", 200)
    (whole,), (half,) = (
        prepare_image(PrepareTask(replace(source, half=half), tmp_path / str(half), prepare.Phi.REFUSE))
        for half in (False, True)
    )
    assert whole.sha256 != half.sha256
    assert replace(whole, sha256="") == replace(half, sha256="")
    assert half.height == 200 and half.pixel_spacing_mm == pytest.approx(0.1 * size[0] / 200)
    assert half.lesions[0].x == pytest.approx((60.5) * 200 / size[0] - 0.5)


def test_images_that_are_low_or_not_jpeg_2000_are_not_measured(
    make_dicom: Callable[..., bytes], tmp_path: Path
) -> None:
    cells = np.tile(np.arange(300, dtype=np.uint16), (399, 1))
    files = {
        "short": make_dicom(cells, syntax=J2K, bits=12),
        "native": make_dicom(np.tile(cells, (2, 1)), bits=12),
        "text": b"no image at all",
    }
    sources = []
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        sources.append(ImageFile(replace(RECORD, image_id=name), tmp_path / name, 200))
    assert [psnr_of_half(source) for source in sources] == [None, None, None]
    account = measure(sources)
    assert account["images"] == [] and account["psnr_db"] == {"min": None, "median": None}
