"""The three jobs through their entry points, on the folders that a container would have."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.classes import THREE
from mammopipe.processing.container.paths import BASE_VARIABLE
from mammopipe.processing.datasets.manifest import (
    Label,
    Laterality,
    Split,
    read_manifest,
    split_digest,
    write_manifest,
)
from mammopipe.processing.errors import ConfigError, LabelError, QuarantineError
from mammopipe.processing.images.image_files import ImageFiles
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.jobs import augment, prepare, segment
from mammopipe.processing.jobs.split_settings import Division
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from mammopipe.processing.read_config import ForProcessing
from mammopipe.processing.weight_sums import check_sums

FILMS = 24
Container = Callable[..., Path]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_mias_tree(folder, films=FILMS, seed=1)
    return folder


def make_container(base: Path, **inputs: Path) -> Path:
    """Make the folders of a container, point the job at them, and return the folder of its outputs."""
    (base / "processing" / "input").mkdir(parents=True)
    for name, folder in inputs.items():
        (base / "processing" / "input" / name.replace("_", "-")).symlink_to(folder)
    os.environ[BASE_VARIABLE] = str(base)
    return base / "processing" / "output"


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """Return a function that makes the folders of a container and points the job at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BASE_VARIABLE, "")
        yield lambda **inputs: make_container(tmp_path_factory.mktemp("container"), **inputs)


@pytest.fixture(scope="module")
def prepared(tree: Path, container: Container) -> Path:
    """The output of Prepare on the whole images."""
    output = container(labels=tree, images=tree) / "prepared"
    prepare.main(["--dataset", "mias"])
    return output


@pytest.fixture(scope="module")
def run_all(tree: Path, container: Container) -> Callable[[], tuple[Path, dict[str, Path]]]:
    """Return a function that runs the three jobs, and returns Segment's output and inputs."""

    def run() -> tuple[Path, dict[str, Path]]:
        prepared = container(labels=tree, images=tree) / "prepared"
        prepare.main(["--dataset", "mias", "--max-height", "384"])
        augmented = container(manifest=prepared, stage=prepared, images=prepared / "images") / "data_augmentation"
        augment.main(["--copies", "1"])
        inputs = {
            "prepared_manifest": prepared,
            "prepared_stage": prepared,
            "prepared_images": prepared / "images",
            "augmented_manifest": augmented,
            "augmented_images": augmented / "images",
        }
        output = container(**inputs)
        segment.main(["--height", "160", "--width", "96"])
        return output / "data_segmentation", inputs

    return run


@pytest.fixture(scope="module")
def done(run_all: Callable[[], tuple[Path, dict[str, Path]]]) -> tuple[Path, dict[str, Path]]:
    return run_all()


def test_three_jobs_make_a_balanced_training_set_and_leave_the_other_splits_alone(
    done: tuple[Path, dict[str, Path]],
) -> None:
    output, _ = done
    records = read_manifest(output)
    originals = [record for record in records if not record.source_image_id]
    assert len(originals) == FILMS
    training = Counter(record.label for record in records if record.split is Split.TRAIN)
    assert len(set(training.values())) == 1
    assert set(training) == set(THREE)
    assert {record.split for record in records if record.source_image_id} == {Split.TRAIN}
    for record in records:
        pixels = read_mammogram(output / record.path).pixels
        assert pixels.shape == (160, 96) == (record.height, record.width)
        assert record.path == f"images/{record.split}/{record.image_id}.png"
        assert record.label_digest == split_digest(record), "label, split and lesions are those of the split"
        for lesion in record.lesions:
            assert pixels[min(159, max(0, round(lesion.y))), min(95, max(0, round(lesion.x)))] > 0
    account = json.loads((output / "stage.json").read_text())
    assert account["counts"]["images"] == len(records)
    assert account["config"]["preprocess"]["height"] == 160
    assert cv2.imread(str(output / "montage.png")).shape[1] > 1000


