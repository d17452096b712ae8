"""Each dataset is one object, from which the pipeline takes everything that it needs to know about the dataset."""

from pathlib import Path

import pytest

from mammopipe.processing.datasets import (
    DATASETS,
    Dataset,
    ImageRecord,
    Label,
    LabelTable,
    Terms,
    read_labels,
    registry,
)
from mammopipe.processing.errors import ConfigError, LabelError
from mammopipe.processing.phantoms.trees import write_phantoms


def read(path: Path) -> LabelTable:
    records, refused = [], []
    for line in path.read_text().splitlines():
        name, _, label = line.partition(" ")
        if label in list(Label):
            records.append(ImageRecord(name, name, "tiny", None, None, Label(label), path=f"{name}.png"))
        else:
            refused.append((name, f"label {label!r} is none"))
    return LabelTable(records, refused)


TINY = Dataset(
    "tiny", Terms("Tiny.", "Free."), "labels.txt", ("labels.txt", "*.png"), read, lambda folder: LabelTable([])
)


@pytest.mark.parametrize("name", ["mias", "rsna"])
def test_labels_are_read_from_the_table_or_its_folder_by_the_name_of_the_dataset(name: str, tmp_path: Path) -> None:
    write_phantoms(name, tmp_path, 8)
    dataset = DATASETS[name]
    records = read_labels(name, tmp_path)
    assert records == read_labels(dataset, tmp_path / dataset.label_table)
    assert {record.dataset for record in records} == {name}
    assert {tmp_path / dataset.image_folder / record.path for record in records} < set(dataset.files(tmp_path))


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_states_its_terms_and_stages_its_own_label_table(name: str) -> None:
    dataset = DATASETS[name]
    assert dataset.name == name
    assert dataset.terms.licence in str(dataset.terms)
    assert dataset.label_table in dataset.patterns


def test_an_unknown_dataset_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dataset = 'mais': must be one of mias, rsna"):
        read_labels("mais", tmp_path)


def test_a_table_with_many_unusable_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.DATASETS, "tiny", TINY)
    rows = [f"i{number} normal" for number in range(99)]
    (tmp_path / "labels.txt").write_text("\n".join([*rows, "last huge"]))
    assert len(read_labels("tiny", tmp_path)) == 99
    (tmp_path / "labels.txt").write_text("\n".join([*rows, "last huge", "more huge"]))
    with pytest.raises(LabelError, match="2 of 101 rows cannot be used, more than 1%; the first is image last: label"):
        read_labels("tiny", tmp_path)


def test_the_folder_of_a_dataset_is_the_uppermost_one_with_its_label_table(tmp_path: Path) -> None:
    for folder in ("a/deep/below", "b/above"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "labels.txt").touch()
    assert TINY.find(tmp_path) == tmp_path / "b/above"
    with pytest.raises(LabelError, match="no labels.txt here; the folder of tiny holds it"):
        TINY.find(tmp_path / "a/deep/below/none")
