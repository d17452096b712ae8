"""Executions on AWS, by Stubber and an emulated S3: shown live, explained when they fail, read like local runs."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines import cli
from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.commands import runs as run_views
from mammopipe.pipelines.runs import aws_watch, launch
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.pipelines.runs.results import WHOLE
from mammopipe.pipelines.runs.run import Run
from mammopipe.pipelines.runs.tracking import mlflow
from tests.pipelines.aws_account import (
    ARN,
    FAILED,
    ID,
    JOB,
    PREPARED,
    REGION,
    START,
    TRAINING,
    Aws,
    Screen,
)
from tests.pipelines.scripted import EVALUATION


def put_results(services: LocalServices) -> None:
    base = f"mammopipe/executions/{ID}"
    for name, body in (
        ("evaluation/evaluation.json", json.dumps(EVALUATION)),
        ("evaluation/report.html", "<html>"),
        ("evaluation/predictions.csv", "network"),
        ("evaluation/model_card.md", "# Model card"),
        ("evaluation/model_card.json", "{}"),
        ("model/model.tar.gz", "model"),
    ):
        services.storage.client.put_object(Bucket="mammopipe", Key=f"{base}/{name}", Body=body.encode())


def test_a_run_is_shown_live_and_its_results_come(aws: Aws, folder: RunFolder, services: LocalServices) -> None:
    put_results(services)
    aws.shows("Executing", PREPARED, TRAINING)
    aws.shows("Succeeded", PREPARED, {**TRAINING, "StepStatus": "Succeeded", "EndTime": START + timedelta(seconds=200)})
    screen, said, waited = Screen(), [], []
    ended = aws_watch.watch(folder, aws.clients, screen.show, said.append, wait=waited.append)
    assert [seen["Train-alexnet"] for seen in screen.seen] == [Status.EXECUTING, Status.SUCCEEDED]
    assert waited == [aws_watch.POLL_SECONDS] and ended["status"] == Status.SUCCEEDED
    pages = [line for line in said if f"https://{REGION}.console.aws.amazon.com/sagemaker" in line]
    assert len(pages) == 2 and any(f"#/jobs/{JOB}" in page for page in pages)
    assert folder.document("evaluation.json") == EVALUATION
    assert all((folder.path / name).is_file() for name in WHOLE), "every result comes, the cards among them"
    assert (folder.root / "latest").resolve().name == ID
    assert ended["parameters"] == {"Epochs": "3"} and ended["seconds"] == 300


def test_a_failure_is_told_with_its_reason_and_the_end_of_its_log(aws: Aws, folder: RunFolder) -> None:
    aws.shows("Failed", PREPARED, FAILED, reason="Step failure")
    aws.logged("epoch=1 train_loss=nan", "error: epoch 1: the training loss is nan")
    said: list[str] = []
    ended = aws_watch.watch(folder, aws.clients, Screen().show, said.append)
    text = "\n".join(said)
    assert "Train-alexnet failed: ClientError: lower the rate" in text
    assert text.endswith("The end of its log:\n  epoch=1 train_loss=nan\n  error: epoch 1: the training loss is nan")
    assert ended["reason"] == "Train-alexnet: ClientError: lower the rate"


def interrupted(seconds: float) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_asks_and_stops_the_execution_on_yes(aws: Aws, folder: RunFolder) -> None:
    aws.shows("Executing", TRAINING)
    aws.stub.add_response("stop_pipeline_execution", {"PipelineExecutionArn": ARN}, {"PipelineExecutionArn": ARN})
    aws.shows("Stopping", TRAINING)
    asked, said = [], []
    aws_watch.watch(
        folder,
        aws.clients,
        Screen().show,
        said.append,
        wait=interrupted,
        ask=lambda question: asked.append(question) or "y",
    )
    assert asked == [aws_watch.QUESTION] and f"Stopping {ID}" in said[-1]
    aws.stub.assert_no_pending_responses()


def ended_by(error: type[BaseException]) -> Any:
    def ask(question: str) -> str:
        raise error

    return ask


@pytest.mark.parametrize("ask", [lambda question: "", None, ended_by(KeyboardInterrupt), ended_by(EOFError)])
def test_ctrl_c_leaves_the_execution_running_otherwise(aws: Aws, folder: RunFolder, ask: Any) -> None:
    aws.shows("Executing", TRAINING)
    said: list[str] = []
    aws_watch.watch(folder, aws.clients, Screen().show, said.append, wait=interrupted, ask=ask)
    assert f"{ID} continues on AWS" in said[-1]


def test_status_report_compare_and_runs_read_it_like_a_local_run(
    aws: Aws,
    folder: RunFolder,
    services: LocalServices,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_results(services)
    monkeypatch.setattr(run_views, "aws_clients", lambda region: aws.clients)
    runs = ("--runs", str(folder.root))
    aws.shows("Executing", PREPARED, TRAINING)
    assert cli.main(["status", ID[:4], *runs]) == 0
    out = capsys.readouterr().out
    assert "Train-alexnet" in out and "Executing" in out and f"#/jobs/{JOB}" in out
    aws.shows("Succeeded", PREPARED)
    assert cli.main(["runs", *runs, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["backend"], row["status"], row["best"], row["validation_macro_auc"]) == (
        "aws",
        "Succeeded",
        "alexnet",
        0.512,
    )
    assert cli.main(["compare", ID, ID, *runs]) == 0
    assert "0.512 (0.400-0.600)" in capsys.readouterr().out
    assert cli.main(["report", ID, *runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"].endswith("report.html")
    aws.stub.assert_no_pending_responses()


def listed(aws: Aws, arns: list[str], token: str = "") -> None:
    found = {"PipelineExecutionSummaries": [{"PipelineExecutionArn": arn} for arn in arns]}
    aws.stub.add_response(
        "list_pipeline_executions",
        found | ({"NextToken": token} if token else {}),
        {"PipelineName": "mammopipe", "SortBy": "CreationTime", "SortOrder": "Descending"},
    )


def test_executions_of_the_pipeline_are_adopted_with_what_is_known_of_them(
    aws: Aws,
    tmp_path: Path,
    services: LocalServices,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_views, "aws_clients", lambda region: aws.clients)
    listed(aws, [ARN])
    aws.shows("Failed", PREPARED, FAILED)
    command = ["runs", "--aws", "--json", "--runs", str(tmp_path)]
    assert cli.main(command) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["id"], row["status"], row["best"]) == (ID, "Failed", "")
    assert (row["dataset"], row["profile"]) == ("", ""), "another configuration may have started it"
    later = ARN.replace(ID, "efgh")
    listed(aws, [later, ARN])
    aws.shows("Succeeded", PREPARED, arn=later)
    body = json.dumps(EVALUATION | {"dataset": "rsna"}).encode()
    key = "mammopipe/executions/efgh/evaluation/evaluation.json"
    services.storage.client.put_object(Bucket="mammopipe", Key=key, Body=body)
    assert cli.main(command) == 0
    assert [row["dataset"] for row in json.loads(capsys.readouterr().out)] == ["", "rsna"]
    monkeypatch.setattr(run_views, "aws_clients", lambda region: pytest.fail("AWS is asked about a run that ended"))
    assert cli.main(["runs", "--runs", str(tmp_path)]) == 0


def test_only_the_newest_are_adopted_and_that_is_said(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_views, "aws_clients", lambda region: aws.clients)
    listed(aws, [ARN, ARN.replace(ID, "older")], token="more")
    aws.shows("Failed", PREPARED, FAILED)
    assert cli.main(["runs", "--aws", "1", "--json", "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert [row["id"] for row in json.loads(shown.out)] == [ID]
    assert shown.err == "Only the 1 newest executions of pipeline mammopipe; runs --aws N takes more\n"
    assert cli.main(["runs", "--aws", "0", "--runs", str(tmp_path)]) == 2


def test_run_on_aws_follows_the_execution_and_exits_1_when_it_fails(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "start", lambda *a, **k: Run(ID, Status.EXECUTING, arn=ARN))
    monkeypatch.setattr(run_views, "aws_clients", lambda region: aws.clients)
    aws.shows("Failed", PREPARED, FAILED)
    aws.logged("the last line")
    tracked: list[Path] = []
    monkeypatch.setattr(mlflow, "track_if_asked", tracked.append)
    assert cli.main(["run", "--backend", "aws", "--runs", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "Train-alexnet failed: ClientError: lower the rate" in out and "the last line" in out
    assert tracked == [tmp_path / ID]
    assert cli.main(["run", "--backend", "aws", "--detach", "--runs", str(tmp_path)]) == 0
    assert f"mammopipe status {ID} --watch" in capsys.readouterr().out


def test_a_refused_call_is_one_line(
    aws: Aws, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_views, "aws_clients", lambda region: aws.clients)
    aws.stub.add_client_error("describe_pipeline_execution", "AccessDeniedException", "not allowed")
    assert cli.main(["status", ID, "--runs", str(folder.root)]) == 2
    assert capsys.readouterr().err == "error: AWS refused DescribePipelineExecution: not allowed\n"
