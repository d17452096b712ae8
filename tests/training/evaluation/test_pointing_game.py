"""The pointing game on images with a known bright spot, which serves as the heatmap's peak."""

from dataclasses import replace

import numpy as np
import pytest

from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, Split, View
from mammopipe.training.evaluation.batch_prediction import logits_and_features
from mammopipe.training.evaluation.data import SegmentedData
from mammopipe.training.evaluation.pointing_game import (
    inside_circles,
    outputs_of,
    peak,
    point,
    pointing_game,
    takes_part,
)
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.networks.grad_cam import heatmap
from mammopipe.training.networks.model_directory import LoadedModel
from mammopipe.training.networks.registry import build_model

SHAPE = (96, 64)


def play(images):
    """Return the result of the game with the brightest pixel of each image as the peak of its heatmap."""
    records = [record for record, _ in images]
    found = {
        index: point((pixels - pixels.min()) * (pixels == 1), pixels, record.lesions)
        for index, (record, pixels) in enumerate(images)
        if takes_part(record, THREE)
    }
    draws = Resamples.draw([record.patient_id for record in records], n=200, seed=0)
    return pointing_game(records, found, THREE, draws)


def image_with(name: str, label: Label, spot: tuple[int, int] | None, circles: tuple[Lesion, ...]):
    """Return the record of an image and its pixels."""
    pixels = np.zeros(SHAPE, np.float32)
    pixels[:, :40] = 0.3
    if spot is not None:
        pixels[spot] = 1
    record = ImageRecord(
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
    return record, pixels


def circle(x: float, y: float, radius: float, label: Label) -> Lesion:
    return Lesion(x, y, radius, label, "CIRC")


@pytest.fixture
def game():
    malignant, benign = Label.MALIGNANT, Label.BENIGN
    return play(
        [
            image_with("a", malignant, (40, 20), (circle(20, 40, 5, malignant),)),
            image_with("b", malignant, (10, 20), (circle(20, 40, 5, malignant), circle(20, 12, 3, benign))),
            image_with("c", malignant, (10, 20), (circle(20, 40, 5, malignant),)),
            image_with("d", benign, (40, 20), (circle(42, 40, 5, benign),)),
            image_with("e", benign, None, (circle(20, 40, 5, benign),)),
            image_with("f", malignant, (40, 20), ()),
            image_with("g", Label.NORMAL, (40, 20), ()),
        ]
    )


def test_an_image_is_hit_when_its_strongest_place_lies_in_a_circle(game):
    assert {name: found["images"] for name, found in game.items()} == {"both": 5, "malignant": 3, "benign": 2}
    assert game["malignant"]["hits"]["value"] == pytest.approx(2 / 3)
    assert game["benign"]["hits"]["value"] == 0 and game["benign"]["empty_maps"] == 1
    assert game["both"]["hits"]["value"] == pytest.approx(2 / 5)
    assert game["both"]["hits"]["low"] < 2 / 5 < game["both"]["hits"]["high"]


def test_images_without_annotation_are_counted_and_do_not_play(game):
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


def test_without_annotated_images_the_share_is_undefined():
    record, pixels = image_with("a", Label.NORMAL, None, ())
    found = play([(record, pixels), (replace(record, image_id="b", patient_id="b"), pixels)])
    assert found["both"]["images"] == 0 and found["both"]["hits"]["value"] is None
    assert "annotated lesion" in found["both"]["hits"]["reason"]


@pytest.mark.parametrize("name", ["modified_cnn", "alexnet"])
def test_one_pass_gives_what_the_single_steps_give(evaluation_inputs, name):
    network = build_model(name, classes=list(THREE), seed=3).eval()
    data = SegmentedData.read(evaluation_inputs.data)
    size = {"height": data.preprocess.height, "width": data.preprocess.width}
    model = LoadedModel(network, {"classes": list(THREE), "input": size})
    records = [record for record in data.records if not record.source_image_id]
    parts = data.in_folders(sorted(records, key=lambda record: str(record.split)))
    found = outputs_of(model, parts)
    apart = [logits_and_features(model, rows, folder) for rows, folder in parts]
    np.testing.assert_allclose(found.logits, np.concatenate([logits for logits, _ in apart]), atol=1e-6)
    np.testing.assert_allclose(found.features, np.concatenate([features for _, features in apart]), atol=1e-6)
    rows = [(record, folder) for part, folder in parts for record in part]
    assert set(found.pointed) == {place for place, (record, _) in enumerate(rows) if takes_part(record, THREE)}
    for place in list(found.pointed)[::7]:
        record, folder = rows[place]
        image = ImageDataset([record], folder, shape=model.input_shape)[0][0]
        heat = heatmap(model, image, record.label.rank)
        assert found.pointed[place] == point(heat, image[0].numpy(), record.lesions)


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
