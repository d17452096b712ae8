"""Evaluation of candidates of two classes, and of candidates whose classes do not fit the data or each other."""

from dataclasses import dataclass

import numpy as np
import pytest

from mammopipe.processing.classes import THREE, TWO
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Split, View
from mammopipe.processing.errors import ConfigError
from mammopipe.training.evaluation.data import SegmentedData
from mammopipe.training.metrics.classification import macro_auc, malignant_auc, malignant_or_not
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.predictions import ValidationPredictions, columns


@dataclass(frozen=True)
class Model:
    """The attributes of a model that state its classes and what it judges."""

    classes: tuple[str, ...]
    level: Level = Level.IMAGE
    other_side: bool = False


def data(tmp_path, *labels: Label) -> SegmentedData:
    records = tuple(
        ImageRecord(f"i{place}", f"p{place}", "own", Laterality.LEFT, View.MLO, label, Split.VALIDATION)
        for place, label in enumerate(labels)
    )
    return SegmentedData(tmp_path, records, {"config": {}})


def test_the_candidates_determine_the_question(tmp_path):
    three = data(tmp_path, Label.NORMAL, Label.BENIGN, Label.BENIGN, Label.MALIGNANT)
    assert three.classes == THREE and three.asked_as({"a": Model(THREE)}).classes == THREE
    binary = three.asked_as({"a": Model(TWO), "b": Model(TWO)})
    assert binary.classes == TWO and binary.labels() == {"normal": 1, "benign": 2, "malignant": 1}
    counts = binary.counts()["validation"]
    assert (counts["negative"], counts["malignant"]) == (3, 1) and "benign" not in counts
    assert len(binary.judged(Split.VALIDATION)) == 4


def test_candidates_of_other_classes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="candidates of different classes cannot be compared: a normal, benign"):
        data(tmp_path, *THREE).asked_as({"a": Model(THREE), "b": Model(TWO)})
    with pytest.raises(ConfigError, match="a: classes normal, benign, malignant; the images of .* negative, malignant"):
        data(tmp_path, *TWO).asked_as({"a": Model(THREE)})


def test_figures_of_two_classes_are_those_of_malignant():
    logits = np.random.default_rng(0).normal(size=(40, 2))
    labels, names = np.arange(40) % 2, tuple(f"i{place}" for place in range(40))
    predictions = ValidationPredictions(names, names, names, labels, logits)
    assert predictions.classes == TWO and predictions.malignant_index == 1
    assert columns(predictions.classes)[-2:] == ["negative", "malignant"]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert macro_auc(labels, shares) == pytest.approx(malignant_auc(labels, shares))


def test_three_classes_become_malignant_or_not():
    shares = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]])
    labels, two = malignant_or_not(np.array([0, 2, 1]), shares)
    assert labels.tolist() == [0, 1, 0] and two[:, 1].tolist() == [0.2, 0.8, 0.1]
    assert two.sum(axis=1) == pytest.approx(1)
    assert malignant_auc(labels, two) == malignant_auc(np.array([0, 2, 1]), shares)
