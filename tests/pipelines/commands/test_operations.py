"""The doctor of this machine, the monitor command, JSON for scripts, and shell completion."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from mammopipe.inference.monitoring.windows import Windows
from mammopipe.pipelines import cli
from mammopipe.pipelines.backends import sessions
from mammopipe.pipelines.commands.models import monitor as monitor_command
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.s3 import Storage
from mammopipe.pipelines.doctor import machine
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.processing.errors import ConfigError
from tests.pipelines.scripted import EVALUATION

Capture = pytest.CaptureFixture[str]


def findings(capture: Capture, *arguments: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    code = cli.main(["doctor", "--json", *arguments])
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(capture.readouterr().out):
        found.setdefault(finding["subject"], []).append(finding)
    return code, found


def test_this_machine_is_fit_for_a_run(tmp_path: Path, capsys: Capture) -> None:
    code, found = findings(capsys, "--runs", str(tmp_path / "runs"))
    assert code == 0 and set(found) == {"python", "packages", "cores", "memory", "disk", "runs", "ports", "s3", "data"}
    assert "torch 2" in found["packages"][0]["text"] and "GB free" in found["disk"][0]["text"]


def test_what_blocks_is_said_with_the_next_step(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("MAMMOPIPE_MIAS", str(tmp_path / "nowhere"))
    monkeypatch.setattr(machine, "NEEDED", ("torch", "no-such-package"))
    monkeypatch.setattr(machine, "LEAST_GIGABYTES", 1e9)
    code, found = findings(capsys, "--runs", str(tmp_path))
    assert code == 1
    assert "no-such-package missing; make venv" in found["packages"][0]["text"]
    assert "unset the variable" in found["s3"][0]["text"] and found["s3"][0]["verdict"] == "blocks"
    assert "give --runs DIR" in found["disk"][0]["text"]
    assert "which does not exist" in found["data"][0]["text"]


def test_a_pipe_gets_one_plain_line_a_finding(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["doctor", "--runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 9 and all(line.split()[0] in ("ok", "warning") for line in lines)
    assert "\x1b" not in "".join(lines)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = RunFolder(tmp_path / "runs", "20260101-000000-aaaa")
    folder.write(
        {
            "id": folder.id,
            "status": "Succeeded",
            "reason": "",
            "profile": "quick",
            "dataset": "mias",
            "started": "2026-01-01T00:00:00+00:00",
            "seconds": 80.0,
            "steps": [],
        }
    )
    (folder.path / "evaluation.json").write_text(json.dumps(EVALUATION))
    folder.become_latest()
    return tmp_path / "runs"


def test_json_gives_the_facts_of_the_tables(runs: Path, capsys: Capture) -> None:
    for command in (["runs"], ["status"], ["report"], ["compare", "latest", "latest"]):
        assert cli.main([*command, "--json", "--runs", str(runs)]) == 0
        assert "20260101-000000-aaaa" in json.dumps(json.loads(capsys.readouterr().out))
    assert cli.main(["compare", "latest", "latest", "--json", "--runs", str(runs)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["validation"]["macro_auc"]["value"] == 0.512


def test_tables_of_many_runs_stay_within_100_columns(runs: Path, capsys: Capture) -> None:
    assert cli.main(["compare", *["latest"] * 5, "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert " ".join(lines).count("0.512 (0.400-0.600)") == 5


def test_long_names_are_folded_not_cut(runs: Path, capsys: Capture) -> None:
    name = "efficientnet_lite0_of_another_world"
    folder = RunFolder(runs, "a-run-whose-id-has-as-many-letters-as-an-id-may")
    folder.write(
        {
            "id": folder.id,
            "status": "Succeeded",
            "reason": "",
            "profile": "quick",
            "dataset": "mias",
            "started": "2026-01-01T00:00:00+00:00",
            "seconds": 123_456.0,
            "steps": [],
        }
    )
    (folder.path / "evaluation.json").write_text(
        json.dumps({**EVALUATION, "selected": {**EVALUATION["selected"], "cnn": name}})
    )
    for command in ("runs", "compare"):
        assert cli.main([command, *(["latest", "a-run"] if command == "compare" else []), "--runs", str(runs)]) == 0
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= 100 and "\N{HORIZONTAL ELLIPSIS}" not in said
    assert cli.main(["compare", "latest", "--runs", str(runs)]) == 2
    assert "give two runs or more" in capsys.readouterr().err


def report(index: float | None) -> dict[str, Any]:
    groups = {"all": {"strength": index, "weeks": [{"exams": 7}]}}
    return {"drift_index": index, "exams": 7, "alarms": [], "groups": groups}


@mock_aws
def test_the_metric_reaches_cloudwatch() -> None:
    client = boto3.client("cloudwatch", region_name="us-east-1")
    monitor_command.put_metric(report(None), client)
    assert written(client) == [("Requests", 0), ("Requests", 1)], "no index where nothing was judged"
    monitor_command.put_metric(report(1.7), client)
    assert written(client) == [("DriftIndex", 0), ("DriftIndex", 1), ("Requests", 0), ("Requests", 1)]


def written(client: Any) -> list[tuple[str, int]]:
    found = client.list_metrics(Namespace=monitor_command.NAMESPACE)["Metrics"]
    return sorted({(metric["MetricName"], len(metric["Dimensions"])) for metric in found})


@mock_aws
def test_only_captures_of_the_windows_are_fetched(tmp_path: Path, capsys: Capture) -> None:
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="films")
    below = "capture/mammopipe/AllTraffic"
    for name in ("2026/01/04/23/old.jsonl", "2026/01/05/00/first.jsonl", "2026/01/14/09/last.jsonl", "any.jsonl"):
        client.put_object(Bucket="films", Key=f"{below}/{name}", Body=b"{}\n")
    client.put_object(Bucket="films", Key=f"{below}/2026/01/14/09/other.txt", Body=b"")
    monitor_command.fetch(Storage(client), "s3://films/capture/", tmp_path / "in", Windows(7, 2))
    brought = {path.name for path in (tmp_path / "in").rglob("*") if path.is_file()}
    assert brought == {"first.jsonl", "last.jsonl", "any.jsonl"}, "the Sunday before two calendar weeks stays there"
    assert (tmp_path / "in" / "mammopipe" / "AllTraffic" / "2026/01/05/00/first.jsonl").is_file()
    assert "3 of 4 files" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no \\*.jsonl here"):
        monitor_command.fetch(Storage(client), "s3://films/other/", tmp_path / "none", Windows())


@mock_aws
def test_the_region_is_that_of_the_configuration(
    runs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    asked: list[str] = []

    def storage(config: PipelineConfig) -> Storage:
        asked.append(config.region)
        return Storage(boto3.client("s3", region_name=config.region))

    monkeypatch.setattr(sessions, "caller_storage", storage)
    (runs / "latest" / "model.tar.gz").write_bytes(b"")
    (tmp_path / "run.toml").write_text('region = "eu-west-1"\n')
    words = ["--runs", str(runs), "--captures", "s3://films/x", "--config", str(tmp_path / "run.toml")]
    assert cli.main(["monitor", *words, "--output", str(tmp_path / "out")]) == 2
    assert asked == ["eu-west-1"] and "s3://films/x" in capsys.readouterr().err


def test_the_commands_names_are_those_of_the_job() -> None:
    from mammopipe.inference import monitor

    names = (monitor_command.NAMESPACE, monitor_command.REQUESTS, monitor_command.INDEX)
    assert names == (monitor.NAMESPACE, monitor.REQUESTS, monitor.INDEX)


def test_a_monitor_without_model_or_captures_is_one_line(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    monitor = ["monitor", "--runs", str(runs), "--output", str(tmp_path / "out"), "--captures"]
    assert cli.main([*monitor, str(tmp_path)]) == 2
    assert "has no model.tar.gz" in capsys.readouterr().err
    (runs / "latest" / "model.tar.gz").write_bytes(b"")
    assert cli.main([*monitor, str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main([*monitor, str(tmp_path / "empty")]) == 2
    assert "can be read" in capsys.readouterr().err


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    for word in ("monitor", "captures", "cost", "images", "doctor", "aws"):
        assert word in text
    program = shutil.which(shell)
    if program:
        assert subprocess.run([program, "-n"], input=text, text=True, capture_output=True).stderr == ""


def test_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    asked = (
        "COMP_WORDS=(mammopipe mon); COMP_CWORD=1; _shtab_mammopipe; echo ${COMPREPLY[@]};"
        "COMP_WORDS=(mammopipe run --backend p); COMP_CWORD=3; _shtab_mammopipe; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", script("bash", capsys) + asked], capture_output=True, text=True)
    assert done.stdout.split() == ["monitor", "process"]
