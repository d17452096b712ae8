"""The display of a run's steps: a live table on a terminal, one line per event elsewhere."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mammopipe.pipelines.backends.step_status import Status, StepRecord
from mammopipe.pipelines.runs.progress import RunProgress, steps_table

LINE = (
    "epoch={epoch} train_loss=1.0873 validation_loss=1.0512 validation_macro_auc=0.5731 "
    "validation_balanced_accuracy=0.3910 learning_rate=0.00030 seconds=12.3\n"
)


def rendered(*records: StepRecord, logs: Path | None = None) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(steps_table(records, logs))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_every_fold_of_a_cross_validation_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, running = tmp_path / "Train-alexnet.log", StepRecord("Train-alexnet", "Training", Status.EXECUTING)
    folds = [
        f"fold={fold} train_images=8 held_out_images=2\n" + LINE.format(epoch=1) + LINE.format(epoch=2)
        for fold in range(3)
    ]
    log.write_text("".join(folds) + LINE.format(epoch=3)[:-4])
    assert "fold 2 epoch 2, validation AUC 0.5731" in rendered(running, logs=tmp_path)
    with RunProgress(tmp_path, Console(file=io.StringIO())) as progress:
        progress.changed([running])
    printed = [line.split()[1:5] for line in capsys.readouterr().out.splitlines() if "validation AUC" in line]
    assert printed == [["fold", str(fold), "epoch", str(epoch)] for fold in range(3) for epoch in (1, 2)]


def test_a_running_training_shows_its_last_epoch(tmp_path: Path) -> None:
    (tmp_path / "Train-alexnet.log").write_text(LINE.format(epoch=1) + LINE.format(epoch=2))
    shown = rendered(StepRecord("Train-alexnet", "Training", Status.EXECUTING), logs=tmp_path)
    assert "epoch 2, validation AUC 0.5731, 12.3 s an epoch" in shown


def test_a_running_job_shows_the_last_line_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "Prepare.log").write_text("Prepare: 10 of 322 images\rPrepare: 20 of 322 images")
    assert "20 of 322" in rendered(StepRecord("Prepare", "Processing", Status.EXECUTING), logs=tmp_path)


def test_a_failed_step_shows_its_whole_reason() -> None:
    reason = " ".join(["reason"] * 40)
    shown = rendered(StepRecord("Prepare", "Processing", Status.FAILED, seconds=75.0, reason=reason))
    assert shown.count("reason") == 40 and "1 min 15 s" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_without_a_terminal_each_event_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = StepRecord("Train-alexnet", "Training", Status.EXECUTING)
    with RunProgress(tmp_path, Console(file=io.StringIO())) as progress:
        progress.changed([record, StepRecord("Fail", "Fail")])
        (tmp_path / "Train-alexnet.log").write_text(LINE.format(epoch=1))
        record.status, record.seconds = Status.SUCCEEDED, 14.0
        progress.changed([record, StepRecord("Fail", "Fail", Status.NOT_EXECUTED)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["Train-alexnet", "Executing"],
        ["Train-alexnet", "epoch", "1", "validation", "AUC", "0.5731", "12.3", "s"],
        ["Train-alexnet", "Succeeded", "14.0", "s"],
    ]


def test_on_a_terminal_the_table_ends_as_the_run_did(tmp_path: Path) -> None:
    screen = io.StringIO()
    with RunProgress(tmp_path, Console(file=screen, force_terminal=True, width=100)) as progress:
        progress.changed([StepRecord("Prepare", "Processing", Status.SUCCEEDED, seconds=3.0)])
    assert "Prepare" in screen.getvalue() and "3.0 s" in screen.getvalue()
