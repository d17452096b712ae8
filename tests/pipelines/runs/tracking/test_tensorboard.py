"""Learning curves as event files: every figure of every epoch, one folder for each network."""

import json
from pathlib import Path

import pytest

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.runs import preflight
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.pipelines.runs.tracking import tensorboard
from mammopipe.processing.errors import ConfigError

pytest.importorskip("tensorboardX")
HISTORY = [
    {"epoch": 1, "train_loss": 1.5, "validation_macro_auc": 0.5, "seconds": 2.0},
    {"epoch": 2, "train_loss": 1.25, "validation_macro_auc": 0.75, "seconds": 3.0},
]


def test_each_network_has_its_figures_by_epoch(tmp_path: Path) -> None:
    from tensorboardX.proto import event_pb2

    run = RunFolder(tmp_path, "20260101-000000-aaaa")
    run.write({"id": run.id, "status": "Succeeded", "started": "2026-01-01T00:00:00+00:00", "steps": []})
    candidates = {"alexnet": {"history": HISTORY}, "resnet50": {"history": HISTORY[:1]}}
    (run.path / "evaluation.json").write_text(json.dumps({"candidates": candidates}))
    tensorboard.write_events(run.path)
    (file,) = (run.path / "tensorboard" / "alexnet").iterdir()
    data, found = file.read_bytes(), []
    while data:  # a record: length, 4 bytes of checksum, the event, 4 bytes of checksum
        size = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + size])
        found += [(value.tag, event.step, value.simple_value, event.wall_time) for value in event.summary.value]
        data = data[16 + size :]
    start = 1767225600.0
    assert ("train_loss", 1, 1.5, start + 2) in found and ("validation_macro_auc", 2, 0.75, start + 5) in found
    assert len(found) == 6 and (run.path / "tensorboard" / "resnet50").is_dir()


def test_a_missing_package_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="pip install 'mammopipe\\[tracking\\]'"):
        preflight.check(PipelineConfig.load(assignments=["keep=tensorboard"]), "", "", {}, tmp_path)
