"""The matrix of networks and protocols: through the command line on phantoms, and its tables from invented figures."""

import csv
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines import cli
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.experiment import matrix, tables
from mammopipe.pipelines.experiment.figures import draw
from mammopipe.pipelines.experiment.matrix import Cell, Experiment, run
from mammopipe.processing.datasets.manifest import SplitProtocol
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Cnn
from tests.pipelines.runs.test_whole_pipeline import mammopipe

CONFIG = """
[training]
epochs = 1
head_epochs = 0
warmup_epochs = 0
folds = 2
[data]
folds = 2
test_fraction = 0.3
max_height = 256
[augmentation]
copies = 0
[segmentation]
height = 64
width = 64
[evaluation]
bootstrap = 100
"""


def experiment(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "small.toml").write_text(CONFIG)
    fixed = ("--phantoms", "20", "--cnns", "modified_cnn", "--config", "small.toml", "--out", "out")
    return mammopipe("experiment", "mias", *fixed, *arguments, folder=folder)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cells of the published protocol with two networks, its noise control among them."""
    folder = tmp_path_factory.mktemp("published")
    networks = ("--cnns", "modified_cnn,test_resnet.r160_in1k")
    # The cells of the other protocols are cross-validated.
    ended = experiment(folder, "--protocols", "published", *networks, "--set", "training.folds=0")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("Staged") == 2, "the films, and the noise"
    return folder


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cells of the other two, without controls."""
    folder = tmp_path_factory.mktemp("honest")
    ended = experiment(folder, "--protocols", "patient,film", "--noise", "none")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "out" / "results.csv").open() as stream:
        return list(csv.DictReader(stream))


def evaluation(folder: Path, cell: str) -> dict[str, Any]:
    return dict(json.loads((folder / "out" / "cells" / cell / "evaluation.json").read_text()))


def test_the_published_protocol_is_measured_with_its_noise_control(published: Path) -> None:
    rows = {row["model"]: row for row in read_rows(published) if row["split"] == "test"}
    assert set(rows) == {"modified_cnn", "test_resnet.r160_in1k", "noise (modified_cnn)", "majority", "published"}
    for cnn in ("modified_cnn", "test_resnet.r160_in1k"):
        said = evaluation(published, f"published-{cnn}")
        assert said["protocol"] == "published" and not said["leakage"]["passed"]
        assert float(rows[cnn]["accuracy"]) == said["candidates"][cnn]["test"]["accuracy"]["value"]
    assert rows["published"]["accuracy"] == "0.986" and rows["published"]["accuracy_low"] == ""
    page = (published / "out" / "results.md").read_text()
    assert "Synthetic images" in page and "| published | noise (modified_cnn) |" in page
    assert all((published / "out" / f"{name}.svg").is_file() for name in ("accuracy", "macro_auc", "malignant_auc"))


def test_the_other_protocols_name_themselves(honest: Path) -> None:
    for protocol, passed in (("patient", True), ("film", False)):
        said = evaluation(honest, f"{protocol}-modified_cnn")
        assert said["protocol"] == protocol and said["leakage"]["passed"] is passed
        assert said["validation_folds"] == 2
    execution = json.loads((honest / "out" / "cells" / "film-modified_cnn" / "execution.json").read_text())
    assert "only models of a split by patient are registered" in execution["reason"]
    kept = [path.name for path in (honest / "out" / "runs").glob("[!.]*")]
    assert kept == ["test-reads"], "the register of test reads outlives the runs"


def test_what_was_measured_is_not_run_again_and_other_settings_are_refused(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest / "out", tmp_path / "out")
    (tmp_path / "out" / "results.csv").unlink()
    again = experiment(tmp_path, "--protocols", "patient,film", "--noise", "none")
    assert again.returncode == 0 and again.stdout.count("already measured") == 2 and "Staged" not in again.stdout
    assert read_rows(tmp_path) == read_rows(honest)
    other = experiment(tmp_path, "--protocols", "patient,film", "--noise", "none", "--profile", "full")
    assert other.returncode == 2 and "was measured with other images or settings" in other.stderr


