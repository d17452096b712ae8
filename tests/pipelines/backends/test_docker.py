"""The additions to the SDK's local mode, tested with a replacement of Docker Compose that runs scripts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.backends.expressions import Scope
from mammopipe.pipelines.backends.jobs import JobContext, StepFailed
from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.containers import docker_cli
from mammopipe.pipelines.graph import sdk
from mammopipe.pipelines.graph.definition import build_pipeline
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.processing.errors import ConfigError
from tests.pipelines.conftest import BUCKET

sdk.prepare_sdk("us-east-1")
with sdk.quiet_sdk():
    from sagemaker.core import common_utils
    from sagemaker.core.local import data, image, local_session
    from sagemaker.mlops.local import pipeline, pipeline_entities
    from sagemaker.mlops.workflow.steps import StepTypeEnum

    from mammopipe.pipelines.backends import docker

FAKE = """#!{python}
import json, os, pathlib, subprocess, sys
words = sys.argv[1:]
with pathlib.Path({log!r}).open("a") as log:
    print(json.dumps(words), file=log)
if words[:2] == ["compose", "version"]:
    print("Docker Compose version v2.20.0")
elif words[0] == "compose" and "up" in words:
    import yaml
    content = yaml.safe_load(pathlib.Path(words[words.index("-f") + 1]).read_text())
    (host, service), = content["services"].items()
    mounts = {{item.split(":")[1]: item.split(":")[0] for item in service["volumes"]}}
    for folder in mounts.values():
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, {job!r}, json.dumps(mounts)], capture_output=True, text=True)
    name = service["container_name"]
    print(f'Creating network "sagemaker-local" with the default driver\\nCreating {{name}} ... done')
    for line in (done.stdout + done.stderr).splitlines():
        print(f"\\x1b[36m{{name}} |\\x1b[0m {{line}}")
    print(f"\\x1b[36m{{name}} exited with code {{done.returncode}}\\n\\x1b[0mAborting on container exit...")
    sys.exit(done.returncode)
elif words[:2] == ["image", "ls"]:
    print("" if {missing!r} in words else "0123456789ab")
elif words[0] == "version":
    print("20.10")
"""
"""Answers like the Docker client; `compose up` runs one script with the job's mounts, and prints Compose's messages."""


class Engine:
    """A replacement of the command `docker`, first in the path."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.log, self.job = folder, folder / "asked", folder / "job.py"
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        self.write()

    def write(self, missing: str = "-") -> None:
        text = FAKE.format(python=sys.executable, log=str(self.log), job=str(self.job), missing=missing)
        (self.folder / "docker").write_text(text)
        (self.folder / "docker").chmod(0o755)

    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(tmp_path / "engine", monkeypatch)


Make = Callable[..., docker.LocalMode]


@pytest.fixture
def mode(engine: Engine, services: LocalServices, tmp_path: Path) -> Make:
    def make(**given: Any) -> docker.LocalMode:
        built = build_pipeline(PipelineConfig.load(cnns=["modified_cnn"]))
        parameters = resolve_parameters(json.loads(built.definition()), given)
        scope = Scope(parameters, {"PipelineExecutionId": "20260101-000000-abcd"})
        (tmp_path / "work").mkdir()
        context = JobContext(services.storage, tmp_path / "work", tmp_path / "logs", tmp_path / "checkpoints")
        messages: list[Any] = []
        return docker.LocalMode(
            pipeline=built, scope=scope, context=context, sagemaker=services.sagemaker, serving=tmp_path / "serving",
            environment=services.environment, cores=2, changed=messages.append,
        )  # fmt: skip

    return make


def stage(services: LocalServices, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "Info.txt").write_text("table")
    services.storage.upload(tmp_path / "raw", f"s3://{BUCKET}/mammopipe/raw/mias")


def test_the_sdk_still_has_what_is_private_and_used_here() -> None:
    assert callable(common_utils.download_folder) and callable(image._stream_output)
    assert data.sagemaker.core.common_utils is common_utils
    assert local_session._SageMakerContainer is image._SageMakerContainer
    assert {"_execute_step", "evaluate_step_arguments"} <= vars(pipeline.LocalPipelineExecutor).keys()
    assert "get" in vars(pipeline._StepExecutorFactory)
    assert "_initialize_step_execution" in vars(pipeline_entities._LocalPipelineExecution)
    assert {"pipline_executor", "step"} == pipeline._FailStepExecutor(None, None).__dict__.keys()
    assert {"REGISTER_MODEL", "CREATE_MODEL", "ENDPOINT_CONFIG", "ENDPOINT"} <= set(StepTypeEnum.__members__)


