"""The command line: one line for a user's error, documented exit codes, and no SDK where none is needed."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines import cli
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.runs import launch
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from tests.pipelines.scripted import EVALUATION

ROOT = Path(__file__).resolve().parents[3]
Capture = pytest.CaptureFixture[str]


COMMANDS = sorted(
    next(action.choices for action in cli.build_parser()._actions if isinstance(action, argparse._SubParsersAction))
)


def failed(capture: Capture, *arguments: str) -> str:
    """Run a command that must fail for the user's fault and return its one line."""
    assert cli.main(arguments) == 2
    lines = capture.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    steps = [
        {
            "name": "Prepare",
            "type": "Processing",
            "status": "Succeeded",
            "started": "now",
            "seconds": 75.2,
            "reason": "",
        },
        {
            "name": "Gate",
            "type": "Condition",
            "status": "Failed",
            "started": "now",
            "seconds": 0.1,
            "reason": "too low",
        },
    ]
    for run in ("20260101-000000-aaaa", "20260102-000000-bbbb"):
        folder = RunFolder(tmp_path / "runs", run)
        execution: dict[str, Any] = {
            "id": run,
            "status": "Succeeded",
            "reason": "",
            "profile": "quick",
            "dataset": "mias",
        }
        folder.write({**execution, "started": "2026-01-01", "seconds": 80.0, "steps": steps})
        (folder.path / "evaluation.json").write_text(json.dumps(EVALUATION))
        folder.become_latest()
    return tmp_path / "runs"


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--detach"),
        ("run", "--phantoms", "4", "--source", "all-mias.tar.gz"),
        ("run", "--phantoms", "4", "--backend", "aws"),
        ("experiment", "--phantoms", "4", "mias", "--source", "all-mias.tar.gz"),
        ("deploy", "--no-wait"),
        ("deploy", "--profile", "full"),
        ("runs", "--config", "aws.toml"),
        ("deploy", "--capture", "--rollback"),
        ("doctor", "--runs", "runs", "--aws"),
        ("images", "--certificates", "ca.pem", "push"),
        ("images", "--client", "podman", "tag"),
        ("deploy", "20260101", "--package", "arn:aws:sagemaker:eu-central-1:1:model-package/m/1"),
        ("deploy", "latest", "--rollback"),
        ("cost", "--images", "5", "latest"),
        ("cost", "--profile", "full", "latest"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(words: tuple[str, ...], capsys: Capture) -> None:
    assert failed(capsys, *words).startswith(f"error: {words[1]}: ")


def test_every_command_explains_itself_with_an_example(capsys: Capture) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            cli.main([command, "--help"])
        assert caught.value.code == 0
        assert f"example: mammopipe {command}" in " ".join(capsys.readouterr().out.split())


def test_help_documents_the_exit_codes(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "exit codes: 0 done; 1 a run failed" in capsys.readouterr().out


def test_an_abbreviated_or_unknown_option_is_refused() -> None:
    for option in ("--prof", "--profil"):
        with pytest.raises(SystemExit) as caught:
            cli.main(["run", option, "quick"])
        assert caught.value.code == 2


def test_an_unknown_configuration_key_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "p.toml").write_text("[training]\nepoch = 3\n")
    line = failed(capsys, "compile", "--config", str(tmp_path / "p.toml"), "-o", str(tmp_path / "out.json"))
    assert "unknown key 'training.epoch'; did you mean epochs" in line
    assert not (tmp_path / "out.json").exists()


def test_an_unknown_candidate_is_one_line(capsys: Capture) -> None:
    assert "must be one of modified_cnn, alexnet, resnet50" in failed(capsys, "compile", "--cnns", "alexnet,vgg")


def test_staging_an_empty_folder_is_one_line(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert "no Info.txt here" in failed(capsys, "stage", "mias", str(tmp_path))


def test_staging_to_an_s3_that_nobody_answers_is_one_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    write_mias_tree(tmp_path / "films", films=2)
    line = failed(capsys, "stage", "mias", str(tmp_path / "films"), "--to", "s3://films/raw")
    assert "s3://films/raw/: S3 at http://127.0.0.1:9 cannot be reached" in line


def test_without_docker_its_backend_is_refused_with_what_to_use_instead(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    line = failed(capsys, "run", "--backend", "docker", "--runs", str(tmp_path / "runs"))
    assert "no docker command found; install Docker, or use --backend process" in line


def test_a_parameter_needs_a_value(capsys: Capture) -> None:
    assert "--set Epochs: must be KEY=VALUE" in failed(capsys, "run", "--set", "Epochs")


@pytest.mark.parametrize(("status", "code"), [(Status.SUCCEEDED, 0), (Status.FAILED, 1)])
def test_a_run_says_where_things_are_and_why_it_failed(
    runs: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, status: Status, code: int
) -> None:
    folder = runs / "20260102-000000-bbbb"
    monkeypatch.setattr(launch, "start", lambda *a, **k: Run(folder.name, status, "too low", folder))
    assert cli.main(["run", "--runs", str(runs)]) == code
    said = capsys.readouterr().out
    assert f"{runs / 'latest' / 'evaluation.json'}" in said
    assert ("failed: too low" in said) is (status is Status.FAILED)


def test_a_fault_keeps_its_traceback(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(launch, "start", broken)
    assert cli.main(["run"]) == 3
    assert "RuntimeError: a fault" in capsys.readouterr().err


def test_an_interrupt_has_its_own_code(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "start", interrupted)
    assert cli.main(["run"]) == 130


def test_runs_are_listed_with_their_figures(runs: Path, capsys: Capture) -> None:
    assert cli.main(["runs", "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["20260101-000000-aaaa", "20260102-000000-bbbb"]
    assert "alexnet" in lines[1] and "0.512" in lines[1]


def test_status_shows_the_steps(runs: Path, capsys: Capture) -> None:
    assert cli.main(["status", "--runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert "Prepare" in said and "1 min 15 s" in said and "too low" in said


def test_compare_shows_the_figures_side_by_side(runs: Path, capsys: Capture) -> None:
    assert cli.main(["compare", "20260101", "latest", "--runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert said.count("0.512 (0.400-0.600)") == 2 and "20260102-000000-bbbb" in said


def test_report_names_the_page(runs: Path, capsys: Capture) -> None:
    assert cli.main(["report", "--runs", str(runs)]) == 0
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "report", "delete", "deploy"])
def test_without_a_run_there_is_one_line(tmp_path: Path, capsys: Capture, command: str) -> None:
    assert "no run has finished yet" in failed(capsys, command, "--runs", str(tmp_path))


def test_a_run_without_endpoint_has_none_to_delete_or_ask(runs: Path, capsys: Capture, tmp_path: Path) -> None:
    assert "kept no endpoint" in failed(capsys, "delete", "--runs", str(runs))
    assert "kept no endpoint" in failed(capsys, "invoke", str(tmp_path / "a.pgm"), "--runs", str(runs))
    assert "has no model.tar.gz" in failed(capsys, "deploy", "--runs", str(runs))


def test_asking_an_endpoint_that_is_not_there_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5\n1 1\n255\n\0")
    assert "unreachable" in failed(capsys, "invoke", str(tmp_path / "a.pgm"), "--endpoint", "http://127.0.0.1:9")


@pytest.mark.parametrize("statement", ["import mammopipe.pipelines.cli", "import mammopipe; mammopipe.PipelineConfig"])
def test_commands_that_need_neither_sagemaker_nor_torch_do_not_wait_for_them(statement: str) -> None:
    code = f"{statement}; import sys; print(sorted({{'sagemaker', 'torch', 'moto', 'boto3'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
