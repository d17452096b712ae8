"""The plots of an experiment show the chance level of as many classes as its networks have."""

import re

import pytest

from mammopipe.pipelines.experiment.figures import LEFT, RIGHT, WIDTH, draw
from mammopipe.pipelines.experiment.tables import MEASURES, Figure, Row

ROWS = [Row("patient", "resnet50", "test", dict.fromkeys(MEASURES, Figure(0.6, 0.5, 0.7)), 10, 5)]


def chance_of(measure: str, classes: int) -> float:
    place = re.search(r'class="chance" x1="([\d.]+)"', draw(ROWS, measure, classes))
    assert place is not None
    return (float(place[1]) - LEFT) / (WIDTH - LEFT - RIGHT)


@pytest.mark.parametrize("classes", [2, 3])
def test_chance_has_a_balanced_accuracy_of_one_by_the_number_of_classes(classes: int) -> None:
    assert chance_of("balanced_accuracy", classes) == pytest.approx(1 / classes, abs=1e-3)
    assert chance_of("macro_auc", classes) == pytest.approx(0.5, abs=1e-3)