def test_the_same_input_and_seed_give_the_same_bytes(
    done: tuple[Path, dict[str, Path]], run_all: Callable[[], tuple[Path, dict[str, Path]]]
) -> None:
    (first, _), (second, _) = done, run_all()
    names = sorted(path.relative_to(first).as_posix() for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second).as_posix() for path in second.rglob("*") if path.is_file())
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_prepared_pixels_are_those_of_the_image(tree: Path, prepared: Path) -> None:
    for record in read_manifest(prepared):
        image = cv2.imread(str(tree / f"{record.image_id}.pgm"), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(read_mammogram(prepared / record.path).pixels, image.astype(np.uint16) * 257)
        assert record.laterality is (Laterality.LEFT if int(record.image_id[3:]) % 2 == 0 else Laterality.RIGHT)
        assert record.pixel_spacing_mm == 0.2


def test_a_tall_image_is_reduced_with_its_lesions_and_spacing(tree: Path, container: Container) -> None:
    prepared = container(labels=tree, images=tree) / "prepared"
    prepare.main(["--dataset", "mias", "--max-height", "512"])
    records = read_manifest(prepared)
    assert {(record.height, record.width, record.pixel_spacing_mm) for record in records} == {(512, 512, 0.4)}
    lesions = [(record, lesion) for record in records for lesion in record.lesions]
    assert lesions
    for record, lesion in lesions:
        pixels = read_mammogram(prepared / record.path).pixels
        assert pixels[round(lesion.y), round(lesion.x)] > 0.8 * np.median(pixels[pixels > 10000])


def broken_tree(tree: Path, folder: Path) -> Path:
    for source in tree.iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / "mdb003.pgm").write_bytes((tree / "mdb003.pgm").read_bytes()[:5000])
    (folder / "mdb004.pgm").write_text("this is a text file named .pgm")
    (folder / "mdb005.pgm").unlink()
    return folder


def test_bad_images_are_quarantined_with_their_reason_and_the_rest_goes_on(
    tree: Path, tmp_path: Path, container: Container
) -> None:
    folder = broken_tree(tree, tmp_path)
    prepared = container(labels=folder, images=folder) / "prepared"
    prepare.main(["--dataset", "mias", "--max-quarantine", "0.2"])
    with (prepared / "quarantine.csv").open() as stream:
        reasons = {row["image_id"]: row["reason"] for row in csv.DictReader(stream)}
    assert set(reasons) == {"mdb003", "mdb004", "mdb005"}
    assert all(f"{name}.pgm" in reason for name, reason in reasons.items())
    assert len(read_manifest(prepared)) == FILMS - 3


def test_too_many_bad_images_stop_the_job_before_a_manifest_is_written(
    tree: Path, tmp_path: Path, container: Container
) -> None:
    folder = broken_tree(tree, tmp_path)
    prepared = container(labels=folder, images=folder) / "prepared"
    with pytest.raises(QuarantineError, match=f"3 of {FILMS} images were refused, more than max_quarantine=5%"):
        prepare.main(["--dataset", "mias"])
    assert not (prepared / "manifest.csv").exists()
    assert (prepared / "quarantine.csv").exists()


def test_an_empty_image_folder_is_refused(tree: Path, tmp_path: Path, container: Container) -> None:
    container(labels=tree, images=tmp_path)
    with pytest.raises(LabelError, match="none of the 24 images of the label table is here"):
        prepare.main(["--dataset", "mias"])


