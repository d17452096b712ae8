"""Leave-one-dataset-out, for real: each of two small sets is judged by a model that was trained on the other."""

import csv
import json
from pathlib import Path

from mammopipe.processing.phantoms.trees import write_phantoms
from tests.pipelines.runs.test_whole_pipeline import mammopipe

SETTINGS = (
    "training.question=binary", "training.epochs=1", "training.head_epochs=0", "training.warmup_epochs=0.5",
    "segmentation.height=64", "segmentation.width=64", "augmentation.copies=0", "data.max_height=256",
    "training.precision=float32", "data.test_fraction=0.25", "data.folds=3", "evaluation.bootstrap=100",
)  # fmt: skip


def test_each_of_two_sets_is_judged_by_a_model_of_the_other(tmp_path: Path) -> None:
    write_phantoms("mias", tmp_path / "mias", 40)
    write_phantoms("rsna", tmp_path / "rsna", 48)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    ended = mammopipe(
        "experiment", "leave-one-out", "mias=mias", "rsna=rsna", "--cnns", "modified_cnn", "--profile", "quick",
        *settings, "--out", "out", folder=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with (tmp_path / "out" / "leave_one_out.csv").open() as stream:
        rows = {row["left_out"]: row for row in csv.DictReader(stream)}
    for name, other in (("mias", "rsna"), ("rsna", "mias")):
        row = rows[name]
        trained = json.loads((tmp_path / "out" / "runs" / row["run"] / "evaluation.json").read_text())
        judged = json.loads((tmp_path / "out" / name / "external.json").read_text())
        assert trained["dataset"] == other and trained["leakage"]["passed"], trained["leakage"]["verdict"]
        assert (row["trained_on"], row["status"]) == (other, "measured")
        assert int(row["images"]) == judged["counts"]["images"] >= 40
        assert row["malignant_auc"] == f"{judged['malignant_auc']['value']:.3f}"
    assert (tmp_path / "out" / "leave_one_out.md").read_text() in ended.stdout
