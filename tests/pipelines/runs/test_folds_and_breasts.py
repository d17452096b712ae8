"""Whole runs on synthetic exams: folds as jobs of their own, and networks that judge a breast by all its views."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mammopipe.inference.client.client import ExamImage
from mammopipe.pipelines import PipelineConfig
from mammopipe.pipelines.backends import jobs
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.cli import main
from mammopipe.pipelines.notebook.views import client, delete
from mammopipe.pipelines.runs.launch import start
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.phantoms.rsna_tree import write_rsna_tree
from mammopipe.training.model.archive import unpacked
from tests.support import fork_server

# The endpoint that a run keeps outlives the object that started it.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
PATIENTS = 16
TRAINING = {
    "epochs": 1, "head_epochs": 0, "warmup_epochs": 0, "question": "binary", "learning_rate": 0.003,
    "precision": "float32",
}  # fmt: skip
COMMON: dict[str, Any] = {
    "dataset": "rsna",
    "cnns": ("modified_cnn",),
    "data": {"max_height": 256},
    "augmentation": {"copies": 0},
    "segmentation": {"height": 96, "width": 64},
    "evaluation": {"bootstrap": 100, "min_macro_auc": 0.0},
}
FOLDS = PipelineConfig.load(
    **COMMON, training=TRAINING | {"folds": 2}, compute={"cache": "P1D", "fold_jobs": True, "training_jobs": 1}
)
BREASTS = PipelineConfig.load(
    **COMMON, training=TRAINING | {"level": "breast", "other_side": True}, compute={"cache": "P1D"}
)
Start = Callable[..., Run]

FAILS_IN_FOLD_1 = """
import json, os, sys
from pathlib import Path
settings = json.loads(Path(os.environ["MAMMOPIPE_BASE"], "input/config/hyperparameters.json").read_text())
sys.exit("this machine lost its disk") if settings["fold"] == "1" else os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Return a function that runs a configuration on the same synthetic exams; the steps' cache is shared."""
    folder = tmp_path_factory.mktemp("exams")
    write_rsna_tree(folder / "rsna", patients=PATIENTS, height=256)
    silent = SimpleNamespace(changed=lambda records: None)

    def begin(config: PipelineConfig, **options: Any) -> Run:
        given = {"source": str(folder / "rsna"), "runs": folder / "runs", "say": lambda line: None}
        return start(config, show=lambda logs: nullcontext(silent), **given, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in jobs.ENTRYPOINTS:
            patch.setitem(jobs.ENTRYPOINTS, name, jobs.ENTRYPOINTS[name])  # put back at the end
        fork_server.use(fork_server.shared())
        yield begin


@pytest.fixture(scope="module")
def failed(begin: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which the job of one fold fails."""
    script = tmp_path_factory.mktemp("broken") / "train.py"
    script.write_text(FAILS_IN_FOLD_1)
    with pytest.MonkeyPatch.context() as patch:
        python = jobs.ENTRYPOINTS["python"]
        patch.setitem(jobs.ENTRYPOINTS, "train", [*python, str(script), *jobs.ENTRYPOINTS["train"]])
        return begin(FOLDS)


@pytest.fixture(scope="module")
def of_folds(begin: Start, failed: Run) -> Run:
    """The same run once more."""
    return begin(FOLDS)


@pytest.fixture(scope="module")
def of_breasts(begin: Start) -> Iterator[Run]:
    """A run whose networks judge breasts; it keeps its endpoint."""
    run = begin(BREASTS, keep_endpoint=True)
    yield run
    delete(BREASTS, run)


def _log(run: Run, step: str) -> str:
    assert run.folder is not None
    return (run.folder / "logs" / f"{step}.log").read_text()


def test_a_fold_that_failed_is_named_and_alone_is_trained_again(failed: Run, of_folds: Run) -> None:
    steps = {step["name"]: step for step in failed.document("execution.json")["steps"]}
    assert failed.status is Status.FAILED and "Train-modified-cnn-fold-1" in failed.reason
    assert steps["Train-modified-cnn-fold-0"]["status"] == "Succeeded"
    assert steps["Evaluate"]["status"] == "NotExecuted"
    assert of_folds.status is Status.SUCCEEDED, of_folds.reason
    assert _log(of_folds, "Train-modified-cnn-fold-0").startswith("reused:")
    assert "epoch=1" in _log(of_folds, "Train-modified-cnn-fold-1")


def test_the_ensemble_of_the_folds_is_evaluated_out_of_fold_and_served(of_folds: Run) -> None:
    evaluation, table = of_folds.document("evaluation.json"), of_folds.predictions()
    manifest = of_folds.manifest()
    assert evaluation["validation_folds"] == 2 and evaluation["leakage"]["passed"]
    held_out = table[table["split"].isin(["train", "validation"])]
    assert len(held_out) == (manifest["split"] != "test").sum(), "each development image is judged once, out of fold"
    assert of_folds.folder is not None
    with unpacked(of_folds.folder / "model.tar.gz") as (_, described):
        assert described["ensemble"] == 2 and described["calibration"]["fitted_on"] == "out-of-fold"
        digest = described["weights_sha256"]
    answer = of_folds.document("invocation.json")["answer"]
    assert answer["model"]["weights_sha256"] == digest
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    tested = table[table["image_id"] == of_folds.document("invocation.json")["image_id"]]
    assert answer["probabilities"]["malignant"] == pytest.approx(tested["malignant"].item(), abs=0.01)


def test_breasts_are_trained_evaluated_and_exams_answered(of_breasts: Run, tmp_path: Path) -> None:
    assert of_breasts.status is Status.SUCCEEDED, of_breasts.reason
    table, manifest = of_breasts.predictions(), of_breasts.manifest()
    row = table[(table["split"] == "test") & (table["label"] == "malignant")].iloc[0]
    assert "view" not in table and not table.duplicated(["split", "patient_id", "laterality"]).any()
    images = manifest[manifest["patient_id"] == row["patient_id"]]
    assert of_breasts.folder is not None
    source = of_breasts.folder.parents[1] / "rsna" / "train_images" / str(row["patient_id"])
    mammograms = [ExamImage(source / f"{name}.dcm", side, view) for name, side, view in zip(
        images["image_id"], images["laterality"], images["view"], strict=True)]  # fmt: skip
    answer = client(BREASTS, of_breasts).predict_exam(mammograms)
    scores = {breast.laterality: breast.malignancy_score for breast in answer.breasts}
    assert scores[row["laterality"]] == pytest.approx(100 * row["malignant"], abs=0.5)
    assert {breast.rule for breast in answer.breasts} == {"attention"}

    output = tmp_path / "found.csv"
    runs = ["--runs", str(of_breasts.folder.parent)]
    words = ["predict", of_breasts.id, str(source), "-o", str(output), "--exams", "--processes", "1", *runs]
    assert main(words) == 0
    rows = list(csv.DictReader((tmp_path / "found-exams.csv").read_text().splitlines()))
    # The table states the views, the files alone do not: the muscle is looked for in other images.
    assert [float(each["malignancy"]) for each in rows[:2]] == pytest.approx(
        [scores["L"] / 100, scores["R"] / 100], abs=0.03
    )
    assert (
        main(["evaluate", of_breasts.id, str(source.parents[1]), "-o", str(tmp_path), "--bootstrap", "100", *runs]) == 0
    )
    assert json.loads((tmp_path / "external.json").read_text())["counts"]["breasts"] == 2 * PATIENTS
