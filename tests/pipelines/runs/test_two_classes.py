"""A site's own two-class images, from a table with boxes to an answer, through the command line and local processes."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mammopipe.processing.phantoms.own_tree import TABLE, write_own_tree

from .test_whole_pipeline import mammopipe

CLASSES = ["negative", "malignant"]
CONFIG = """
dataset = "own"
cnns = ["modified_cnn"]
[data]
max_height = 256
[training]
epochs = 1
head_epochs = 0
warmup_epochs = 0
precision = "float32"
sampling = "ratio"
positive_share = 0.3
positive_target = 0.9
auxiliary_laterality = 0.1
[segmentation]
height = 64
width = 64
[evaluation]
bootstrap = 100
"""


@dataclass(frozen=True)
class Done:
    """A run that has ended, and the folder of its images."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "latest"

    def document(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.run / name).read_text()))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("two")
    (folder / "two.toml").write_text(CONFIG)
    write_own_tree(folder / "set", images=42, height=160, width=130, two_classes=True)
    ended = mammopipe("run", "--config", "two.toml", "--source", "set", folder=folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return Done(folder)


def test_evaluation_report_and_card_are_of_two_classes(done: Done) -> None:
    evaluation = done.document("evaluation.json")
    assert evaluation["classes"] == CLASSES and evaluation["labels"] == {"negative": 35, "malignant": 7}
    for split in ("validation", "test"):
        found = evaluation["candidates"]["modified_cnn"][split]
        assert [len(row) for row in found["confusion_matrix"]] == [2, 2]
        assert found["auc"]["negative"]["value"] == pytest.approx(found["auc"]["malignant"]["value"])
        assert found["macro_auc"]["value"] == pytest.approx(found["malignant_auc"]["value"])
        counts = evaluation["counts"][split]
        assert counts["negative"] + counts["malignant"] == counts["images"]
    report = (done.run / "report.html").read_text()
    assert "Two classes: negative, malignant." in report and "Three classes" not in report and "benign <" not in report
    assert "negative, malignant" in (done.run / "model_card.md").read_text()


def test_the_endpoint_answers_with_two_probabilities(done: Done) -> None:
    invocation = done.document("invocation.json")
    assert list(invocation["answer"]["probabilities"]) == CLASSES and invocation["truth"] in CLASSES
    assert sum(invocation["answer"]["probabilities"].values()) == pytest.approx(1)


def test_the_predictions_of_the_run_and_of_predict_have_a_column_for_each_class(done: Done) -> None:
    with (done.run / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {"negative", "malignant"} <= rows[0].keys() and "benign" not in rows[0]
    assert all(float(row["negative"]) + float(row["malignant"]) == pytest.approx(1) for row in rows)

    ended = mammopipe("predict", "latest", "set/images", "-o", "said.csv", folder=done.folder)
    assert ended.returncode == 0, ended.stderr
    with (done.folder / "said.csv").open() as stream:
        said = list(csv.DictReader(stream))
    assert len(said) == 42 and not any(row["error"] for row in said)
    assert all(
        float(row["probability_negative"]) + float(row["probability_malignant"]) == pytest.approx(1) for row in said
    )


def test_the_model_is_evaluated_on_its_kind_of_set_and_on_one_of_three_classes(done: Done) -> None:
    write_own_tree(done.folder / "three", images=12, seed=1, height=160, width=130)
    for name, same in (("set", True), ("three", False)):
        source = f"{name}/{TABLE}"
        ended = mammopipe(
            "evaluate", "latest", source, "-o", f"judged-{name}", "--bootstrap", "100",
            folder=done.folder,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        found = json.loads((done.folder / f"judged-{name}" / "external.json").read_text())
        assert found["classes"] == CLASSES and found["malignant_auc"]["value"] is not None
        assert (found["macro_auc"]["value"] is None) is not same
        assert set(found["auc"]) == (set(CLASSES) if same else {"malignant"})
    assert found["labels"] == {"normal": 8, "benign": 2, "malignant": 2}
