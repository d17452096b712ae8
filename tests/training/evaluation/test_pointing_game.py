"""The pointing game on films whose bright spot is known: a network that sees brightness points at it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, Split, View
from mammopipe.processing.images.mammogram import write_png
from mammopipe.training.evaluation import pointing_game as pointing
from mammopipe.training.evaluation.pointing_game import inside_circles, peak, pointing_game
from mammopipe.training.metrics.bootstrap import Resamples

SHAPE = (96, 64)


class Model:
    """What stands for a model here: its heatmap is replaced."""

    input_shape = SHAPE
    classes = THREE


def film(folder, name: str, label: Label, spot: tuple[int, int] | None, circles: tuple[Lesion, ...]) -> ImageRecord:
    pixels = np.zeros(SHAPE, np.uint16)
    pixels[:, :40] = 20000
    if spot is not None:
        pixels[spot] = 65535
    write_png(folder / f"{name}.png", pixels)
    return ImageRecord(
        name,
        name,
        "mias",
        Laterality.LEFT,
        View.MLO,
        label,
        Split.TEST,
        lesions=circles,
        path=f"{name}.png",
        height=SHAPE[0],
        width=SHAPE[1],
    )


def circle(x: float, y: float, radius: float, label: Label) -> Lesion:
    return Lesion(x, y, radius, label, "CIRC")


@pytest.fixture
def game(tmp_path, monkeypatch):
    """Return a function that plays with the brightest place of each film as its heatmap's peak."""

    def heat(model, image, index):
        pixels = image[0].numpy()
        return (pixels - pixels.min()) * (pixels == 1)

    monkeypatch.setattr(pointing, "Heatmaps", lambda model: partial(heat, model))
    malignant, benign = Label.MALIGNANT, Label.BENIGN
    records = [
        film(tmp_path, "a", malignant, (40, 20), (circle(20, 40, 5, malignant),)),
        film(tmp_path, "b", malignant, (10, 20), (circle(20, 40, 5, malignant), circle(20, 12, 3, benign))),
        film(tmp_path, "c", malignant, (10, 20), (circle(20, 40, 5, malignant),)),
        film(tmp_path, "d", benign, (40, 20), (circle(42, 40, 5, benign),)),
        film(tmp_path, "e", benign, None, (circle(20, 40, 5, benign),)),
        film(tmp_path, "f", malignant, (40, 20), ()),
        film(tmp_path, "g", Label.NORMAL, (40, 20), ()),
    ]
    draws = Resamples.draw([record.patient_id for record in records], n=200, seed=0)
    return pointing_game(Model(), [(records[:3], tmp_path), (records[3:], tmp_path)], draws)


def test_a_film_is_hit_when_its_strongest_place_lies_in_a_circle(game):
    assert {name: found["images"] for name, found in game.items()} == {"both": 5, "malignant": 3, "benign": 2}
    assert game["malignant"]["hits"]["value"] == pytest.approx(2 / 3)
    assert game["benign"]["hits"]["value"] == 0 and game["benign"]["empty_maps"] == 1
    assert game["both"]["hits"]["value"] == pytest.approx(2 / 5)
    assert game["both"]["hits"]["low"] < 2 / 5 < game["both"]["hits"]["high"]


def test_films_without_annotation_are_counted_and_do_not_play(game):
    assert [game[name]["not_annotated"] for name in ("both", "malignant", "benign")] == [1, 1, 0]


def test_chance_is_the_area_of_the_circles_within_the_breast_over_that_of_the_breast(game):
    one = (inside_circles((circle(20, 40, 5, Label.BENIGN),), SHAPE)[:, :40]).sum() / (96 * 40)
    both = inside_circles((circle(20, 40, 5, Label.BENIGN), circle(20, 12, 3, Label.BENIGN)), SHAPE).sum() / (96 * 40)
    outside = inside_circles((circle(42, 40, 5, Label.BENIGN),), SHAPE)[:, :40].sum() / (96 * 40)
    assert 0 < outside < one < both
    assert game["malignant"]["chance"]["value"] == pytest.approx((one + both + one) / 3)
    assert game["benign"]["chance"]["value"] == pytest.approx((outside + one) / 2)
    above = game["both"]["above_chance"]["value"]
    assert above == pytest.approx(game["both"]["hits"]["value"] - game["both"]["chance"]["value"])


def test_without_annotated_films_the_share_is_undefined(tmp_path):
    record = film(tmp_path, "a", Label.NORMAL, None, ())
    found = pointing_game(
        Model(),
        [([record, replace(record, image_id="b", patient_id="b")], tmp_path)],
        Resamples.draw(["a", "b"], n=100, seed=0),
    )
    assert found["both"]["images"] == 0 and found["both"]["hits"]["value"] is None
    assert "annotated lesion" in found["both"]["hits"]["reason"]


def test_the_peak_of_a_plateau_is_in_its_middle():
    heat = np.zeros((9, 9), np.float32)
    heat[2:5, 4:7] = 1
    assert peak(heat) == (3, 5)


def test_the_evaluation_plays_on_both_splits(evaluated):
    found = evaluated.evaluation["pointing"]
    lesions = {
        split: sum(
            bool(record.lesions)
            for record in evaluated.records()
            if record.split == split and not record.source_image_id
        )
        for split in ("validation", "test")
    }
    assert {split: found[split]["both"]["images"] for split in found} == lesions
    assert found["test"]["both"]["images"] == found["test"]["malignant"]["images"] + found["test"]["benign"]["images"]
    assert 0 < found["test"]["both"]["chance"]["value"] < 0.2
