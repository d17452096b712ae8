from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.splits.assignment import SplitConfig, assign_splits

labels = st.lists(st.lists(st.sampled_from(Label), min_size=1, max_size=5), min_size=1, max_size=80)


def build(patients: list[list[Label]]) -> list[ImageRecord]:
    return [
        ImageRecord(f"i{number}-{place}", f"p{number}", "rsna", None, None, label)
        for number, images in enumerate(patients)
        for place, label in enumerate(images)
    ]


@given(labels, st.integers(0, 3))
def test_a_patient_has_one_split_and_one_fold(patients: list[list[Label]], seed: int) -> None:
    places = defaultdict(set)
    for record in assign_splits(build(patients), SplitConfig(seed=seed)):
        places[record.patient_id].add((record.split, record.fold))
        assert (record.fold is None) == (record.split is Split.TEST)
        assert (record.split is Split.VALIDATION) == (record.fold == 0)
    assert all(len(found) == 1 for found in places.values())


@given(labels)
def test_each_class_is_divided_alike_and_the_folds_are_even(patients: list[list[Label]]) -> None:
    records = assign_splits(build(patients), SplitConfig())
    worst = {f"p{number}": max(images, key=lambda label: label.rank) for number, images in enumerate(patients)}
    split = {record.patient_id: (record.split, record.fold) for record in records}
    for label in Label:
        of_label = [patient for patient in worst if worst[patient] is label]
        tested = sum(split[patient][0] is Split.TEST for patient in of_label)
        assert abs(tested - 0.2 * len(of_label)) <= 1
    sizes = [sum(fold == index for _, fold in split.values()) for index in range(5)]
    assert max(sizes) - min(sizes) <= 1


@given(labels, st.randoms())
def test_the_order_of_the_rows_does_not_matter(patients: list[list[Label]], random: object) -> None:
    records = build(patients)
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(map(repr, assign_splits(records))) == sorted(map(repr, assign_splits(shuffled)))


def test_the_division_is_the_same_on_every_machine() -> None:
    records = assign_splits(build([[Label.NORMAL]] * 10))
    assert [record.patient_id for record in records if record.split is Split.TEST] == ["p2", "p6"]


def test_another_seed_gives_another_test_set() -> None:
    records = build([[Label.NORMAL]] * 60)
    first, second = (
        {record.patient_id for record in assign_splits(records, SplitConfig(seed=seed)) if record.split is Split.TEST}
        for seed in (0, 1)
    )
    assert first != second


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"test_fraction": 0.0}, "test_fraction=0.0"),
        ({"folds": 1}, "folds=1"),
        ({"validation_fold": 5}, "validation_fold=5"),
    ],
)
def test_a_contradiction_is_refused_by_name(changes: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SplitConfig(**changes)  # type: ignore[arg-type]
