"""The classes that a network tells apart: which classes a dataset has, and the class of each image.

There are two sets of classes, and malignant is the last of both. A model has exactly one of them.

    normal, benign, malignant    the dataset has images of all three, and the configuration asks for its classes
    negative, malignant          the dataset lacks a class, has images labelled negative, or the configuration asks the
                                 binary question; every image that is not malignant is then negative

A collection of biopsied lesions, such as CBIS-DDSM or CMMD, has benign and malignant images alone: negative then means
benign. Manifests keep the labels of their table; only training and evaluation map them to classes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import ImageRecord, Label
from mammopipe.processing.errors import LabelError

Classes = tuple[Label, ...]
THREE: Classes = (Label.NORMAL, Label.BENIGN, Label.MALIGNANT)
TWO: Classes = (Label.NEGATIVE, Label.MALIGNANT)
_OF_NUMBER = {len(classes): classes for classes in (THREE, TWO)}


class Question(StrEnum):
    """The question that a network answers about an image."""

    CLASSES = "classes"
    """Which of the dataset's classes it has."""
    BINARY = "binary"
    """Whether it is malignant: normal, benign and negative images are one class."""


def classes_of(labels: Iterable[Label], question: Question = Question.CLASSES, *, where: str) -> Classes:
    """Return the classes of a dataset, `THREE` or `TWO`.

    Args:
        labels: The labels of all images of the dataset.
        question: What the configuration asks.
        where: Name of the dataset in the message of an error.

    Raises:
        LabelError: There are no malignant images, or no others: such a dataset has one class.
    """
    counts = Counter(labels)
    if not counts[Label.MALIGNANT] or counts[Label.MALIGNANT] == counts.total():
        raise LabelError(
            f"{where}: labels {counts_text(counts)}: a dataset needs malignant images and others; this one has one "
            "class"
        )
    return TWO if question is Question.BINARY else possible_classes(counts, required=True)


def possible_classes(labels: Iterable[Label], *, required: bool = False) -> Classes:
    """Return `THREE` if no label is negative, else `TWO`; if `required`, each of the three must also occur."""
    present = set(labels)
    allowed = Label.NEGATIVE not in present and (not required or present >= set(THREE))
    return THREE if allowed else TWO


def classes_of_number(number: int) -> Classes:
    """Return the set of classes with this many members; raises `LabelError` if there is none."""
    if number not in _OF_NUMBER:
        raise LabelError(f"{number} classes: must be {' or '.join(', '.join(each) for each in (THREE, TWO))}")
    return _OF_NUMBER[number]


def class_index(label: Label, classes: Sequence[str]) -> int:
    """Return the index of the label's class.

    With the classes negative and malignant, every label except malignant is negative. With three classes, a negative
    label raises `LabelError`, because such an image may be normal or benign.
    """
    if tuple(classes) == TWO:
        return int(label is Label.MALIGNANT)
    if label not in classes:
        raise LabelError(f"label {label}: is not one of the classes {', '.join(classes)}")
    return list(classes).index(label)


def class_indices(records: Iterable[ImageRecord], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the class index of each image, (images,)."""
    return np.array([class_index(record.label, classes) for record in records], np.int64)


def class_of(label: Label, classes: Sequence[str]) -> Label:
    """Return the class of an image with this label."""
    return Label(classes[class_index(label, classes)])


def counted_labels(labels: Iterable[Label]) -> Classes:
    """Return the labels by which images are counted: the three or, if a label is negative, the labels that occur."""
    present = set(labels)
    return THREE if Label.NEGATIVE not in present else tuple(label for label in Label if label in present)


def counts_text(counts: Counter[Label]) -> str:
    """Return numbers of images by label as text."""
    return ", ".join(f"{label} {counts[label]}" for label in Label if counts[label]) or "none"
