"""Each kind of leak is planted in a clean set of segmented phantoms, and must be found by its kind."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammopipe.processing.augmentation import Augmenter
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Split, View
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import Mammogram, read_mammogram, write_png
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.processing.splits.leakage_audit import audit_leakage
from mammopipe.processing.splits.near_duplicates import Variant

CONFIG = PreprocessConfig(height=320, width=192)
SPLITS = (Split.TRAIN, Split.TRAIN, Split.TRAIN, Split.VALIDATION, Split.VALIDATION, Split.TEST, Split.TEST)
Images = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def images() -> Images:
    return {
        f"film{number}": make_film(number, label=list(Label)[number % 3], laterality=Laterality.LEFT).pixels
        for number in range(len(SPLITS))
    }


def store(folder: Path, record: ImageRecord, pixels: np.ndarray) -> ImageRecord:
    path = Path("images", str(record.split), f"{record.image_id}.png")
    write_png(folder / path, pixels)
    return replace(record, path=path.as_posix(), sha256=sha256(folder / path))


def segmented(pixels: np.ndarray) -> np.ndarray:
    return preprocess(Mammogram(pixels, None, View.MLO), CONFIG).pixels


@pytest.fixture(scope="module")
def original(images: Images, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ImageRecord]]:
    """A folder with a clean set, never to be changed, and its rows."""
    folder, records = tmp_path_factory.mktemp("clean"), []
    for number, (name, pixels) in enumerate(images.items()):
        record = ImageRecord(name, f"p{number}", "mias", Laterality.LEFT, View.MLO, Label.NORMAL, SPLITS[number])
        records.append(store(folder, record, segmented(pixels)))
    for index in range(3):
        copied, record = Augmenter().copy(images["film0"], records[0], index)
        records.append(store(folder, record, segmented(copied)))
    return folder, records


@pytest.fixture
def clean(original: tuple[Path, list[ImageRecord]], tmp_path: Path) -> list[ImageRecord]:
    """The rows of a copy of the clean set in `tmp_path`."""
    folder, records = original
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return list(records)


def test_a_clean_set_raises_nothing(clean: list[ImageRecord], tmp_path: Path) -> None:
    report = audit_leakage(clean, tmp_path)
    assert report.passed, report.verdict
    assert report.checked["copies_unlike_their_source"] == 0
    assert report.as_dict()["passed"] is True


Change = Callable[[np.ndarray], np.ndarray]


def rotated(pixels: np.ndarray) -> np.ndarray:
    rows, columns = pixels.shape
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), 10, 0.95)
    return np.asarray(cv2.warpAffine(pixels, turn, (columns, rows)), np.uint16)


def lighter(pixels: np.ndarray) -> np.ndarray:
    return np.rint(65535 * (pixels / 65535) ** 0.7).astype(np.uint16)


def eight_bit(pixels: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", (pixels >> 8).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).astype(np.uint16) * 257


CHANGES: dict[str, Change] = {
    "the same image": lambda pixels: pixels,
    "rotated": rotated,
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
    "scaled": lambda pixels: np.asarray(cv2.resize(pixels, (800, 800), interpolation=cv2.INTER_AREA), np.uint16),
    "re-encoded": eight_bit,
    "other contrast": lighter,
    "cropped": lambda pixels: np.ascontiguousarray(pixels[80:-80]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_of_a_training_image_under_another_name_is_found_in_the_test(
    clean: list[ImageRecord], images: Images, tmp_path: Path, change: str
) -> None:
    record = ImageRecord("new", "p99", "mias", None, View.MLO, Label.MALIGNANT, Split.TEST)
    leaked = store(tmp_path, record, segmented(CHANGES[change](images["film1"])))
    report = audit_leakage([*clean, leaked], tmp_path)
    assert not report.passed
    assert ("film1", "new") in {finding.images for finding in report.findings if finding.kind == "same-film"}


def test_a_copy_that_states_another_source_is_found_by_its_pixels(
    clean: list[ImageRecord], images: Images, tmp_path: Path
) -> None:
    copied, record = Augmenter().copy(images["film5"], clean[0], 7)
    report = audit_leakage([*clean, store(tmp_path, record, segmented(copied))], tmp_path)
    assert {finding.kind for finding in report.findings} == {"same-film"}
    assert report.checked["copies_unlike_their_source"] == 1


def change(records: list[ImageRecord], image_id: str, **values: object) -> list[ImageRecord]:
    return [replace(record, **values) if record.image_id == image_id else record for record in records]  # type: ignore[arg-type]


def test_leaks_that_the_table_shows_are_found_by_kind(clean: list[ImageRecord], tmp_path: Path) -> None:
    cases = {
        "patient-in-two-splits": change(clean, "film5", patient_id="p0"),
        "source-in-two-splits": change(clean, "film0-a01", split=Split.TEST),
        "copy-outside-training": change(clean, "film0-a01", split=Split.VALIDATION),
        "orphan-copy": change(clean, "film0-a01", source_image_id="film77"),
        "no-split": change(clean, "film2", split=None),
        "missing-file": change(clean, "film2", path="images/train/none.png"),
        "altered-file": change(clean, "film2", sha256="0" * 64),
    }
    for kind, records in cases.items():
        report = audit_leakage(records, tmp_path)
        assert kind in {finding.kind for finding in report.findings}, kind
        assert report.verdict.startswith("failed with")


def test_one_file_in_two_splits_is_found_even_where_it_shows_nothing(clean: list[ImageRecord], tmp_path: Path) -> None:
    blank = np.zeros((CONFIG.height, CONFIG.width), np.uint16)
    records = [
        store(tmp_path, ImageRecord(name, name, "mias", None, None, Label.NORMAL, split), blank)
        for name, split in (("blank1", Split.TRAIN), ("blank2", Split.TEST))
    ]
    report = audit_leakage([*clean, *records], tmp_path)
    assert {finding.kind for finding in report.findings} == {"equal-files"}


def test_the_two_images_of_a_patient_are_not_taken_for_one(images: Images, tmp_path: Path) -> None:
    records = []
    for number, side in enumerate(Laterality):
        pixels = make_film(40 + number, label=Label.NORMAL, laterality=side, patient_seed=40).pixels
        record = ImageRecord(f"pair{number}", f"p{number}", "mias", side, View.MLO, Label.NORMAL,
                             (Split.TRAIN, Split.TEST)[number])  # fmt: skip
        records.append(store(tmp_path, record, segmented(pixels)))
    assert audit_leakage(records, tmp_path).passed


def test_files_can_be_read_as_mammograms(clean: list[ImageRecord], tmp_path: Path) -> None:
    assert all(read_mammogram(tmp_path / record.path).pixels.shape == (320, 192) for record in clean)


@pytest.mark.parametrize("variant", [variant for variant in Variant if variant is not Variant.AS_IT_IS])
def test_a_mirrored_or_inverted_copy_is_found(
    clean: list[ImageRecord], images: Images, tmp_path: Path, variant: Variant
) -> None:
    record = ImageRecord("new", "p99", "mias", None, View.MLO, Label.MALIGNANT, Split.TEST)
    leaked = store(tmp_path, record, variant.of(segmented(images["film1"])))
    report = audit_leakage([*clean, leaked], tmp_path)
    [finding] = [finding for finding in report.findings if finding.kind == "same-film"]
    assert finding.images == ("film1", "new") and f"one {variant}" in finding.message


def test_a_mirrored_copy_of_its_own_source_is_no_finding(
    clean: list[ImageRecord], images: Images, tmp_path: Path
) -> None:
    copied = replace(clean[0], image_id="film0-flipped", source_image_id="film0")
    stored = store(tmp_path, copied, Variant.MIRRORED.of(segmented(images["film0"])))
    report = audit_leakage([*clean, stored], tmp_path)
    assert report.passed and report.checked["copies_unlike_their_source"] == 0


def test_folds_are_compared_as_splits_are(clean: list[ImageRecord], images: Images, tmp_path: Path) -> None:
    record = ImageRecord("twin", "p98", "mias", None, View.MLO, Label.BENIGN, Split.TRAIN)
    equal = store(tmp_path, record, segmented(images["film1"]))
    turned = store(tmp_path, replace(record, image_id="turned"), segmented(rotated(images["film2"])))
    records = [*clean, equal, turned]
    assert audit_leakage(records, tmp_path).passed, "within one split"
    folds = {f"film{number}": f"fold {number % 2}" for number in range(5)} | {"twin": "fold 0", "turned": "fold 1"}
    report = audit_leakage(records, tmp_path, folds=folds)
    found = {(finding.kind, finding.images) for finding in report.findings}
    assert ("equal-files", ("film1", "twin")) in found and ("same-film", ("film2", "turned")) in found
    assert "film1 (fold 1)" in report.verdict and report.checked["folds"] == 2
    same = {**folds, "twin": "fold 1", "turned": "fold 0"}
    assert audit_leakage(records, tmp_path, folds=same).passed


@pytest.mark.parametrize("split", [Split.TRAIN, Split.TEST])
def test_a_label_that_was_edited_after_the_split_is_found(
    clean: list[ImageRecord], tmp_path: Path, split: Split
) -> None:
    records = [record.placed(record.split, None) for record in clean]
    assert audit_leakage(records, tmp_path).passed
    edited = next(record for record in records if record.split is split)
    report = audit_leakage(change(records, edited.image_id, label=Label.MALIGNANT), tmp_path)
    [finding] = report.findings
    assert finding.kind == "label-changed" and finding.images == (edited.image_id,)
    assert report.checked["labels_of_the_split"] == len(records)


def test_a_copy_with_another_label_than_its_source_is_found(clean: list[ImageRecord], tmp_path: Path) -> None:
    copy = next(record for record in clean if record.source_image_id)
    other = Label.MALIGNANT if copy.label is not Label.MALIGNANT else Label.NORMAL
    report = audit_leakage(change(clean, copy.image_id, label=other), tmp_path)
    [finding] = report.findings
    assert finding.kind == "label-changed" and finding.images == (copy.image_id,)
    assert f"its source {copy.source_image_id} {copy.label}" in finding.message
