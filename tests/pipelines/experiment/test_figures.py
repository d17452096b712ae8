"""The plots of an experiment show the chance level of as many classes as its networks have."""

import pytest

from mammopipe.pipelines.experiment.figures import chance_level, draw
from mammopipe.pipelines.experiment.tables import MEASURES, Figure, ResultRow

ROWS = [ResultRow("patient", "resnet50", "test", dict.fromkeys(MEASURES, Figure(0.6, 0.5, 0.7)), 10, 5)]


@pytest.mark.parametrize("classes", [2, 3])
def test_chance_has_a_balanced_accuracy_of_one_by_the_number_of_classes(classes: int) -> None:
    assert chance_level("balanced_accuracy", classes) == pytest.approx(1 / classes)
    assert chance_level("macro_auc", classes) == chance_level("malignant_auc", classes) == 0.5
    assert chance_level("accuracy", classes) is None


def test_the_level_is_drawn_where_it_belongs_and_equal_rows_give_equal_bytes() -> None:
    two, three = (draw(ROWS, "balanced_accuracy", classes) for classes in (2, 3))
    assert two != three == draw(ROWS, "balanced_accuracy", 3)
    assert ">chance<" in two and ">chance<" not in draw(ROWS, "accuracy", 2)
