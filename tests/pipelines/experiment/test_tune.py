"""A search proposes values from ranges, runs a trial for each, chooses by validation alone, and resumes if stopped."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines import cli
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.experiment import tune
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.errors import ConfigError, LabelError
from mammopipe.processing.phantoms.own_tree import write_own_tree

pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore")
SPACES = ("training.learning_rate=log(1e-5,1e-2)", "training.sampling=choice(balanced,weighted)")


class Runs:
    """Stands where `start` does: a learning rate near 1e-3 is best on validation, and worst on test."""

    def __init__(self, *, fail: bool = False) -> None:
        self.configs: list[PipelineConfig] = []
        self.fail = fail
        self.sources: list[str] = []

    def __call__(self, config: PipelineConfig, *, runs: Path, source: str, **settings: Any) -> Run:
        self.configs.append(config)
        self.sources.append(source)
        run = f"run{len(self.configs)}"
        if self.fail:
            return Run(run, Status.FAILED, "Train: out of memory")
        far = abs(config.training.learning_rate - 1e-3)
        (runs / run).mkdir(parents=True, exist_ok=True)
        figures = {"validation": {"macro_auc": {"value": 0.9 - far}}, "test": {"macro_auc": {"value": far}}}
        (runs / run / "evaluation.json").write_text(json.dumps({"selected": figures}))
        return Run(run, Status.SUCCEEDED, folder=runs / run)


@pytest.fixture(autouse=True)
def small_phantoms(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(dataset: str, folder: Path, images: int) -> None:
        write_own_tree(folder, images=images, height=160, width=130)

    monkeypatch.setattr(tune, "write_phantoms", write)


def search(out: Path, trials: int, spaces: Sequence[str] = SPACES) -> tune.Search:
    found = [space for space in map(tune.space_of, spaces) if space is not None]
    return tune.Search(
        lambda given: PipelineConfig.load(assignments=["dataset=own", "training.epochs=4", *given]),
        found,
        trials,
        out,
        phantoms=36,
    )


def test_a_search_finds_what_validation_says_and_goes_on_where_it_was(tmp_path: Path) -> None:
    runs, said = Runs(), []
    tune.run(search(tmp_path, 3), begin=runs, say=said.append)
    study = tune.run(search(tmp_path, 6), begin=runs, say=said.append)
    assert len(runs.configs) == len(study.trials) == 6
    assert sum(line.startswith("Trial") for line in said) == 6 and "SYNTHETIC" in said[0]
    rates = [config.training.learning_rate for config in runs.configs]
    assert all(1e-5 <= rate <= 1e-2 for rate in rates) and len(set(rates)) == 6
    assert {config.training.epochs for config in runs.configs} == {4} and not runs.configs[0].deploy
    assert {config.compute.cache for config in runs.configs} == {"P30D"}, "equal steps run once"
    assert set(runs.sources) == {str(tmp_path / "phantoms-own-36")}, "made once for all trials"
    best = min(rates, key=lambda rate: abs(rate - 1e-3))
    assert study.best_params["training.learning_rate"] == pytest.approx(best)
    with (tmp_path / "trials.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert float(table[0]["training.learning_rate"]) == pytest.approx(best) and len(table) == 6
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")


def test_a_trial_that_was_interrupted_is_made_up_for(tmp_path: Path) -> None:
    def interrupted(config: PipelineConfig, **settings: Any) -> Run:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune.run(search(tmp_path, 2), begin=interrupted, say=lambda line: None)
    runs = Runs()
    study = tune.run(search(tmp_path, 2), begin=runs, say=lambda line: None)
    assert len(runs.configs) == 2 == len(tune.rows(study))


def test_where_no_trial_succeeds_the_table_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of 2 trials succeeded"):
        tune.run(search(tmp_path, 2), begin=Runs(fail=True), say=lambda line: None)
    assert "Train: out of memory" in (tmp_path / "trials.csv").read_text()


def test_a_source_that_cannot_be_used_is_said_before_the_first_trial(tmp_path: Path) -> None:
    runs = Runs()
    with pytest.raises(ConfigError, match="none: no such file or folder"):
        tune.run(replace(search(tmp_path, 2), source=str(tmp_path / "none")), begin=runs)
    with pytest.raises(LabelError, match="would have no image of class"):
        tune.run(replace(search(tmp_path, 2), phantoms=2), begin=runs)
    assert not runs.configs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--trials 3", "tune: give a range"),
        ("--trials 0 --set training.dropout=uniform(0,0.5)", "--trials 0: must be at least 1"),
        ("--set training.dropuot=uniform(0,0.5)", "did you mean training.dropout"),
        ("--set training.dropout=uniform(0.5,0)", "LOW must be below HIGH"),
        ("--set training.dropout=uniform(0,2)", "dropout = 2: between 0 and 0.95"),
        ("--set training.learning_rate=log(0,1e-2)", "above 0"),
        ("--set training.epochs=int(2,x)", "int takes two numbers"),
        ("--set training.sampling=choice(balanced)", "choice takes at least two words"),
        ("--set training.sampling=choice(balanced,evenly)", "must be one of balanced"),
    ],
)
def test_a_range_that_breaks_a_rule_is_one_line(
    tmp_path: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["tune", "--out", str(tmp_path), *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
