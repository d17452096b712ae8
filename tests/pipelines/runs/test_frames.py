"""A run's results as pandas tables."""

import json
from pathlib import Path

import pytest

from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, Split, View, write_manifest
from mammopipe.processing.errors import ConfigError

FIGURE = {"value": 0.7, "low": 0.6, "high": 0.8}
EPOCHS = [{"epoch": 1, "train_loss": 1.1, "seconds": 2.0}, {"epoch": 2, "train_loss": 1.0, "seconds": 2.0}]
EVALUATION = {
    "selected": {"cnn": "alexnet", "validation": {"macro_auc": FIGURE}, "test": {"macro_auc": FIGURE}},
    "candidates": {
        "alexnet": {"history": EPOCHS, "validation": {"macro_auc": FIGURE, "images": 4}, "test": {"macro_auc": FIGURE}},
        "resnet50": {"history": EPOCHS[:1], "validation": {"macro_auc": {"value": None}}, "test": {}},
    },
}
RECORDS = [
    ImageRecord("01", "007", "own", Laterality.LEFT, View.MLO, Label.BENIGN, Split.VALIDATION, 0, "images/01.png",
                lesions=(Lesion(1, 2, 3, Label.BENIGN),), quality={"flags": ["low-contrast"]}),
    ImageRecord("02", "008", "own", None, None, Label.NORMAL, Split.TEST, None, "images/02.png"),
]  # fmt: skip


SHARES = (("01", 0.3), ("02", 0.29))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = RunFolder(tmp_path / "runs", "20260101-000000-aaaa")
    folder.write({"id": folder.id, "status": "Succeeded", "reason": "", "seconds": 1.0, "steps": [], "started": "now"})
    (folder.path / "stages").mkdir()
    write_manifest(RECORDS, folder.path / "stages" / "data_segmentation-manifest.csv")
    (folder.path / "evaluation.json").write_text(json.dumps(EVALUATION))
    (folder.path / "predictions.csv").write_text("cnn,image_id,split,label\nalexnet,01,validation,benign\n")
    (folder.path / "report.html").touch()
    folder.become_latest()
    return Run.open("latest", tmp_path / "runs")


def test_the_manifest_has_a_row_an_image_with_split_fold_quality_and_lesions(run: Run) -> None:
    table = run.manifest()
    assert list(table["image_id"]) == ["01", "02"] and list(table["patient_id"]) == ["007", "008"]
    assert table["fold"].isna().tolist() == [False, True] and table["fold"][0] == 0
    assert table["quality"][0] == {"flags": ["low-contrast"]} and table["lesions"][0][0]["radius"] == 3


def test_predictions_say_whose_image_it_is_and_from_where(run: Run) -> None:
    (row,) = run.predictions().to_dict("records")
    assert (row["cnn"], row["patient_id"], row["laterality"], row["view"], row["fold"], row["path"]) == (
        "alexnet", "007", "L", "MLO", 0, "images/01.png",
    )  # fmt: skip


def test_predictions_have_the_decision_of_the_selected_network(run: Run) -> None:
    assert run.folder is not None
    selected = {**EVALUATION["selected"], "operating_points": {"sensitivity": {"threshold": 0.3}}}
    (run.folder / "evaluation.json").write_text(json.dumps({**EVALUATION, "selected": selected}))
    rows = [f"{network},{name},validation,{share}" for network in ("alexnet", "resnet50") for name, share in SHARES]
    (run.folder / "predictions.csv").write_text("\n".join(["network,image_id,split,malignant", *rows]) + "\n")
    found = run.predictions()
    assert found["decision"].tolist()[:2] == ["suspicious", "not_suspicious"] and found["decision"][2:].isna().all()


def test_learning_curves_and_figures_are_tables(run: Run) -> None:
    curves, figures = run.history(), run.metrics()
    assert curves.groupby("network")["epoch"].max().to_dict() == {"alexnet": 2, "resnet50": 1}
    assert figures.to_dict("records") == [
        {"network": "alexnet", "selected": True, "split": split, "measure": "macro_auc", **FIGURE}
        for split in ("validation", "test")
    ]


def test_a_run_knows_its_status_and_report_and_says_what_it_lacks(run: Run, tmp_path: Path) -> None:
    assert run.status == "Succeeded" and run.report.name == "report.html"
    assert run.folder is not None
    for name in ("report.html", "evaluation.json", "predictions.csv", "stages/data_segmentation-manifest.csv"):
        (run.folder / name).unlink()
    for read in (run.manifest, run.predictions, run.history, run.metrics, lambda: run.report):
        with pytest.raises(ConfigError, match="did not finish|ended before that"):
            read()
    with pytest.raises(ConfigError, match="is on AWS"):
        Run("x", run.status).manifest()
