"""The images of the noise control: real labels on images that show nothing."""

from pathlib import Path

import numpy as np

from mammopipe.processing.breast.segmentation import segment_breast
from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.datasets.mias import check_release
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from mammopipe.processing.phantoms.noise import noise_image, write_noise_tree


def test_the_tree_is_a_mias_folder_with_the_same_labels_and_calls_itself_synthetic(tmp_path: Path) -> None:
    write_mias_tree(tmp_path / "MIAS", films=6)
    assert write_noise_tree(tmp_path / "MIAS" / "Info.txt", tmp_path / "noise") == 6
    ours, theirs = check_release(tmp_path / "noise"), check_release(tmp_path / "MIAS")
    assert [record.label for record in ours] == [record.label for record in theirs]
    assert all(record.synthetic for record in ours)
    first = (tmp_path / "noise" / "mdb001.pgm").read_bytes()
    assert first.startswith(b"P5\n1024 1024\n255\n") and len(first) == 17 + 1024 * 1024
    write_noise_tree(tmp_path / "MIAS" / "Info.txt", tmp_path / "again")
    assert (tmp_path / "again" / "mdb001.pgm").read_bytes() == first


def test_films_differ_and_their_outline_does_not() -> None:
    one, other = noise_image((0, 1), Laterality.LEFT, 256), noise_image((0, 2), Laterality.LEFT, 256)
    assert np.array_equal(one > 0, other > 0)
    inside = one > 0
    assert abs(np.corrcoef(one[inside], other[inside])[0, 1]) < 0.5
    assert np.array_equal(noise_image((0, 1), Laterality.RIGHT, 256), one[:, ::-1])


def test_the_segmentation_finds_the_outline() -> None:
    image = noise_image((0, 1), Laterality.LEFT).astype(np.uint16) * 257
    mask = segment_breast(image, laterality=Laterality.LEFT, view=View.MLO).mask
    overlap = 2 * (mask & (image > 0)).sum() / (mask.sum() + (image > 0).sum())
    assert overlap > 0.95
