"""The label table of mini-MIAS: labels, lesions and patients, and tables that are not the released one."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.datasets.mias import check_release, read_labels
from mammopipe.processing.errors import LabelError
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.phantoms.mias_tree import write_mias_tree


def table(folder: Path, *rows: str) -> Path:
    path = folder / "Info.txt"
    path.write_text("prose about the films\n\n" + "\n".join(rows) + "\n", encoding="ascii")
    return path


def test_the_worst_finding_of_a_film_is_its_label_and_all_lesions_are_kept(tmp_path: Path) -> None:
    rows = ("mdb144 F MISC B 233 994 29", "mdb144 F MISC M 313 540 27", "mdb143 F NORM ")
    normal, film = read_labels(table(tmp_path, *rows))
    assert (normal.image_id, normal.label, normal.lesions) == ("mdb143", Label.NORMAL, ())
    assert film.label is Label.MALIGNANT
    assert [lesion.label for lesion in film.lesions] == [Label.BENIGN, Label.MALIGNANT]
    assert film.patient_id == normal.patient_id
    assert (film.laterality, normal.laterality) == (Laterality.LEFT, Laterality.RIGHT)
    assert film.view is View.MLO


def test_lesion_rows_are_counted_from_the_top(tmp_path: Path) -> None:
    (film,) = read_labels(table(tmp_path, "mdb028 F CIRC M 338 314 56"))
    assert (film.lesions[0].x, film.lesions[0].y, film.lesions[0].radius) == (338, 1023 - 314, 56)


def test_scattered_calcifications_have_no_lesion_but_keep_their_label(tmp_path: Path) -> None:
    rows = ("mdb216 D CALC M *NOTE 3*", "mdb059 F CIRC B")
    assert [(film.label, film.lesions) for film in read_labels(table(tmp_path, *rows))] == [
        (Label.BENIGN, ()),
        (Label.MALIGNANT, ()),
    ]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("mdb1 F NORM", "film 'mdb1'"),
        ("mdb001 X NORM", "density 'X'"),
        ("mdb001 F NORM B", "class 'NORM'"),
        ("mdb001 F LUMP B 1 2 3", "class 'LUMP'"),
        ("mdb001 F CIRC X 1 2 3", "severity 'X'"),
        ("mdb001 F CIRC B 1 2", "'1 2'"),
        ("mdb001 F CIRC B 1 2 3 4", "'1 2 3 4'"),
        ("mdb001 F CIRC B 5000 2 3", "x 5000"),
        ("mdb001 F CIRC B 1 2 0", "radius 0"),
    ],
)
def test_a_broken_row_is_refused_by_line_and_field(tmp_path: Path, row: str, named: str) -> None:
    with pytest.raises(LabelError, match=r"line 3") as caught:
        read_labels(table(tmp_path, row))
    assert named in str(caught.value)


def test_a_file_without_rows_is_no_label_table(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no row"):
        read_labels(table(tmp_path))


def test_phantoms_are_recognised_and_accepted(tmp_path: Path) -> None:
    write_mias_tree(tmp_path, films=4)
    assert all(record.synthetic for record in read_labels(tmp_path / "Info.txt"))
    assert len(check_release(tmp_path)) == 4


def test_a_film_without_a_row_and_a_row_without_a_film_are_named(tmp_path: Path) -> None:
    write_mias_tree(tmp_path, films=4)
    (tmp_path / "mdb004.pgm").rename(tmp_path / "mdb005.pgm")
    with pytest.raises(LabelError, match=r"mdb004\.pgm has a row in Info.txt but no film"):
        check_release(tmp_path)
    write_mias_tree(tmp_path, films=4)
    with pytest.raises(LabelError, match=r"mdb005\.pgm is a film without a row"):
        check_release(tmp_path)


def test_the_real_set_has_its_golden_facts(mias_folder: Path) -> None:
    records = check_release(mias_folder)
    assert len(records) == 322
    assert not any(record.synthetic for record in records)
    assert len({record.patient_id for record in records}) == 161
    assert Counter(record.label for record in records) == {Label.NORMAL: 207, Label.BENIGN: 63, Label.MALIGNANT: 52}
    diseased = {record.image_id for record in records if record.label is not Label.NORMAL}
    located = {record.image_id for record in records if record.lesions}
    assert diseased - located == {"mdb059", "mdb216", "mdb233", "mdb245"}
    assert sum(len(record.lesions) for record in records) == 119
    several = {record.image_id: len(record.lesions) for record in records if len(record.lesions) > 1}
    assert several == {"mdb005": 2, "mdb132": 2, "mdb144": 2, "mdb223": 2, "mdb226": 3, "mdb239": 2, "mdb249": 2}


@pytest.mark.parametrize("image_id", ["mdb028", "mdb010", "mdb134"])
def test_a_known_lesion_is_brighter_than_its_surround_so_y_is_right(mias_folder: Path, image_id: str) -> None:
    (record,) = (record for record in read_labels(mias_folder / "Info.txt") if record.image_id == image_id)
    pixels = read_mammogram(mias_folder / record.path).pixels.astype(np.float64)
    (lesion,) = record.lesions

    def contrast(y: float) -> float:
        near, far = np.zeros(pixels.shape, np.uint8), np.zeros(pixels.shape, np.uint8)
        centre = (round(lesion.x), round(y))
        cv2.circle(far, centre, round(lesion.radius * 1.6), 1, -1)
        cv2.circle(near, centre, round(lesion.radius * 0.7), 1, -1)
        cv2.circle(far, centre, round(lesion.radius), 0, -1)
        return float(pixels[near > 0].mean() - pixels[far > 0].mean())

    assert contrast(lesion.y) > 2000
    assert contrast(lesion.y) > contrast(1023 - lesion.y)


@pytest.mark.parametrize(("old", "new", "named"), [
    ("mdb001 G CIRC B", "mdb001 G CIRC M", "62 benign films instead of 63, 53 malignant films instead of 52"),
    ("mdb001 G CIRC B 535 425 197", "mdb001 G CIRC B 535 425 196", "SHA-256 of its rows"),
])  # fmt: skip
def test_an_altered_table_is_refused_and_the_difference_named(
    mias_folder: Path, tmp_path: Path, old: str, new: str, named: str
) -> None:
    for film in mias_folder.glob("*.pgm"):
        (tmp_path / film.name).symlink_to(film)
    (tmp_path / "Info.txt").write_text((mias_folder / "Info.txt").read_text().replace(old, new))
    with pytest.raises(LabelError, match=named):
        check_release(tmp_path)