def test_a_job_that_fails_says_why_in_one_line_and_leaves_the_reason(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mammopipe.processing.jobs.prepare", "--dataset", "mias"],
        env={"MAMMOPIPE_BASE": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "Info.txt" in line
    assert (tmp_path / "output" / "message").read_text() == line.removeprefix("error: ")


def test_an_unknown_argument_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        prepare.main(["--dataset", "mias", "--test-fracton", "0.5"])


def test_copies_of_the_rarer_classes_alone_make_all_classes_equally_large(prepared: Path, container: Container) -> None:
    output = container(manifest=prepared, stage=prepared, images=prepared / "images") / "data_augmentation"
    augment.main(["--copies", "1", "--rarer-only", "true"])
    counts = Counter(record.label for record in read_manifest(prepared) if record.split is Split.TRAIN)
    assert len(set(counts.values())) > 1
    copies = Counter(record.label for record in read_manifest(output))
    most = max(counts.values())
    assert copies == {label: most - count for label, count in counts.items() if count < most}


def test_zero_copies_are_refused(prepared: Path, container: Container, tmp_path: Path) -> None:
    records = read_manifest(prepared)
    write_manifest([record for record in records if record.label is Label.NORMAL], tmp_path / "manifest.csv")
    output = container(manifest=tmp_path, stage=prepared, images=prepared / "images")
    with pytest.raises(ConfigError, match="copies=1, rarer_only=true gives none of the .* images of copies_of=train"):
        augment.main(["--rarer-only", "true"])
    assert not list(output.rglob("manifest*.csv"))


@pytest.mark.parametrize("more", [["--copies", "2"], ["--balance", "false"]])
def test_copies_of_the_rarer_classes_alone_need_one_copy_and_balance(
    prepared: Path, container: Container, more: list[str]
) -> None:
    container(manifest=prepared, stage=prepared, images=prepared / "images")
    with pytest.raises(ConfigError, match="rarer_only=true with .*: it needs copies=1 and balance=true"):
        augment.main(["--rarer-only", "true", *more])


@pytest.mark.parametrize("balance", ["true", "false"])
def test_without_copies_the_stage_is_passed_through(
    prepared: Path, container: Container, balance: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = container(manifest=prepared, stage=prepared, images=prepared / "images") / "data_augmentation"
    augment.main(["--copies", "0", "--balance", balance])
    text = capsys.readouterr().out
    assert "copies=0: no copy is stored" in text and ("training.sampling balances" in text) is (balance == "true")
    assert read_manifest(output) == []
    (stage,) = output.glob("stage*.json")
    described = json.loads(stage.read_text())
    assert described["config"]["balance"] is (balance == "true") and described["counts"]["copies"] == 0
    assert [path.name for path in (output / "images").rglob("*")] == ["no-copies.txt"], "an empty prefix fails on AWS"
    segmented = container(
        prepared_manifest=prepared,
        prepared_stage=prepared,
        prepared_images=prepared / "images",
        augmented_manifest=output,
        augmented_images=output / "images",
        augmented_unseen=output,
    )
    segment.main(["--height", "96", "--width", "64"])
    assert len(read_manifest(segmented / "data_segmentation")) == len(read_manifest(prepared))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no file of weights here"),
        (
            {"alexnet.pth.sha256": "0 alexnet.pth", "SHA256SUMS": "", "alexnet.pth.json": "{}"},
            "no file of weights here",
        ),
        ({"alexnet.pth": "a", "alexnet.pth.sha256": "0123  alexnet.pth"}, "alexnet.pth: its SHA-256 is ca978112"),
        ({"alexnet-0123abcd.pth": "a"}, "it must begin with 0123abcd"),
        ({"alexnet.pth": "a", "SHA256SUMS": "0123 *alexnet.pth"}, "it must begin with 0123"),
    ],
)
def test_missing_or_damaged_weights_end_prepare_before_any_image_is_read(
    container: Container, tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    container(weights=tmp_path)
    with pytest.raises(ConfigError, match=message):
        prepare.main(["--dataset", "mias"])


def test_whole_weights_and_a_packed_model_are_accepted(tmp_path: Path) -> None:
    for name in ("model.tar.gz", "resnet50.pth"):
        (tmp_path / name).write_text("a")
    (tmp_path / "resnet50.pth.sha256").write_text(f"{hashlib.sha256(b'a').hexdigest()}  resnet50.pth\n")
    check_sums(tmp_path)


def test_segment_passes_on_how_prepare_treated_raw_images(tree: Path, container: Container, tmp_path: Path) -> None:
    prepared = container(labels=tree, images=tree) / "prepared"
    prepare.main(["--dataset", "mias", "--for-processing", "convert"])
    source = tmp_path / "stage"
    source.mkdir()
    (source / "stage.json").write_bytes((prepared / "stage.json").read_bytes())
    assert Division.read(source).for_processing is ForProcessing.CONVERT
    augmented = tmp_path / "augmented"
    augmented.mkdir()
    records = read_manifest(prepared)
    write_manifest(records[:2], source / "manifest.csv")
    write_manifest(records[2:4], augmented / "manifest.csv")
    output = container(
        prepared_manifest=source,
        prepared_stage=source,
        prepared_images=prepared / "images",
        augmented_manifest=augmented,
        augmented_images=prepared / "images",
    )
    segment.main(["--height", "160", "--width", "96"])
    stated = json.loads((output / "data_segmentation" / "stage.json").read_text())["config"]
    assert PreprocessConfig.from_json(stated["preprocess"]).for_processing is ForProcessing.CONVERT
    (source / "stage-2.json").write_text((source / "stage.json").read_text().replace('"convert"', '"refuse"'))
    with pytest.raises(ConfigError, match="treatments of raw images"):
        Division.read(source)


def test_shards_hold_the_images_and_change_neither_manifest_nor_stage(
    done: tuple[Path, dict[str, Path]], container: Container
) -> None:
    plain, inputs = done
    packed = container(**inputs) / plain.name
    segment.main(["--height", "160", "--width", "96", "--shard-megabytes", "0.1"])
    for name in ("manifest.csv", "stage.json", "quarantine.csv", "montage.png"):
        assert (packed / name).read_bytes() == (plain / name).read_bytes(), name
    assert not list((packed / "images").rglob("*.png")) and len(list((packed / "images/train").glob("*.tar"))) > 1
    files = ImageFiles(packed)
    for record in read_manifest(packed):
        assert files.read(record.path) == (plain / record.path).read_bytes()
