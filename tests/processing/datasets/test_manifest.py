"""Manifests: rows that read back as written, parts that are joined, and rows that are refused by name."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammopipe.processing.datasets.manifest import (
    COLUMNS,
    ImageRecord,
    Label,
    Laterality,
    Lesion,
    Split,
    View,
    from_row,
    read_manifest,
    to_row,
    write_manifest,
)
from mammopipe.processing.errors import ManifestError

RECORD = ImageRecord("a1", "p1", "mias", Laterality.LEFT, View.MLO, Label.BENIGN, Split.TRAIN, 3, "images/a1.png")
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
lesions = st.builds(
    Lesion, st.integers(-50, 6000), st.integers(-50, 6000), st.integers(1, 500), st.sampled_from(Label), st.text()
)
records = st.builds(
    ImageRecord,
    image_id=st.text(min_size=1),
    patient_id=st.text(min_size=1),
    dataset=st.sampled_from(["mias", "rsna"]),
    laterality=st.none() | st.sampled_from(Laterality),
    view=st.none() | st.sampled_from(View),
    label=st.sampled_from(Label),
    split=st.none() | st.sampled_from(Split),
    fold=st.none() | st.integers(0, 9),
    path=st.text(),
    age=st.none() | finite,
    density=st.text(),
    lesions=st.lists(lesions, max_size=3).map(tuple),
    height=st.none() | st.integers(1, 9000),
    birads=st.text(),
    implant=st.none() | st.booleans(),
    quality=st.dictionaries(st.text(), st.none() | st.booleans() | finite | st.lists(st.text()), max_size=3),
)


def test_the_columns_are_those_that_other_tools_read() -> None:
    assert (
        COLUMNS
        == (
            "image_id patient_id dataset laterality view label split fold path source_image_id age density machine_id "
            "site_id finding lesions height width pixel_spacing_mm sha256 birads implant synthetic quality label_digest"
        ).split()
    )


@given(records)
def test_a_row_reads_back_as_the_record_it_was_written_from(record: ImageRecord) -> None:
    assert from_row(to_row(record), "row") == record


def test_a_manifest_and_its_parts_read_alike(tmp_path: Path) -> None:
    rows = [replace(RECORD, image_id=f"a{number}", patient_id=f"p{number}") for number in range(4)]
    write_manifest(reversed(rows), tmp_path / "one" / "manifest.csv")
    write_manifest(rows[2:], tmp_path / "two" / "manifest-algo-1.csv")
    write_manifest(rows[:2], tmp_path / "two" / "manifest-algo-2.csv")
    assert read_manifest(tmp_path / "one") == read_manifest(tmp_path / "two") == rows


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no manifest\.csv"):
        read_manifest(tmp_path)


def test_a_patient_in_two_splits_is_refused_by_name(tmp_path: Path) -> None:
    write_manifest([RECORD, replace(RECORD, image_id="a2", split=Split.TEST)], tmp_path / "manifest.csv")
    with pytest.raises(ManifestError, match=r"patient_id=p1 is in the splits train \(image a1\) and test \(image a2\)"):
        read_manifest(tmp_path)


def test_an_image_with_two_rows_is_refused_by_name(tmp_path: Path) -> None:
    write_manifest([RECORD, RECORD], tmp_path / "manifest.csv")
    with pytest.raises(ManifestError, match="image_id=a1 occurs twice"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("label", "bad"), ("split", "dev"), ("fold", "x"), ("age", "nan"), ("lesions", "{"), ("height", "1.5")],
)
def test_a_value_that_breaks_a_rule_is_named_with_its_line(tmp_path: Path, column: str, value: str) -> None:
    path = tmp_path / "manifest.csv"
    row = to_row(RECORD) | {column: value}
    quoted = ",".join('"' + row[name].replace('"', '""') + '"' for name in COLUMNS)
    path.write_text(",".join(COLUMNS) + "\n" + quoted + "\n")
    with pytest.raises(ManifestError, match=f"line 2: {column}="):
        read_manifest(path)


def test_an_unknown_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("image_id,colour\na1,red\n")
    with pytest.raises(ManifestError, match="unknown \\['colour'\\]"):
        read_manifest(tmp_path)
