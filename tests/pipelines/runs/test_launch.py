"""Whole runs of the real graph with scripted jobs: their results, their gate, and what an interruption leaves."""

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines import PipelineConfig
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.runs import launch, sources
from mammopipe.pipelines.runs.folder import AGAIN, WORK, RunFolder, find_run, list_runs
from mammopipe.pipelines.runs.launch import start
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.container.job import NO_DISK
from mammopipe.processing.errors import ConfigError, LabelError, StorageError
from mammopipe.processing.phantoms.trees import write_phantoms
from mammopipe.processing.splits.read_register import entries
from tests.pipelines.scripted import BODIES, CONFIG, EVALUATION, Compiled, compile_scripted

Start = Callable[..., Run]
PHANTOMS = 30


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images that every run here makes anew: they are drawn once."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms("mias", folder, PHANTOMS)
    return folder


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], phantoms: Path) -> Start:
    def copied(dataset: str, folder: Path, images: int) -> None:
        if (dataset, images) == ("mias", PHANTOMS):
            shutil.copytree(phantoms, folder, dirs_exist_ok=True)
        else:
            write_phantoms(dataset, folder, images)

    monkeypatch.setattr(sources, "write_phantoms", copied)

    def begin(changes: dict[str, str] | None = None, **options: Any) -> Run:
        compiled = Compiled(compile_scripted(tmp_path / "scripts", changes))
        monkeypatch.setattr(launch, "build_pipeline", lambda config: compiled)
        options = {"phantoms": PHANTOMS, "runs": tmp_path / "runs", "say": said.append} | options
        return start(PipelineConfig.load(**CONFIG), **options)

    return begin


def step(run: Run, name: str) -> dict[str, Any]:
    return next(item for item in run.document("execution.json")["steps"] if item["name"] == name)


