"""Stored copies: how many each image gets, and pixels, lesions and laterality that change together."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammopipe.processing.augmentation import AugmentationConfig, Augmenter, plan_copies
from mammopipe.processing.classes import THREE, TWO
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, Split, View
from mammopipe.processing.errors import ConfigError

LESION = Lesion(200, 150, 30, Label.MALIGNANT, "CIRC")
RECORD = ImageRecord("mdb001", "p1", "mias", Laterality.LEFT, View.MLO, Label.MALIGNANT, Split.TRAIN, lesions=(LESION,))
counts = st.fixed_dictionaries({label: st.integers(0, 30) for label in THREE})


def image() -> np.ndarray:
    pixels = np.zeros((400, 400), np.uint16)
    pixels[:, :250] = 12000
    cv2.circle(pixels, (200, 150), 30, 50000, -1)
    return pixels


def training(counts: dict[Label, int]) -> list[ImageRecord]:
    return [
        replace(RECORD, image_id=f"{label}-{number}", label=label)
        for label, count in counts.items()
        for number in range(count)
    ]


@given(counts, st.integers(0, 4))
def test_copies_make_all_classes_equally_large_and_share_the_work_evenly(counts: dict[Label, int], copies: int) -> None:
    records = training(counts)
    plan = plan_copies(records, copies)
    most = max(counts.values())
    for label, count in counts.items():
        own = [plan[record.image_id] for record in records if record.label is label]
        assert not count or count + sum(own) == most * (copies + 1)
        assert not own or max(own) - min(own) <= 1


def test_only_training_originals_are_copied() -> None:
    others = [
        replace(RECORD, image_id="v", split=Split.VALIDATION),
        replace(RECORD, image_id="t", split=Split.TEST),
        replace(RECORD, image_id="c", source_image_id="mdb001"),
    ]
    assert plan_copies([RECORD, *others], 2) == {"mdb001": 2}


def test_the_same_seed_gives_the_same_copy_and_another_seed_another() -> None:
    first, again, other = (Augmenter(seed=seed).copy(image(), RECORD, 1) for seed in (5, 5, 6))
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]
    assert not np.array_equal(first[0], other[0])


def test_a_copy_does_not_depend_on_the_copies_made_before_it() -> None:
    augmenter = Augmenter(seed=1)
    augmenter.copy(image(), RECORD, 0)
    assert np.array_equal(augmenter.copy(image(), RECORD, 3)[0], Augmenter(seed=1).copy(image(), RECORD, 3)[0])


@pytest.mark.parametrize("index", range(12))
def test_lesions_side_and_names_follow_the_pixels(index: int) -> None:
    pixels, record = Augmenter(seed=2).copy(image(), RECORD, index)
    (lesion,) = record.lesions
    y, x = (grid[pixels > 30000].mean() for grid in np.indices(pixels.shape))
    assert (lesion.x, lesion.y) == pytest.approx((x, y), abs=6)
    assert lesion.radius == pytest.approx(np.sqrt((pixels > 30000).sum() / np.pi), rel=0.12)
    breast_left = (pixels[:, :200] > 0).sum() > (pixels[:, 200:] > 0).sum()
    assert record.laterality is (Laterality.LEFT if breast_left else Laterality.RIGHT)
    assert (record.source_image_id, record.image_id) == ("mdb001", f"mdb001-a{index:02d}")
    assert (record.patient_id, record.label, record.split) == (RECORD.patient_id, RECORD.label, RECORD.split)


def test_both_sides_occur_but_no_oblique_view_is_turned_upside_down() -> None:
    upright = AugmentationConfig(rotation_degrees=0, shift=0, scale=0, elastic_probability=0, brightness=0, contrast=0)
    for view, upside_down in ((View.MLO, False), (View.CC, True)):
        made = [Augmenter(upright, seed=3).copy(image(), replace(RECORD, view=view), index)[1] for index in range(20)]
        assert len({record.laterality for record in made}) == 2
        rows = Counter(round(record.lesions[0].y) for record in made)
        assert (set(rows) == {150}) is not upside_down


def test_air_stays_air() -> None:
    strong = AugmentationConfig(brightness=0.3, rotation_degrees=0, shift=0, scale=0, elastic_probability=0)
    pixels, record = Augmenter(strong, seed=0).copy(image(), RECORD, 0)
    outer = pixels[:, 260:] if record.laterality is Laterality.LEFT else pixels[:, :140]
    assert outer.max() == 0


@pytest.mark.parametrize("values", [{"rotation_degrees": -1}, {"flip_probability": 1.5}])
def test_a_setting_out_of_range_is_refused_by_name(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        AugmentationConfig(**values)


def test_the_binary_question_balances_malignant_against_all_others() -> None:
    counts = {Label.NORMAL: 6, Label.BENIGN: 2, Label.MALIGNANT: 2}
    plan = plan_copies(training(counts), 0, classes=TWO)
    assert sum(plan.values()) == 6
    assert all(name.startswith("malignant") for name, copies in plan.items() if copies)
    both = {Label.NEGATIVE: 3, Label.NORMAL: 3, Label.MALIGNANT: 2}
    assert sum(plan_copies(training(both), 0).values()) == 4
