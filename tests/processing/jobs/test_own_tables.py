"""Prepare on a site's own table: its splits are kept, its lesions must lie in its images, phantoms stay phantoms."""

import csv
from pathlib import Path

import pytest

from mammopipe.processing.container.paths import BASE_VARIABLE
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split, read_manifest
from mammopipe.processing.datasets.own import arrange
from mammopipe.processing.errors import LabelError
from mammopipe.processing.jobs import prepare
from mammopipe.processing.phantoms.own_tree import write_own_tree
from mammopipe.processing.splits.assignment import SplitConfig, keep_splits, states_splits


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write(table: Path, rows: list[dict[str, str]]) -> None:
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_prepare_keeps_the_splits_of_a_table_and_quarantines_a_lesion_outside_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_own_tree(tmp_path / "own", images=24, height=160, width=130)
    rows = rows_of(tmp_path / "own" / "labels.csv")
    stated = {}
    for row in rows:
        number = int(row["patient"][1:])
        stated[row["patient"]] = row["split"] = "test" if number < 3 else "validation" if number < 6 else "train"
    rows[0]["lesion_x_max"], rows[0]["lesion_x_min"] = "900", "880"
    write(tmp_path / "own" / "labels.csv", rows)
    arrange(tmp_path / "own", tmp_path / "staged")
    (tmp_path / "base" / "processing" / "input").mkdir(parents=True)
    for name, folder in (("labels", "staged"), ("images", "staged/images")):
        (tmp_path / "base" / "processing" / "input" / name).symlink_to(tmp_path / folder)
    monkeypatch.setenv(BASE_VARIABLE, str(tmp_path / "base"))
    prepare.main(["--dataset", "own", "--max-quarantine", "0.1"])
    output = tmp_path / "base" / "processing" / "output" / "prepared"
    records = read_manifest(output)
    assert len(records) == 23 and all(record.synthetic for record in records)
    assert {record.patient_id: str(record.split) for record in records} == stated
    assert {record.fold for record in records if record.split is Split.TRAIN} == {1, 2, 3, 4}
    assert {record.fold for record in records if record.split is Split.VALIDATION} == {0}
    (refused,) = rows_of(output / "quarantine.csv")
    assert "x=890, y=" in refused["reason"] and "outside the image of 160 rows and 130 columns" in refused["reason"]


def record(image: str, patient: str, split: Split | None) -> ImageRecord:
    return ImageRecord(image, patient, "own", None, None, Label.NORMAL, split)


def test_without_a_validation_split_one_fold_of_the_training_images_becomes_it() -> None:
    stated = [record(f"i{number}", f"p{number}", Split.TEST if number < 2 else Split.TRAIN) for number in range(12)]
    placed = keep_splits(stated, SplitConfig())
    assert [item.split for item in placed[:2]] == [Split.TEST, Split.TEST]
    assert sorted({item.fold for item in placed[2:] if item.fold is not None}) == [0, 1, 2, 3, 4]
    assert {item.split for item in placed[2:] if item.fold == 0} == {Split.VALIDATION}
    assert {item.split for item in placed[2:] if item.fold != 0} == {Split.TRAIN}


def test_contradictory_splits_are_refused() -> None:
    train, test = record("a", "p", Split.TRAIN), record("b", "p", Split.TEST)
    with pytest.raises(LabelError, match="image b: the table puts its patient in the splits test and train"):
        keep_splits([train, test], SplitConfig())
    with pytest.raises(LabelError, match="no image in test"):
        keep_splits([train], SplitConfig())
    with pytest.raises(LabelError, match="1 of 2 images have a split"):
        states_splits([train, record("c", "q", None)])
    assert not states_splits([record("c", "q", None)])