def test_a_run_leaves_its_results_and_becomes_the_latest(begin: Start, tmp_path: Path, said: list[str]) -> None:
    run = begin()
    assert run.status is Status.SUCCEEDED and run.folder is not None
    left = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    assert left >= {
        "execution.json", "pipeline.json", "evaluation.json", "report.html", "model.tar.gz",
        "pictures/prepared-montage.png", "stages/data_segmentation-stage.json", "logs/Prepare.log",
    }  # fmt: skip
    assert (tmp_path / "runs" / "latest").resolve() == run.folder.resolve()
    execution = run.document("execution.json")
    assert execution["status"] == "Succeeded" and execution["parameters"]["InputDataUri"].endswith("/raw/mias-phantoms")
    assert all(item["seconds"] is not None for item in execution["steps"] if item["status"] == "Succeeded")
    assert step(run, "Register")["status"] == "Succeeded" and step(run, "Fail")["status"] == "NotExecuted"
    assert said[0].startswith("SYNTHETIC IMAGES")
    assert list((tmp_path / "runs" / ".work").iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_a_notebook_is_tracked_as_one_of_the_command_line_is(
    begin: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = begin()
    client = mlflow.MlflowClient(tracking_uri=uri)
    (tracked,) = client.search_runs([client.get_experiment_by_name("mammopipe").experiment_id])
    assert (tracked.data.tags["mammopipe.execution"], tracked.info.status) == (run.id, "FINISHED")
    assert run.untracked == "" and tracked.data.metrics["validation/macro_auc"] == 0.512


def test_a_store_that_cannot_be_used_does_not_undo_the_run(
    begin: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    run = begin()
    assert run.status is Status.SUCCEEDED and run.untracked.startswith("MLFLOW_TRACKING_URI=nonsense://store")
    assert "tried again at the end" in capsys.readouterr().err


def test_the_gate_closes_on_a_figure_below_the_limit(begin: Start, tmp_path: Path) -> None:
    run = begin(parameters={"MinMacroAuc": "0.6"})
    assert run.status is Status.FAILED
    assert run.reason == (
        "Nothing was registered: the best candidate, alexnet, has a validation macro AUC of 0.5120 where "
        "MinMacroAuc is 0.6; protocol: patient, all images of one in one split; "
        "leakage audit: nothing crosses from one split into another"
    )
    assert step(run, "Register")["status"] == "NotExecuted"
    assert "MinMacroAuc=0.6" in step(run, "Fail")["reason"], "what AWS would say"
    assert find_run(tmp_path / "runs").id == run.id, "a refusal is a verdict"


READING = BODIES["Evaluate"] + (
    "from mammopipe.processing.splits import read_register\n"
    "name, values = read_register.NAME, {values!r}\n"
    "print('seen before:', len(read_register.entries(paths.processing_input(name))))\n"
    "read_register.append(paths.processing_output(name), read_register.Read(**values))\n"
)
READ = {
    "date": "2026-01-02T03:04:05Z", "test_digest": "t", "images": 8, "synthetic": True, "protocol": "patient",
    "network": "alexnet", "model": "m", "code": "c", "macro_auc": 0.5, "malignant_auc": None,
}  # fmt: skip


def test_the_register_of_test_reads_outlives_the_runs_and_a_closed_gate(begin: Start, tmp_path: Path) -> None:
    reading = {"Evaluate": READING.replace("{values!r}", repr(READ))}
    seen = []
    for closed in (False, True, False):
        run = begin(reading, parameters={"MinMacroAuc": "0.6" if closed else "0", "Seed": len(seen)})
        assert run.status is (Status.FAILED if closed else Status.SUCCEEDED) and run.folder is not None
        seen.append((run.folder / "logs" / "Evaluate.log").read_text().partition("seen before: ")[2].strip())
        assert not list((run.folder / "stages").glob("test-reads*"))
    assert seen == ["0", "1", "2"]
    register = tmp_path / "runs" / "test-reads" / "mias"
    assert len(entries(register)) == 3
    (register / "20260102T030405Z-ab.json").write_text('{"date": "2026')
    with pytest.raises(ConfigError, match="20260102T030405Z-ab.json: no entry of the register of test reads"):
        begin(reading)


def test_the_gate_closes_on_a_failed_audit_whatever_the_figure(begin: Start) -> None:
    leaking = {**EVALUATION, "leakage": {"passed": False, "verdict": "patient 7 is in two splits"}}
    write = (
        "write(paths.processing_output('model'), 'model.tar.gz')\n"
        f"text = {json.dumps(leaking)!r}\n"
        "(paths.processing_output('evaluation') / 'evaluation.json').write_text(text)\n"
        "(paths.processing_output('evaluation') / 'registration.json').write_text('{}')\n"
    )
    run = begin({"Evaluate": write}, parameters={"MinMacroAuc": 0.0})
    assert run.status is Status.FAILED and run.reason.endswith("leakage audit: patient 7 is in two splits")
    assert step(run, "Register")["status"] == "NotExecuted"


def test_the_gate_closes_on_any_protocol_but_patient_whatever_the_figure(begin: Start) -> None:
    leaky = {**EVALUATION, "protocol": "published", "protocol_verdict": "published, leaky by construction"}
    write = (
        "write(paths.processing_output('model'), 'model.tar.gz')\n"
        f"text = {json.dumps(leaky)!r}\n"
        "(paths.processing_output('evaluation') / 'evaluation.json').write_text(text)\n"
        "(paths.processing_output('evaluation') / 'registration.json').write_text('{}')\n"
    )
    run = begin({"Evaluate": write}, parameters={"MinMacroAuc": 0.0})
    assert run.status is Status.FAILED and "protocol: published, leaky by construction; leakage audit" in run.reason
    assert step(run, "Register")["status"] == "NotExecuted"


def test_a_run_that_breaks_off_leaves_latest_alone(begin: Start, tmp_path: Path) -> None:
    first = begin()
    broken = begin({"Segment": "(paths.output / 'message').write_text('no breast'); sys.exit(1)\n"})
    assert broken.status is Status.FAILED and broken.reason == "Segment: no breast"
    assert find_run(tmp_path / "runs").id == first.id
    assert [run.id for run in list_runs(tmp_path / "runs")] == [first.id, broken.id]
    assert find_run(tmp_path / "runs", broken.id).execution()["reason"] == broken.reason


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"parameters": {"Epoch": "3"}}, ConfigError, "unknown pipeline parameter Epoch; did you mean Epochs"),
        ({"parameters": {"Epochs": "1"}}, ConfigError, "head_epochs=1 must be below epochs=1"),
        ({"parameters": {"TrainingInstanceCount": 2}}, ConfigError, "InstanceCount=2 cannot be run"),
        ({"source": "s3://films/raw"}, ConfigError, "set AWS_ENDPOINT_URL_S3"),
        ({"source": "/no/such/folder"}, ConfigError, "no such file or folder"),
        ({"phantoms": 3}, ConfigError, "films=3"),
        ({"backend": "docker", "parameters": {"DataDistribution": "ShardedByS3Key"}}, ConfigError, "FullyReplicated"),
        ({"backend": "cloud"}, ConfigError, "must be one of process, docker, aws"),
    ],
)
def test_what_can_be_mended_before_a_run_leaves_nothing(
    begin: Start, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        begin(**arguments)
    assert not list((tmp_path / "runs").glob("[!.]*"))


def test_an_empty_folder_is_no_dataset(begin: Start, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabelError, match="no Info.txt here"):
        begin(source=str(tmp_path / "empty"))
    assert not list((tmp_path / "runs").glob("[!.]*"))


def test_an_s3_that_nobody_answers_is_named(begin: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="S3 at http://127.0.0.1:9 cannot be reached"):
        begin()
    assert not list((tmp_path / "runs").glob("[!.]*"))


def test_a_killed_run_leaves_no_process_and_the_next_goes_on_from_its_checkpoint(tmp_path: Path, begin: Start) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    train = (
        "file = paths.checkpoints / 'epoch'\n"
        "resumed = file.exists()\n"
        "write(paths.checkpoints, 'epoch')\n"
        f"hold = None if resumed else open({str(pipe)!r}, 'w')\n"
        "if not resumed:\n    hold.write('x'); hold.flush(); signal.pause()\n"
        "print('resumed'); write(paths.model, 'model.json')\n"
    )
    driver = (
        "import sys\nfrom pathlib import Path\nfrom mammopipe.pipelines import PipelineConfig\n"
        "from mammopipe.pipelines.runs import launch\n"
        "from tests.pipelines.scripted import CONFIG, Compiled\n"
        "compiled = Compiled(Path(sys.argv[1]).read_text())\n"
        "launch.build_pipeline = lambda config: compiled\n"
        "launch.start(PipelineConfig.load(**CONFIG), phantoms=30, runs=sys.argv[2])\n"
    )
    changes = {"Train-alexnet": train}
    (tmp_path / "compiled.json").write_text(compile_scripted(tmp_path / "scripts", changes))
    root = str(Path(__file__).resolve().parents[3])
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    process = subprocess.Popen(
        [sys.executable, "-c", driver, str(tmp_path / "compiled.json"), str(tmp_path / "runs")],
        cwd=root, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert select.select([reader], [], [], 120)[0] and os.read(reader, 1) == b"x"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert select.select([reader], [], [], 30)[0] and os.read(reader, 1) == b"", "the training job is gone"
    os.close(reader)

    (killed,) = list_runs(tmp_path / "runs")
    assert (
        killed.execution()["status"] == "Stopped" and killed.execution()["reason"] == f"its process was killed; {AGAIN}"
    )
    assert not (tmp_path / "runs" / "latest").exists()
    again = begin(changes)
    assert again.status is Status.SUCCEEDED and again.folder is not None
    assert (again.folder / "logs" / "Train-alexnet.log").read_text() == "resumed\n"
    assert not list((tmp_path / "runs" / ".work").iterdir()), "what the killed run left is cleared away"


def test_interrupting_a_run_stops_it_and_says_so(begin: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient:
        def __enter__(self) -> "Impatient":
            return self

        def __exit__(self, *error: object) -> None:
            return None

        def changed(self, records: Any) -> None:
            if any(record.status is Status.EXECUTING for record in records):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin(show=lambda logs: Impatient())
    (run,) = list_runs(tmp_path / "runs")
    assert run.execution()["status"] == "Stopped"
    assert not (tmp_path / "runs" / "latest").exists()


def test_a_disk_that_is_full_during_a_run_is_named_once_there_is_room_for_it(
    begin: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`execution.json` cannot be written while the work of the run fills the disk."""
    written = RunFolder.write

    def write(folder: RunFolder, execution: Mapping[str, Any]) -> None:
        if any(item["status"] == "Succeeded" for item in execution["steps"]) and list((folder.root / WORK).iterdir()):
            raise OSError(errno.ENOSPC, "No space left on device", "execution.json")
        written(folder, execution)

    monkeypatch.setattr(RunFolder, "write", write)
    with pytest.raises(OSError, match="No space left"):
        begin()
    (run,) = list_runs(tmp_path / "runs")
    found = run.execution()
    assert (found["status"], found["reason"]) == ("Stopped", "No space left on device")
    assert [item["status"] for item in found["steps"][:2]] == ["Succeeded", "NotExecuted"]


def test_a_job_on_a_full_disk_fails_by_its_exit_code_alone(begin: Start) -> None:
    run = begin({"Augment": f"sys.exit({NO_DISK})\n"})
    assert run.status is Status.FAILED
    assert run.reason == (
        "Augment: No space left on device, or the disk is read-only: the job could not write its reason"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tuning": {"ranges": {"dropout": "uniform(0,0.5)"}}}, "tuning.ranges: .* no step for a search"),
        ({"transform": {"input": "s3://films/batch"}}, "transform.input: .* no step for a batch transform"),
    ],
)
def test_what_local_mode_cannot_run_is_refused_before_anything_starts(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"{message}.*--backend process"):
        start(PipelineConfig.load(cnns=["alexnet"], **values), backend="docker", runs=tmp_path / "runs")
    assert not list((tmp_path / "runs").iterdir())
