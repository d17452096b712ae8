"""Several datasets joined for training, and each left out once."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.cli import main
from mammopipe.pipelines.data.join import join
from mammopipe.pipelines.experiment import leave_one_out as experiment
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.datasets.manifest import Label, Split, read_manifest
from mammopipe.processing.datasets.own import read_own
from mammopipe.processing.phantoms import collection_trees
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from mammopipe.processing.splits.assignment import SplitConfig, keep_splits


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("mias", "inbreast", "vindr-mammo")}
    write_mias_tree(folders["mias"], films=6)
    collection_trees.write_inbreast_tree(folders["inbreast"], 24, size=(160, 136))
    collection_trees.write_vindr_tree(folders["vindr-mammo"], 24, size=(160, 136))
    return folders


def pairs(sources: dict[str, Path]) -> list[str]:
    return [f"{name}={folder}" for name, folder in sources.items()]


def test_the_dataset_of_each_image_is_recorded_and_no_id_occurs_twice(
    sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    two = {name: sources[name] for name in ("mias", "inbreast")}
    assert main(["join", str(tmp_path / "joined"), *pairs(two)]) == 0
    said = capsys.readouterr().out
    assert "mias         6 images" in said and "inbreast     24 images" in said
    records = read_manifest(tmp_path / "joined" / "manifest.csv")
    assert Counter(record.dataset for record in records) == {"mias": 6, "inbreast": 24}
    assert all(record.patient_id.startswith(f"{record.dataset}-") for record in records)
    assert {record.split for record in records} == {None}
    assert all((tmp_path / "joined" / "images" / record.path).is_file() for record in records)
    assert any(record.lesions for record in records if record.dataset == "inbreast")
    assert len(read_own(tmp_path / "joined").records) == 30  # as `run --dataset own --source` reads it


def test_a_released_test_split_is_kept_and_the_other_datasets_are_divided(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    records = join(sources, tmp_path / "joined", SplitConfig(test_fraction=0.4, folds=2)).records
    released = {record.split for record in records if record.image_id.startswith("vindr-mammo-")}
    assert released == {Split.TEST, Split.TRAIN}
    assert sum(record.split is Split.TEST for record in records if record.dataset == "vindr-mammo") == 4
    assert {record.split for record in records if record.dataset == "inbreast"} == {Split.TEST, Split.TRAIN}
    placed = keep_splits(records, SplitConfig(folds=2))
    assert {record.split for record in placed} == set(Split)
    assert [record.split is Split.TEST for record in placed] == [record.split is Split.TEST for record in records]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "at least 2 datasets"),
        (["mias"], "must be NAME=FOLDER"),
        (["mais=."], "must be NAME=FOLDER, where NAME is one of mias"),
        (["mias=.", "mias=."], "mias is named twice"),
        (["mias=.", "cmmd=nowhere"], "no such folder"),
    ],
)
def test_wrong_sources_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["experiment", "leave-one-out", "--out", str(tmp_path)] if not words else ["join", str(tmp_path / "x")]
    assert main([*command, *words]) == 2
    assert message in capsys.readouterr().err


def test_join_writes_no_folder_that_holds_something(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "kept.txt").touch()
    assert main(["join", str(tmp_path), *pairs(sources)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_each_dataset_is_left_out_once(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    trained: list[Counter[str]] = []

    def run(config: Any, *, source: str, runs: Path, **others: Any) -> Run:
        records = read_manifest(Path(source) / "manifest.csv")
        trained.append(Counter(record.dataset for record in records))
        assert (
            config.dataset == "own"
            and not config.deploy
            and {record.label for record in records} == set(Label) - {Label.NEGATIVE}
        )
        status = Status.FAILED if len(trained) == 3 else Status.SUCCEEDED
        return Run(f"run{len(trained)}", status, "the gate" if len(trained) == 3 else "", runs)

    def evaluate(model: Path, dataset: Any, folder: Path, output: Path, **settings: Any) -> str:
        output.mkdir(parents=True)
        auc = {"value": 0.75, "low": 0.6, "high": 0.9}
        counts = {"images": len(dataset.check(folder).records), "patients": 3, "malignant": 2}
        found = {"counts": counts, "malignant_auc": auc, "calibration": {"expected_over_observed": {"value": None}}}
        (output / "external.json").write_text(json.dumps(found))
        return dataset.name

    monkeypatch.setattr(experiment, "start", run)
    monkeypatch.setattr("mammopipe.pipelines.external_evaluation.run.evaluate_model", evaluate)
    assert main(["experiment", "leave-one-out", *pairs(sources), "--out", str(tmp_path)]) == 1
    assert [set(datasets) for datasets in trained] == [set(sources) - {name} for name in sources]
    rows = list(csv.DictReader((tmp_path / "leave_one_out.csv").read_text().splitlines()))
    assert [(row["left_out"], row["images"], row["malignant_auc"], row["status"]) for row in rows] == [
        ("mias", "6", "0.750", "measured"),
        ("inbreast", "24", "0.750", "measured"),
        ("vindr-mammo", "", "", "the gate"),
    ]
    assert "| mias | inbreast+vindr-mammo |" in capsys.readouterr().out
    assert main(["experiment", "leave-one-out", *pairs({"mias": sources["mias"]}), "--out", str(tmp_path)]) == 2
