"""Synthetic films state their true masks, and classes differ only in the lesion."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.datasets.mias import read_labels
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.phantoms.mias_tree import (
    PHANTOM_NOTICE,
    Density,
    Film,
    make_film,
    mias_films,
    write_mias_tree,
)

FILMS = 12


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mias")
    write_mias_tree(folder, films=FILMS, seed=3)
    return folder


@pytest.fixture(scope="module")
def films():
    return dict(mias_films(FILMS, 3))


def draw(seed: int, label: Label = Label.MALIGNANT, laterality: Laterality = Laterality.LEFT, **options) -> Film:
    return make_film(seed, label=label, laterality=laterality, **{"height": 512, "width": 512, **options})


def disc(film: Film, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: film.pixels.shape[0], : film.pixels.shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def grown(mask: np.ndarray, size: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)) > 0


def test_a_tree_has_the_files_and_headers_of_mias(tree: Path):
    names = [f"mdb{number:03d}.pgm" for number in range(1, FILMS + 1)]
    assert sorted(path.name for path in tree.iterdir()) == ["Info.txt", *names]
    for name in names:
        data = (tree / name).read_bytes()
        assert data[:17] == b"P5\n1024 1024\n255\n" and len(data) == 17 + 1024 * 1024
    text = (tree / "Info.txt").read_text(encoding="ascii")
    assert text.splitlines()[0] == PHANTOM_NOTICE
    assert all(record.synthetic for record in read_labels(tree / "Info.txt"))


def test_the_table_reads_back_as_the_films_it_describes(tree: Path, films: dict[str, Film]):
    records = read_labels(tree / "Info.txt")
    assert [record.image_id for record in records] == list(films)
    for record in records:
        film = films[record.image_id]
        assert record.label is film.label and record.laterality is film.laterality
        assert record.density == film.density
        assert record.lesions == film.lesions


def test_a_written_film_reads_back_as_its_pixels(tree: Path, films: dict[str, Film]):
    for name, film in films.items():
        assert np.array_equal(read_mammogram(tree / f"{name}.pgm").pixels, film.pixels)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_films(tree: Path, tmp_path: Path):
    write_mias_tree(tmp_path / "again", films=4, seed=3)
    write_mias_tree(tmp_path / "other", films=4, seed=4)
    for name in ("mdb001.pgm", "mdb004.pgm"):
        # Four films of a tree of twelve: a film does not depend on how many there are.
        assert sha256(tmp_path / "again" / name) == sha256(tree / name)
        assert sha256(tmp_path / "other" / name) != sha256(tree / name)


def test_forty_films_hold_enough_patients_of_every_class():
    plan = {name: film.label for name, film in mias_films(40) if film.label is not Label.NORMAL}
    assert Counter(plan.values()) == {Label.MALIGNANT: 7, Label.BENIGN: 7}
    patients = [(int(name[3:]) + 1) // 2 for name in plan]
    assert len(set(patients)) == 14, "the other film of a patient with a lesion is normal"
    assert {int(name[3:]) % 2 for name in plan} == {0, 1}, "lesions occur on both sides"


def test_some_films_have_two_lesions_apart_from_each_other():
    several = [film for _, film in mias_films(16) if len(film.lesions) > 1]
    assert several
    for film in several:
        first, second = film.lesions
        assert np.hypot(first.x - second.x, first.y - second.y) > first.radius + second.radius


@pytest.mark.parametrize("view", [View.MLO, View.CC])
@pytest.mark.parametrize("laterality", list(Laterality))
@pytest.mark.parametrize("label", [Label.BENIGN, Label.MALIGNANT])
def test_a_lesion_lies_in_the_breast_and_is_brighter_than_its_surround(view, laterality, label):
    for seed in range(8):
        film = draw(seed, label, laterality, view=view)
        tissue = film.breast & ~film.pectoral
        for lesion in film.lesions:
            assert lesion.label is label
            circle = disc(film, lesion.x, lesion.y, lesion.radius)
            assert (circle & tissue).sum() >= 0.98 * circle.sum()
            assert (film.lesion_mask & circle).sum() >= 0.95 * film.lesion_mask.sum() > 0
            core = disc(film, lesion.x, lesion.y, 0.5 * lesion.radius) & film.lesion_mask
            ring = disc(film, lesion.x, lesion.y, 1.5 * lesion.radius) & ~circle & tissue
            assert film.pixels[core].mean() > film.pixels[ring].mean() + 8 * 257


def test_masks_exclude_each_other_and_air_is_dark():
    for seed in range(10):
        film = draw(seed, Label.NORMAL)
        assert not (film.breast & film.artefacts).any() and not (film.breast & film.padding).any()
        assert (film.pectoral <= film.breast).all() and film.pectoral.any()
        assert not film.lesions and not film.lesion_mask.any()
        assert not film.pixels[~grown(~film.padding, 3)].any()
        # A band at the skin belongs to neither side: the masks' edges lie between pixels.
        air = ~grown(film.breast | film.artefacts, 9)
        assert np.percentile(film.pixels[air], 99) < 0.08 * 65535
        assert np.median(film.pixels[film.breast]) > 0.3 * 65535


def test_the_breast_is_one_piece_at_the_chest_wall_of_its_side():
    for seed in range(6):
        for laterality in Laterality:
            film = draw(seed, Label.NORMAL, laterality)
            columns = np.flatnonzero(film.breast.any(axis=0))
            share = film.breast[:, columns].mean(axis=0)
            at_left, at_right = share[:10].mean(), share[-10:].mean()
            assert (at_left > at_right) == (laterality is Laterality.LEFT)
            assert cv2.connectedComponents(film.breast.astype(np.uint8))[0] == 2


def test_a_cc_view_has_no_pectoral_muscle():
    assert not draw(1, view=View.CC).pectoral.any()


def test_films_of_one_seed_differ_between_classes_at_the_lesion_alone():
    """By construction: artefacts, shape and texture cannot tell the class."""
    for seed in range(8):
        normal, lesion = draw(seed, Label.NORMAL), draw(seed, Label.MALIGNANT)
        for name in ("breast", "pectoral", "artefacts", "padding"):
            assert np.array_equal(getattr(normal, name), getattr(lesion, name))
        circle = lesion.lesions[0]
        near = disc(lesion, circle.x, circle.y, 1.3 * circle.radius + 4)
        assert np.array_equal(normal.pixels[~near], lesion.pixels[~near])
        assert (normal.pixels[near] != lesion.pixels[near]).any()


def test_films_carry_artefacts_at_random():
    kinds = Counter(draw(seed, Label.NORMAL).artefacts.any() for seed in range(40))
    assert kinds[True] > 20 and kinds[False] > 0


def test_two_films_of_a_patient_resemble_each_other():
    outline = [draw(seed, patient_seed=patient).breast for seed, patient in ((1, 9), (2, 9), (3, 10), (4, 11), (5, 12))]
    overlap = [(outline[0] & other).sum() / (outline[0] | other).sum() for other in outline[1:]]
    assert overlap[0] == max(overlap)


def test_scattered_calcifications_have_no_circle():
    film = draw(5, scattered=True)
    assert film.lesions == () and film.lesion_mask.sum() > 50


def test_a_large_tree_has_calcifications_without_coordinates_and_a_small_one_has_none():
    lesions = {name: film.lesions for name, film in mias_films(134) if film.label is not Label.NORMAL}
    assert [name for name, circles in lesions.items() if not circles] == ["mdb133"]


def test_size_and_grey_resolution_are_as_asked():
    film = draw(1, height=401, width=333, bits=12, padded=False)
    assert film.pixels.shape == film.breast.shape == (401, 333) and film.pixels.dtype == np.uint16
    assert film.pixels.flags["C_CONTIGUOUS"]
    assert np.array_equal(np.round(np.round(film.pixels * (4095 / 65535)) * (65535 / 4095)), film.pixels)
    assert len(np.unique(film.pixels)) > 256 and not film.padding.any()
    assert draw(1, density=Density.DENSE).density is Density.DENSE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"view": View.ML}, "view=ML"),
        ({"height": 64}, "height=64"),
        ({"width": 200}, "width=200"),
        ({"lesions": 0}, "lesions=0"),
        ({"bits": 7}, "bits=7"),
        ({"label": Label.NORMAL, "scattered": True}, "scattered=True"),
    ],
)
def test_contradictory_arguments_are_refused_by_name(options, words):
    with pytest.raises(ConfigError, match=words):
        draw(**{"seed": 0, **options})


@pytest.mark.parametrize("films", [0, 1, 7, -2, 1000])
def test_a_tree_of_half_patients_is_refused_and_nothing_written(films, tmp_path):
    with pytest.raises(ConfigError, match=f"films={films}"):
        write_mias_tree(tmp_path / "tree", films=films)
    assert not (tmp_path / "tree").exists()
    with pytest.raises(ConfigError, match="seed=-1"):
        mias_films(2, -1)
