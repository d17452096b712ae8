"""The division into splits and folds: by patient, by class, the same on every machine, or as the table states."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split, SplitProtocol
from mammopipe.processing.errors import ConfigError, LabelError
from mammopipe.processing.splits import assignment
from mammopipe.processing.splits.assignment import (
    SplitConfig,
    assign_folds,
    assign_splits,
    keep_splits,
    states_splits,
)

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
    assert [record.fold for record in records] == [4, 2, None, 2, 0, 1, None, 3, 0, 1]


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
        ({"test_fraction": 0.0}, "^test_fraction=0.0 must lie between 0 and 1"),
        ({"test_fraction": 1.0}, "^test_fraction=1.0 must lie between 0 and 1"),
        ({"folds": 1}, "^folds=1 must be at least 2"),
        ({"validation_fold": 5}, r"^validation_fold=5 must be one of 0 to 4 \(folds=5\)"),
        ({"validation_fold": -1}, "^validation_fold=-1 must"),
    ],
)
def test_a_contradiction_is_refused_by_name(changes: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SplitConfig(**changes)  # type: ignore[arg-type]


def test_the_least_and_the_greatest_values_are_accepted() -> None:
    assert SplitConfig(test_fraction=0.999, folds=2, validation_fold=1).validation_fold == 1
    assert (SplitConfig().test_fraction, SplitConfig().folds, SplitConfig().validation_fold) == (0.2, 5, 0)


def test_a_class_of_more_patients_than_folds_has_one_in_the_test_set() -> None:
    for patients, tested in ((5, 0), (6, 1), (30, 2)):
        records = assign_splits(build([[Label.BENIGN]] * patients), SplitConfig(test_fraction=0.05))
        assert sum(record.split is Split.TEST for record in records) == tested, patients


def test_the_validation_fold_is_the_one_that_is_configured() -> None:
    records = assign_splits(build([[Label.NORMAL]] * 20), SplitConfig(folds=4, validation_fold=2))
    folds = {record.fold for record in records if record.split is Split.VALIDATION}
    assert folds == {2} and {record.fold for record in records if record.split is Split.TRAIN} == {0, 1, 3}


def test_between_equally_serious_labels_the_name_decides_not_the_order() -> None:
    # A patient with a normal and a negative image counts as normal: the last of the equals by name.
    def stratum(images: list[Label]) -> list[tuple[Split | None, int | None]]:
        records = assign_splits(build([images, *[[Label.NEGATIVE]] * 7, *[[Label.NORMAL]] * 9]))
        return [(record.split, record.fold) for record in records][len(images) :]

    assert stratum([Label.NORMAL, Label.NEGATIVE]) == stratum([Label.NEGATIVE, Label.NORMAL]) == stratum([Label.NORMAL])
    assert stratum([Label.NORMAL]) != stratum([Label.NEGATIVE]), "the two strata are dealt one by one"


def test_the_folds_of_the_development_set_are_dealt_by_class_and_seed() -> None:
    records = build([[Label.NORMAL]] * 7 + [[Label.MALIGNANT, Label.BENIGN]] * 6)
    folds = assign_folds(records, 3, seed=0, protocol=SplitProtocol.PATIENT)
    assert folds[7::2] == folds[8::2], "images of one patient share a fold"
    assert sorted(folds[:7]) == [0, 0, 0, 1, 1, 2, 2] and sorted(folds[7::2]) == [0, 0, 1, 1, 2, 2]
    assert folds != assign_folds(records, 3, seed=1, protocol=SplitProtocol.PATIENT)


# --- splits that the label table states


def stated(splits: Sequence[Split | None], patients: Sequence[str] | None = None) -> list[ImageRecord]:
    """Return one image for each split, of a patient of its own unless patients are given."""
    names = patients or [f"p{place}" for place in range(len(splits))]
    return [
        ImageRecord(f"i{place}", name, "rsna", None, None, Label.NORMAL, split)
        for place, (name, split) in enumerate(zip(names, splits, strict=True))
    ]


def test_a_table_states_all_splits_or_none() -> None:
    assert states_splits(stated([Split.TRAIN, Split.TEST])) is True and states_splits(stated([Split.TEST])) is True
    assert states_splits(stated([None, None])) is False and states_splits([]) is False
    with pytest.raises(LabelError, match=r"^2 of 3 images have a split; give one for all of them or for none$"):
        states_splits(stated([Split.TRAIN, None, Split.TEST]))


def test_stated_splits_are_kept_and_the_validation_fold_comes_from_training() -> None:
    records = keep_splits(stated([Split.TRAIN] * 10 + [Split.TEST] * 3), SplitConfig())
    assert [record.split for record in records[10:]] == [Split.TEST] * 3
    assert [record.fold for record in records[10:]] == [None] * 3
    assert sorted(record.fold or 0 for record in records[:10]) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert all((record.split is Split.VALIDATION) == (record.fold == 0) for record in records[:10])
    assert all(record.split in (Split.TRAIN, Split.VALIDATION) for record in records[:10])


def test_a_stated_validation_split_is_the_validation_fold() -> None:
    splits = [Split.TRAIN] * 8 + [Split.VALIDATION] * 2 + [Split.TEST]
    records = keep_splits(stated(splits), SplitConfig(folds=5, validation_fold=1))
    assert [record.split for record in records] == splits
    assert [record.fold for record in records[8:]] == [1, 1, None]
    assert sorted(record.fold for record in records[:8] if record.fold is not None) == [0, 0, 2, 2, 3, 3, 4, 4]
    other = keep_splits(stated(splits), SplitConfig(folds=5, validation_fold=1, seed=4))
    assert [record.fold for record in other] != [record.fold for record in records]


def test_stated_splits_that_divide_a_patient_or_lack_one_are_refused() -> None:
    with pytest.raises(LabelError) as caught:
        keep_splits(stated([Split.TRAIN, Split.TEST], ["p", "p"]), SplitConfig())
    assert str(caught.value) == (
        "image i1: the table puts its patient in the splits test and train; all images of a patient belong to one split"
    )
    together = stated([Split.TRAIN, Split.TRAIN, Split.TEST], ["p", "p", "q"])
    folds = [record.fold for record in keep_splits(together, SplitConfig())]
    assert folds[0] == folds[1]
    for missing, others in ((Split.TRAIN, Split.TEST), (Split.TEST, Split.TRAIN)):
        with pytest.raises(LabelError, match=f"^the table's split column has no image in {missing}$"):
            keep_splits(stated([others, Split.VALIDATION]), SplitConfig())


def mias_records() -> list[ImageRecord]:
    """Two images of each of 161 patients, as in mini-MIAS."""
    return [
        ImageRecord(f"mdb{2 * number - side:03d}", f"mias{number:03d}", "mias", None, None, list(Label)[number % 3])
        for number in range(1, 162)
        for side in (1, 0)
    ]


def test_a_breast_that_the_release_lists_twice_has_one_place_in_every_deal(monkeypatch: pytest.MonkeyPatch) -> None:
    records = mias_records()
    twins = [place for place, record in enumerate(records) if record.patient_id in ("mias111", "mias113")]

    def deals(seed: int) -> tuple[list[object], list[int]]:
        placed = [(record.split, record.fold) for record in assign_splits(records, SplitConfig(seed=seed))]
        return [*placed], assign_folds(records, 5, seed=seed, protocol=SplitProtocol.PATIENT)

    found = [deals(seed) for seed in range(20)]
    for splits, folds in found:
        assert len({splits[place] for place in twins}) == len({folds[place] for place in twins}) == 1
    monkeypatch.setattr(assignment, "same_breast", lambda dataset, patient_id: patient_id)
    before = [deals(seed) for seed in range(20)]
    assert found != before, "without the rule, some deal separates them"
    moved = {
        records[place].patient_id
        for after, plain in zip(found, before, strict=True)
        for kind in (0, 1)
        for place, (one, other) in enumerate(zip(after[kind], plain[kind], strict=True))
        if one != other
    }
    assert moved == {"mias113"}, "nobody else moves"


def test_a_patient_keeps_its_place_where_the_other_patient_of_the_breast_is_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = [record for record in mias_records() if record.patient_id != "mias111"]
    assert any(record.patient_id == "mias113" for record in records)
    splits, folds = assign_splits(records), assign_folds(records, 5, seed=0, protocol=SplitProtocol.PATIENT)
    monkeypatch.setattr(assignment, "same_breast", lambda dataset, patient_id: patient_id)
    assert splits == assign_splits(records)
    assert folds == assign_folds(records, 5, seed=0, protocol=SplitProtocol.PATIENT)


def test_a_joined_set_keeps_such_a_breast_together_and_a_table_that_divides_it_is_refused() -> None:
    joined = [
        replace(record, image_id=f"mias-{record.image_id}", patient_id=f"mias-{record.patient_id}")
        for record in mias_records()
    ]
    for seed in range(20):
        split_of = {record.patient_id: record.split for record in assign_splits(joined, SplitConfig(seed=seed))}
        assert split_of["mias-mias111"] is split_of["mias-mias113"]
    stated = [
        replace(record, split=Split.TEST if record.patient_id in ("mias-mias113", "mias-mias001") else Split.TRAIN)
        for record in joined
    ]
    with pytest.raises(LabelError, match="who shows a breast of patient mias-mias111, in the splits test and train"):
        keep_splits(stated, SplitConfig())