def figures(value: float) -> dict[str, Any]:
    single = {"value": value, "low": value - 0.1, "high": value + 0.1}
    of_class = {"malignant": single, "benign": {"value": 0.0, "low": None, "high": None}}
    names = ("accuracy", "balanced_accuracy", "macro_auc", "malignant_auc")
    scores = {"images": 64, "patients": 32, **dict.fromkeys(names, single)}
    return scores | dict.fromkeys(("precision", "recall", "f1"), of_class)


def made_up(value: float) -> dict[str, Any]:
    splits = {"test": figures(value), "validation": figures(value)}
    return {"candidates": {"resnet50": splits}, "baseline": {"test": figures(0.3), "validation": figures(0.3)}}


def test_rows_stand_by_protocol_each_with_its_majority() -> None:
    cells = [
        (protocol, Cnn.RESNET50, noise, made_up(0.6))
        for protocol in (SplitProtocol.PATIENT, SplitProtocol.FILM)
        for noise in (False, True)
    ]
    rows = [row for row in tables.rows(cells) if row.split == "test"]
    assert [(row.protocol, row.model) for row in rows] == [
        ("patient", "resnet50"),
        ("patient", "noise (resnet50)"),
        ("patient", "majority"),
        ("film", "resnet50"),
        ("film", "noise (resnet50)"),
        ("film", "majority"),
        ("as published", "published"),
    ]
    assert str(rows[0].figures["recall"]) == "0.600 (0.500-0.700)"
    picture = draw(rows[:-1], "accuracy", 3)
    assert picture.count('id="dot-') == 6 and ">published<" in picture


def test_a_cell_that_fails_is_named_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mammopipe.pipelines.backends.step_status import Status
    from mammopipe.pipelines.experiment import matrix as module
    from mammopipe.pipelines.runs.run import Run

    seen = []

    def failing(config: PipelineConfig, **options: Any) -> Run:
        seen.append(config.data.protocol)
        return Run("r", Status.FAILED, "Segment: no breast", tmp_path)

    monkeypatch.setattr(module, "start", failing)
    plan = Experiment(PipelineConfig.load(cnns=["alexnet"]), (SplitProtocol.PATIENT, SplitProtocol.FILM))
    failures = run(plan, tmp_path / "out", lambda line: None)
    assert failures == ["patient-alexnet: Segment: no breast", "film-alexnet: Segment: no breast"]
    assert seen == [SplitProtocol.PATIENT, SplitProtocol.FILM]


def test_the_experiment_refuses_what_it_is_not_made_for() -> None:
    config = PipelineConfig.load(cnns=["alexnet"])
    assert Cell(SplitProtocol.FILM, Cnn.ALEXNET, noise=True).name == "film-noise-alexnet"
    with pytest.raises(ConfigError, match="the experiment runs on mias only"):
        Experiment(PipelineConfig.load(dataset="rsna"))
    with pytest.raises(ConfigError, match="at least one, each once"):
        Experiment(config, (SplitProtocol.FILM, SplitProtocol.FILM))
    plan = Experiment(config)
    other = replace(plan, config=config.replace(data=config.data.replace(seed=1)))
    assert plan.identity(plan.cells()[0]) != other.identity(other.cells()[0])


def test_what_another_network_has_to_itself_leaves_a_cell_what_it_was() -> None:
    config = PipelineConfig.load(cnns=["alexnet", "resnet50"])
    plan, other = Experiment(config), Experiment(config.replace(per_cnn={"alexnet": {"learning_rate": 1e-4}}))
    same = [plan.identity(cell) == other.identity(cell) for cell in plan.cells()]
    assert same == [cell.cnn == Cnn.RESNET50 for cell in plan.cells()]


def test_the_recommended_network_can_be_run_under_the_protocols_with_another_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans: list[Experiment] = []
    monkeypatch.setattr(matrix, "run", lambda plan, out: plans.append(plan) or [])
    words = ["experiment", "mias", "--recipe", "mias-located", "--set", "data.seed=2", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    (plan,) = plans
    assert plan.config.data.seed == 2 and plan.config.training.learns == "head" and plan.config.training.folds == 5
    assert [cell.name for cell in plan.cells()] == [
        f"{protocol}-{noise}efficientnet_lite0"
        for protocol in ("patient", "film", "published")
        for noise in ("", "noise-")
    ]
