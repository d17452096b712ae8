"""The units that each protocol keeps together; a manifest with a weaker protocol must state it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mammopipe.processing.container.paths import BASE_VARIABLE
from mammopipe.processing.datasets.manifest import (
    ImageRecord,
    Label,
    Laterality,
    Split,
    SplitProtocol,
    View,
    read_manifest,
    stated_protocol,
    validate,
    write_manifest,
)
from mammopipe.processing.errors import ConfigError, ManifestError
from mammopipe.processing.jobs import augment, prepare, segment
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from mammopipe.processing.splits.assignment import SplitConfig, assign_folds, assign_splits
from mammopipe.processing.splits.leakage_audit import audit_leakage

FILMS = 20


def rows(patients: int = 60) -> list[ImageRecord]:
    """Return two images for each patient, the classes in turn."""
    return [
        ImageRecord(f"f{number:03d}", f"p{number // 2:03d}", "mias", Laterality.LEFT, View.MLO,
                    list(Label)[number % 3])
        for number in range(2 * patients)
    ]  # fmt: skip


def with_copies(records: list[ImageRecord]) -> list[ImageRecord]:
    copies = [replace(record, image_id=f"{record.image_id}-a00", source_image_id=record.image_id) for record in records]
    return [*records, *copies]


def splits_by(records: list[ImageRecord], key: Callable[[ImageRecord], str]) -> list[int]:
    """Return in how many splits each group lies."""
    groups: dict[str, set[Split | None]] = {}
    for record in records:
        groups.setdefault(key(record), set()).add(record.split)
    return [len(splits) for splits in groups.values()]


def test_by_image_an_image_stays_whole_and_patients_do_not() -> None:
    divided = assign_splits(with_copies(rows()), SplitConfig(), SplitProtocol.FILM)
    assert set(splits_by(divided, lambda record: record.original_id)) == {1}
    assert max(splits_by(divided, lambda record: record.patient_id)) > 1


def test_as_published_copies_of_an_image_lie_in_several_splits() -> None:
    divided = assign_splits(with_copies(rows()), SplitConfig(), SplitProtocol.PUBLISHED)
    assert max(splits_by(divided, lambda record: record.original_id)) > 1
    tested = [record for record in divided if record.split is Split.TEST]
    assert len(tested) == pytest.approx(0.2 * len(divided), abs=3)
    assert any(record.source_image_id for record in tested) and not all(record.source_image_id for record in tested)


def test_a_manifest_is_as_strict_as_the_protocol_it_is_read_by(tmp_path: Path) -> None:
    by_film = assign_splits(rows(), SplitConfig(), SplitProtocol.FILM)
    write_manifest(by_film, tmp_path / "manifest.csv")
    with pytest.raises(ManifestError, match="all images of a patient belong to one split"):
        read_manifest(tmp_path)
    assert len(read_manifest(tmp_path, SplitProtocol.FILM)) == len(by_film)
    leaking = assign_splits(with_copies(rows()), SplitConfig(), SplitProtocol.PUBLISHED)
    with pytest.raises(ManifestError, match="an image and its copies belong to one split"):
        validate(leaking, where="here", protocol=SplitProtocol.FILM)
    validate(leaking, where="here", protocol=SplitProtocol.PUBLISHED)


def test_a_stage_that_states_no_protocol_is_held_to_the_strict_one() -> None:
    assert stated_protocol({}, where="stage.json") is SplitProtocol.PATIENT
    assert stated_protocol({"protocol": "film"}, where="stage.json") is SplitProtocol.FILM
    with pytest.raises(ManifestError, match="stage.json: config.protocol='any' must be one of patient, film"):
        stated_protocol({"protocol": "any"}, where="stage.json")


def test_folds_are_those_of_the_manifest_and_copies_go_with_their_source() -> None:
    divided = assign_splits(rows(), SplitConfig(folds=4, seed=3))
    development = with_copies([record for record in divided if record.split is not Split.TEST])
    folds = assign_folds(development, 4, seed=3, protocol=SplitProtocol.PATIENT)
    assert folds == [record.fold for record in development]
    by_film = assign_folds(development, 4, seed=3, protocol=SplitProtocol.FILM)
    assert by_film[: len(by_film) // 2] == by_film[len(by_film) // 2 :] != folds[: len(folds) // 2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_mias_tree(folder, films=FILMS, seed=1)
    return folder


def run_jobs(tree: Path, base: Path, protocol: str, copies_of: str) -> Path:
    """Run the three jobs, each on what the one before left, and return the folder of segmented images."""
    prepared, augmented = (base / "job" / "processing" / "output" / name for name in ("prepared", "data_augmentation"))
    inputs = base / "job" / "processing" / "input"
    inputs.mkdir(parents=True)
    given = {
        "labels": tree, "images": tree, "manifest": prepared, "stage": prepared, "prepared-manifest": prepared,
        "prepared-stage": prepared, "prepared-images": prepared / "images", "augmented-manifest": augmented,
        "augmented-images": augmented / "images",
    }  # fmt: skip
    for name, folder in given.items():
        (inputs / name).symlink_to(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BASE_VARIABLE, str(base / "job"))
        settings = ["--max-height", "256", "--test-fraction", "0.3", "--folds", "2"]
        prepare.main(["--dataset", "mias", "--protocol", protocol, *settings])
        (inputs / "images").unlink()
        (inputs / "images").symlink_to(prepared / "images")
        augment.main(["--copies", "1", "--copies-of", copies_of])
        segment.main(["--height", "64", "--width", "64"])
    return base / "job" / "processing" / "output" / "data_segmentation"


def test_as_published_every_image_is_augmented_before_the_images_are_divided(tree: Path, tmp_path: Path) -> None:
    output = run_jobs(tree, tmp_path, "published", "all")
    records = read_manifest(output, SplitProtocol.PUBLISHED)
    assert {record.split for record in records if record.source_image_id} == set(Split)
    assert {record.source_image_id for record in records} >= {f"mdb{number:03d}" for number in range(1, 3)}
    assert all((output / record.path).is_file() for record in records)
    assert json.loads((output / "stage.json").read_text())["config"]["protocol"] == "published"
    report = audit_leakage(records, output)
    kinds = {finding.kind for finding in report.findings}
    assert {"patient-in-two-splits", "source-in-two-splits", "copy-outside-training"} <= kinds


def test_for_cross_validation_validation_images_are_copied_too_and_the_audit_knows(tree: Path, tmp_path: Path) -> None:
    output = run_jobs(tree, tmp_path, "patient", "development")
    records = read_manifest(output)
    assert {record.split for record in records if record.source_image_id} == {Split.TRAIN, Split.VALIDATION}
    folded = audit_leakage(records, output, copied=(Split.TRAIN, Split.VALIDATION))
    assert folded.passed, folded.verdict
    # Networks that were not cross-validated have no business with these copies.
    assert {finding.kind for finding in audit_leakage(records, output).findings} == {"copy-outside-training"}


def test_all_images_are_copied_as_published_only(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="copies_of=all and protocol=patient: all is for the protocol published"):
        run_jobs(tree, tmp_path, "patient", "all")
