"""The notebooks run from the first cell to the last, and are in git without outputs."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mammopipe.inference.client.answers import Answer, Reason, Referral
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.costs import estimate
from mammopipe.pipelines.costs.prices import Prices, Throughput
from mammopipe.pipelines.graph.definition import build_pipeline
from mammopipe.pipelines.notebook import graph_picture, roc_picture
from mammopipe.pipelines.runs.run import Run
from tests.support import fork_server

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOK = ROOT / "pipelines" / "run_pipeline.ipynb"
OWN, SEARCH = (ROOT / "pipelines" / name for name in ("own_images.ipynb", "search.ipynb"))
CURVE = {"malignant": {"false_positive_rate": [0, 0.5, 1], "sensitivity": [0, 0.8, 1]}}


@pytest.mark.parametrize(("path", "cells"), [(NOTEBOOK, 10), (OWN, 8), (SEARCH, 6)])
def test_no_outputs_are_kept(path: Path, cells: int) -> None:
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= cells and all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


def test_only_one_line_says_where_it_runs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert sum("".join(cell["source"]).count("BACKEND = ") for cell in cells) == 1


def test_the_run_serves_the_endpoint_that_the_notebook_asks_on_aws_too() -> None:
    cells = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]
    (config,) = [cell for cell in cells if "config = PipelineConfig.load(" in cell]
    assert "deploy_quick=True" in config and "view.client(config, first)" in "".join(cells)
    assert not PipelineConfig().on_aws().deploy, "a quick run serves nothing on AWS otherwise"


def test_the_graph_shows_every_step_once_in_its_state() -> None:
    definition = json.loads(build_pipeline(PipelineConfig()).definition())
    picture = graph_picture.draw(definition, {"Prepare": Status.SUCCEEDED, "Augment": Status.EXECUTING})
    for name in ("Prepare", "Train-resnet50", "Train-modified-cnn", "Gate", "Endpoint", "Fail"):
        assert picture.count(f">{name}<") == 1
    assert picture.count(">Succeeded<") == 1 and picture.count(">Executing<") == 1 and picture.count("<path") >= 13


def test_curves_of_several_runs_share_one_picture() -> None:
    def evaluation(value: float | None) -> dict[str, Any]:
        figures = {
            "roc": CURVE if value else {"malignant": None},
            "malignant_auc": {"value": value, "low": None, "high": None},
        }
        return {"selected": {"cnn": "alexnet"}, "candidates": {"alexnet": {"test": figures}}}

    picture = roc_picture.draw([("a<b", evaluation(0.7)), ("c", evaluation(0.6)), ("d", evaluation(None))])
    assert picture.count("#1f6fb4") and picture.count("#b5275f"), "two curves"
    assert "a&lt;b" in picture and "AUC 0.700" in picture and "no curve" in picture
    assert ">Malignant against the rest, test split</text>" in picture
    counted = [("a", {**evaluation(0.7), "counts": {"test": {"malignant": 10, "images": 64}}})] * 2
    assert "test split: 10 of 64 images</text>" in roc_picture.draw(counted)


def test_costs_are_a_table_with_their_sum() -> None:
    notebook_view = pytest.importorskip("mammopipe.pipelines.notebook.views", exc_type=ImportError)
    lines = estimate.estimate(PipelineConfig.load(cnns=["alexnet"]), Prices.load(), Throughput.load())
    shown = notebook_view.costs(lines).data
    assert shown.count("<tr>") == len(lines) + 2 and f"{sum(line.usd for line in lines):,.2f}</td>" in shown
    assert all(f">{line.step}</td>" in shown for line in lines)


def test_an_answer_is_shown_beside_its_image(tmp_path: Path) -> None:
    notebook_view = pytest.importorskip("mammopipe.pipelines.notebook.views", exc_type=ImportError)
    image, overlay = tmp_path / "a<b.png", io.BytesIO()
    Image.new("I;16", (40, 80)).save(image)
    Image.new("RGB", (40, 80)).save(overlay, "PNG")
    said = Answer(
        probabilities={"normal": 0.2, "benign": 0.1, "malignant": 0.7},
        malignancy_score=70.0,
        decile=9,
        entropy=0.8,
        decision=None,
        referral=Referral(True, (Reason("uncertain", "undecided"),)),
        warnings=(),
        laterality="R",
        view="MLO",
    )
    shown = notebook_view.answer(image, said, overlay.getvalue()).data
    assert shown.count("<img") == 2 and "a&lt;b.png" in shown and "a<b.png" not in shown
    assert "malignant 0.70, normal 0.20" in shown and "uncertain: undecided" in shown and "Research use only" in shown


def test_a_wide_picture_scrolls_and_says_what_it_shows(tmp_path: Path) -> None:
    notebook_view = pytest.importorskip("mammopipe.pipelines.notebook.views", exc_type=ImportError)
    folder = tmp_path / "r" / "pictures"
    folder.mkdir(parents=True)
    Image.new("RGB", (3000, 10)).save(folder / "data_segmentation-montage.png")
    shown = notebook_view.pictures(Run("r", Status.SUCCEEDED, folder=tmp_path / "r"), width=900).data
    assert "width:1500px" in shown and "overflow:auto" in shown and "outline" in shown


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAMMOPIPE_RUNS", str(tmp_path / "runs"))
    for name in ("MAMMOPIPE_MIAS", "MAMMOPIPE_TABLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return tmp_path / "runs"


def _forked_kernel() -> Any:
    """Return the manager of a kernel that the fork server starts: a new one would import everything once more."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    # A kernel ends when the process of this variable is not its parent.
    command = ["env", "-u", "JPY_PARENT_PID", *fork_server.shared(), "-m", "ipykernel_launcher"]
    manager = AsyncKernelManager()
    manager._kernel_spec = KernelSpec(argv=[*command, "-f", "{connection_file}"], language="python")
    return manager


def executed(path: Path, folder: Path) -> str:
    """Run a notebook's cells and return it, with its outputs, as text."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    forked = f"from tests.support import fork_server\nfork_server.use({fork_server.shared()})"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(forked))
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, km=_forked_kernel(), timeout=1800, resources=where).execute(cleanup_kc=True)
    return json.dumps(notebook)


@pytest.mark.filterwarnings("ignore")
def test_every_cell_runs(runs: Path, tmp_path: Path) -> None:
    said = executed(NOTEBOOK, tmp_path)
    assert "Succeeded" in said and "image/svg+xml" in said and "image/png" in said
    assert len(list(runs.glob("2*/report.html"))) == 2
    assert not list(runs.glob("2*/endpoint.json")), "the endpoint is gone"
    assert len([log for log in runs.glob("2*/logs/Prepare.log") if "reused" in log.read_text()]) == 1


@pytest.mark.filterwarnings("ignore")
def test_own_images_and_a_search_run_as_notebooks(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMMOPIPE_TRIALS", "2")
    said = executed(OWN, tmp_path)
    assert "Succeeded" in said and "A run on this table can start." in said and "probability_malignant" in said
    said = executed(SEARCH, tmp_path)
    trials = sorted((runs / "search" / "runs").glob("2*"))
    assert len(trials) == 2 and all(trial.name in said for trial in trials)
    stages = [(trials[1] / "logs" / f"{name}.log").read_text() for name in ("Prepare", "Augment", "Segment")]
    assert all(text.startswith("reused") for text in stages), "the second trial makes no image again"
    assert "reused" not in (trials[1] / "logs" / "Train-modified-cnn.log").read_text()
    assert (runs / "search" / "trials.csv").read_text().count("\n") == 3 and "data:image/png" in said
