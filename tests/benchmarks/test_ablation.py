"""Scripts that compare ways of training: each development image is judged once, and no test image is read."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies import ablation, final_network
from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.datasets.manifest import Split
from mammopipe.processing.datasets.mias import LABEL_TABLE, read_labels
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from mammopipe.processing.splits.assignment import assign_splits
from mammopipe.training.config import Learns, TrainConfig
from mammopipe.training.model.architecture import Cnn, Pooling, Precision

CONFIG = TrainConfig(
    cnn=Cnn.MODIFIED_CNN, epochs=1, head_epochs=0, warmup_epochs=0.5, batch_size=8, precision=Precision.FLOAT32
)
SMALL = PreprocessConfig(height=96, width=64, max_height=256)
ROWS = (
    ablation.Row("plain", CONFIG, SMALL),
    ablation.Row("flips", CONFIG, SMALL, flips=True),
    ablation.Row("head", CONFIG.replace(learns=Learns.HEAD, pooling=Pooling.TOP, location_weight=1.0), SMALL),
    ablation.Row("head, flips", CONFIG.replace(learns=Learns.HEAD), SMALL, flips=True),
    ablation.Row("half of the other breast", CONFIG, SMALL, other_breast=0.5),
)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mias")
    write_mias_tree(folder, films=24)
    return folder


def test_every_development_image_is_judged_and_no_test_image_read(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "ROWS", ROWS)
    for record in assign_splits(read_labels(films / LABEL_TABLE)):
        if record.split is Split.TEST:
            (films / record.path).unlink()
    arguments = [str(films), str(tmp_path / "weights"), str(tmp_path / "work"), "--folds", "2", "--threads", "1"]
    ablation.main(arguments)
    table = json.loads((tmp_path / "work" / "ablation.json").read_text())
    assert list(table) == [row.name for row in ROWS]
    for row in table.values():
        for figure in ("macro_auc", "malignant_auc"):
            value, low, high = row[figure]
            assert (low, high) == (None, None) or 0 <= low <= value <= high <= 1
    written = (tmp_path / "work" / "ablation.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in written[2:]] == [f"| {row.name}" for row in ROWS]
    assert len({json.dumps(row) for row in table.values()}) == 5

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "folds").rglob("*.npy")}
    assert len(kept) == 8 and all(np.load(path).shape[1] == 3 for path in kept)
    ablation.main([*arguments, "--rows", "plain"])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert capsys.readouterr().out.splitlines()[-1] == written[2]


def test_final_networks_are_judged_on_images_that_no_part_of_them_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mias_tree(tmp_path / "films", films=60)
    monkeypatch.setattr(final_network, "LOCATED", ROWS[2])
    monkeypatch.setattr(final_network, "FOLDS", 2)
    final_network.main([str(tmp_path / "films"), str(tmp_path / "weights"), str(tmp_path / "work"), "--threads", "1"])
    found = json.loads((tmp_path / "work" / "final_network.json").read_text())
    assert list(found) == [
        f"{way}, {share:g} of the other breast" for way in final_network.WAYS for share in final_network.SHARES
    ]
    for deals in found.values():
        assert len(deals) == 1
        assert all(0 <= value <= 1 for name, value in deals[0].items() if name != "log_loss")
    assert len({json.dumps(deals) for deals in found.values()}) == len(found)
    assert len([line for line in capsys.readouterr().out.splitlines() if "of the other breast" in line]) == len(found)