def test_a_job_that_fails_gives_the_reason_that_it_wrote_and_leaves_nothing(
    mode: Make, engine: Engine, services: LocalServices, tmp_path: Path
) -> None:
    stage(services, tmp_path)
    engine.job.write_text(
        "import json, pathlib, sys\n"
        "mounts = json.loads(sys.argv[1])\n"
        "print('first line\\nlast line', flush=True)\n"
        "print(sorted(path.name for path in pathlib.Path(mounts['/opt/ml/processing/input/labels']).iterdir()))\n"
        "(pathlib.Path(mounts['/opt/ml/output']) / 'message').write_text('no film\\nis whole')\n"
        "sys.exit(3)\n"
    )
    local = mode()
    assert local.run() is Status.FAILED
    records = local.step_statuses.records
    assert records["Prepare"].status is Status.FAILED and records["Prepare"].reason == "no film is whole"
    assert {records[name].status for name in ("Augment", "Gate", "Endpoint")} == {Status.NOT_EXECUTED}
    log = (tmp_path / "logs" / "Prepare.log").read_text()
    assert log == "first line\nlast line\n['Info.txt']\n"
    down = [words for words in engine.asked() if "down" in words]
    assert len(down) == 1 and down[0][0] == "compose"


def test_without_a_reason_a_job_is_quoted_by_its_last_words(
    mode: Make, engine: Engine, services: LocalServices, tmp_path: Path
) -> None:
    stage(services, tmp_path)
    engine.job.write_text("import sys\nprint('out of memory')\nsys.exit(137)\n")
    local = mode()
    local.run()
    assert local.step_statuses.records["Prepare"].reason == "exit code 137; its last line: out of memory"


def test_an_input_that_is_not_there_is_named(mode: Make, engine: Engine) -> None:
    local = mode()
    assert local.run() is Status.FAILED
    assert "there is no object under s3://mammopipe/mammopipe/raw/mias" in local.step_statuses.records["Prepare"].reason


def test_an_interrupt_is_not_swallowed_by_the_sdk(
    mode: Make, engine: Engine, services: LocalServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(services, tmp_path)
    engine.job.write_text("print('working')\n")

    def interrupt(stream: Any, log: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(docker, "_copy", interrupt)
    local = mode()
    with pytest.raises(KeyboardInterrupt):
        local.run()
    assert local.step_statuses.records["Prepare"].status is Status.STOPPED
    assert [words for words in engine.asked() if "down" in words]


def test_the_sdk_is_as_it_was_after_a_run(mode: Make, engine: Engine) -> None:
    before = common_utils.download_folder, image._stream_output
    mode().run()
    assert (common_utils.download_folder, image._stream_output) == before


def test_shards_are_refused_before_anything_starts(mode: Make) -> None:
    with pytest.raises(ConfigError, match="SDK local mode knows only FullyReplicated"):
        mode(DataDistribution="ShardedByS3Key")


def test_a_missing_image_is_named_before_anything_starts(mode: Make, engine: Engine) -> None:
    engine.write(missing="mammopipe/training:latest")
    with pytest.raises(ConfigError, match="image mammopipe/training:latest: the Docker engine does not have it; make"):
        mode()


def test_a_server_may_write_nothing_and_answers_on_loopback_alone(tmp_path: Path) -> None:
    words = docker_cli.serve_command("name", "run", "image", tmp_path, 1234, {"A": "b"})
    assert words[-2:] == ["image", "serve"]
    assert words[words.index("--publish") + 1] == "127.0.0.1:1234:8080"
    assert words[words.index("--volume") + 1] == f"{tmp_path}:/opt/ml/model:ro"
    assert {"--rm", "--read-only", "no-new-privileges", "ALL", "A=b"} <= set(words)


def test_the_follower_reads_to_the_end_of_a_fast_jobs_output_and_keeps_its_indents(tmp_path: Path) -> None:
    name = "k3f9-algo-1-ab12c"
    script = f"print('{name}  |   indented', 'x | kept', *range(2000), sep='\\n')"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with (tmp_path / "log").open("wb") as log:
        docker._copy(process.stdout, log)
    process.wait()
    process.stdout.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 2002 and lines[:2] == ["  indented", "x | kept"] and lines[-1] == "1999"


def test_reasons_are_told_without_the_name_of_our_error() -> None:
    assert docker._plain(f"{StepFailed.__name__}: no film") == "no film"
