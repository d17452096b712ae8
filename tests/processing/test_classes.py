"""Which classes a dataset has, and the class of each image."""

from dataclasses import replace

import pytest

from mammopipe.processing.classes import (
    THREE,
    TWO,
    Question,
    class_index,
    class_indices,
    class_of,
    classes_of,
    classes_of_number,
    counted_labels,
)
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.errors import LabelError

NORMAL, BENIGN, MALIGNANT, NEGATIVE = Label.NORMAL, Label.BENIGN, Label.MALIGNANT, Label.NEGATIVE
RECORD = ImageRecord("i", "p", "own", Laterality.LEFT, View.MLO, NORMAL)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([NORMAL, BENIGN, MALIGNANT], THREE),
        ([BENIGN, MALIGNANT], TWO),
        ([NORMAL, MALIGNANT], TWO),
        ([NEGATIVE, MALIGNANT], TWO),
        ([NORMAL, BENIGN, MALIGNANT, NEGATIVE], TWO),
    ],
)
def test_the_classes_come_from_the_labels(labels: list[Label], expected: tuple[Label, ...]) -> None:
    assert classes_of(labels * 3, where="table") == expected
    assert classes_of(labels, Question.BINARY, where="table") == TWO


@pytest.mark.parametrize("labels", [[NORMAL] * 4, [MALIGNANT] * 4, [NORMAL, BENIGN, NORMAL, NEGATIVE], []])
@pytest.mark.parametrize("question", Question)
def test_a_dataset_of_one_class_is_refused_with_its_counts(labels: list[Label], question: Question) -> None:
    counts = ", ".join(f"{label} {labels.count(label)}" for label in Label if label in labels) or "none"
    with pytest.raises(LabelError, match=f"^table: labels {counts}: "):
        classes_of(labels, question, where="table")


def test_with_two_classes_all_but_malignant_is_negative() -> None:
    assert [class_index(label, TWO) for label in (NORMAL, BENIGN, NEGATIVE, MALIGNANT)] == [0, 0, 0, 1]
    assert [class_index(label, THREE) for label in (NORMAL, BENIGN, MALIGNANT)] == [0, 1, 2]
    assert [class_of(label, TWO) for label in (BENIGN, MALIGNANT)] == [NEGATIVE, MALIGNANT]
    records = [replace(RECORD, label=label) for label in (MALIGNANT, NORMAL, BENIGN)]
    assert class_indices(records, TWO).tolist() == [1, 0, 0]
    assert class_indices(records, THREE).tolist() == [2, 0, 1]


def test_a_negative_image_is_never_guessed_to_be_normal() -> None:
    with pytest.raises(LabelError, match="negative: is not one of the classes normal, benign, malignant"):
        class_index(NEGATIVE, THREE)


def test_malignant_is_the_last_of_both_sets_and_the_number_names_the_set() -> None:
    assert THREE[-1] is TWO[-1] is MALIGNANT
    assert (classes_of_number(3), classes_of_number(2)) == (THREE, TWO)
    with pytest.raises(LabelError, match="^4 classes"):
        classes_of_number(4)


def test_images_are_counted_by_the_three_labels_or_by_those_that_occur_beside_negative() -> None:
    assert counted_labels([NORMAL]) == THREE
    assert set(counted_labels([NEGATIVE, MALIGNANT])) == {NEGATIVE, MALIGNANT}
