"""A batch transform: the requests to AWS, what breaks AWS's rules, and how the process backend runs the definition."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.pipelines.backends import jobs
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.data import answers
from mammopipe.pipelines.graph import aws_rules
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.processing.errors import ConfigError
from tests.pipelines.compiled import CLOSED, KEY, ROLE, Compiled
from tests.pipelines.conftest import BUCKET, OUT, Runner, Scripts

SOURCE = f"s3://{BUCKET}/batch/today"
SERVER = (
    "import http.server, os\n"
    "seen = []\n"
    "REFUSAL = json.dumps({'error': {'code': 'not_mammogram', 'message': 'x'}}).encode()\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    def log_message(self, *words): pass\n"
    "    def _say(self, status, body):\n"
    "        self.send_response(status)\n"
    "        self.send_header('Content-Length', str(len(body)))\n"
    "        self.end_headers()\n"
    "        self.wfile.write(body)\n"
    "    def do_GET(self):\n"
    "        self._say(200, b'')\n"
    "    def do_POST(self):\n"
    "        body = self.rfile.read(int(self.headers['Content-Length'])).decode()\n"
    "        first = body not in seen\n"
    "        seen.append(body)\n"
    "        answer = {name: os.environ.get(name) for name in ('SAGEMAKER_BATCH', 'MAMMOPIPE_MAX_BYTES')}\n"
    "        answer |= {'type': self.headers['Content-Type'], 'body': body}\n"
    "        answer['model'] = (paths.model / 'model.json').read_text()\n"
    "        if body == 'busy' and first: self._say(503, b'busy')\n"
    "        elif body == 'fault': self._say(500, b'broken')\n"
    "        elif body == 'refused': self._say(200, REFUSAL)\n"
    "        else: self._say(200, json.dumps(answer).encode())\n"
    "address = '127.0.0.1', int(os.environ['SAGEMAKER_BIND_TO_PORT'])\n"
    "http.server.ThreadingHTTPServer(address, Handler).serve_forever()\n"
)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled({"cnns": ["alexnet"], "security": CLOSED, "transform": {"input": f"{SOURCE}/"}})


def test_a_transform_is_compiled_with_the_registered_model_its_walls_and_its_key(compiled: Compiled) -> None:
    requests = compiled.requests()
    job, model = requests["Transform"], requests["Model-batch"]
    assert compiled.steps["Transform"]["Arguments"]["ModelName"] == {"Get": "Steps.Model-batch.ModelName"}
    assert compiled.steps["Model-batch"]["DependsOn"] == ["Register"]
    assert model["ExecutionRoleArn"] == f"{ROLE}serving" and model["EnableNetworkIsolation"] is True
    assert model["VpcConfig"]["Subnets"] == CLOSED["subnets"]
    assert job["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"] == f"{SOURCE}/"
    assert job["TransformOutput"]["KmsKeyId"] == job["TransformResources"]["VolumeKmsKeyId"] == KEY
    assert (job["BatchStrategy"], job["TransformOutput"]["AssembleWith"]) == ("SingleRecord", "Line")
    assert job["Environment"]["MAMMOPIPE_MAX_BYTES"] == str(job["MaxPayloadInMB"] * 2**20)
    assert "CacheConfig" not in compiled.steps["Transform"], "the cache would know the images by their address only"


def test_a_serverless_endpoint_leaves_the_batch_its_walls() -> None:
    config = {"cnns": ["alexnet"], "security": CLOSED, "endpoint": {"mode": "serverless"}}
    requests = Compiled({**config, "transform": {"input": SOURCE}}).requests()
    assert "VpcConfig" in requests["Model-batch"] and "VpcConfig" not in requests["Model"]


def test_without_an_input_nothing_is_transformed() -> None:
    assert "Transform" not in Compiled({"cnns": ["alexnet"]}).steps
    assert "TransformInputUri" not in build_pipeline(PipelineConfig.load(cnns=["alexnet"])).definition()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MaxPayloadInMB": 101}, "at most 100"),
        ({"MaxConcurrentTransforms": 3}, "MaxPayloadInMB=150: at most 100"),
        ({"BatchStrategy": "All"}, "SageMaker does not know this value"),
        ({"ModelClientConfig": {"InvocationsTimeoutInSeconds": 3601}}, "at most 3600"),
        (
            {"TransformResources": {"InstanceType": "ml.m5.huge", "InstanceCount": 1}},
            "SageMaker does not know this value",
        ),
    ],
)
def test_what_aws_would_refuse_of_a_transform_is_refused(
    compiled: Compiled, change: dict[str, Any], message: str
) -> None:
    broken = json.loads(compiled.text)
    steps = broken["Steps"][-1]["Arguments"]["IfSteps"]
    next(step for step in steps if step["Name"] == "Transform")["Arguments"].update(change)
    with pytest.raises(ConfigError, match=f"step Transform: .*{message}"):
        aws_rules.check(broken, resolve_parameters(broken, {}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input": "images/"}, "transform.input='images/': must be an s3:// folder"),
        ({"concurrent": 3}, "transform.max_payload_mb=50: at most 100 MB together"),
        ({"max_payload_mb": 101}, "between 1 and 100"),
        ({"max_seconds": 3601}, "between 1 and 3600"),
    ],
)
def test_settings_of_a_transform_that_aws_would_refuse(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PipelineConfig.load(transform=values)


def put(run: Runner, uri: str, text: str) -> None:
    path = run.folder / "put.txt"
    path.write_text(text)
    run.services.storage.put(path, uri)


def steps(run: Runner) -> list[dict[str, Any]]:
    """Return the model step and the transform step, with a model that is on S3."""
    folder = run.folder / "model"
    folder.mkdir()
    (folder / "model.json").write_text("the model")
    run.services.storage.put(jobs._pack(folder, run.folder / "model.tar.gz"), f"s3://{BUCKET}/model/model.tar.gz")
    container = {"Image": "image", "ModelDataUrl": f"s3://{BUCKET}/model/model.tar.gz", "Environment": {}}
    model = {"PrimaryContainer": container, "ExecutionRoleArn": "arn:aws:iam::000000000000:role/tests"}
    arguments = {
        "ModelName": {"Get": "Steps.Model-batch.ModelName"},
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{SOURCE}/"}},
            "ContentType": "application/octet-stream",
            "SplitType": "None",
        },
        "TransformOutput": {"S3OutputPath": f"{OUT}/predictions", "Accept": "application/json", "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        "BatchStrategy": "SingleRecord",
        "MaxConcurrentTransforms": 2,
        "MaxPayloadInMB": 1,
        "ModelClientConfig": {"InvocationsTimeoutInSeconds": 30, "InvocationsMaxRetries": 3},
        "Environment": {"MAMMOPIPE_MAX_BYTES": "1048576"},
    }
    return [
        {"Name": "Model-batch", "Type": "Model", "Arguments": model},
        {"Name": "Transform", "Type": "Transform", "Arguments": arguments},
    ]


@pytest.fixture
def served(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jobs.ENTRYPOINTS, "serve", [sys.executable, scripts("serve", SERVER)[1]])  # type: ignore[arg-type]
    monkeypatch.setattr("mammopipe.pipelines.local_jobs.transform.PAUSE_SECONDS", 0.01)


def test_every_object_gets_its_line(run: Runner, served: None, tmp_path: Path) -> None:
    for name, text in {"b.png": "two", "a/1.dcm": "one", "busy.pgm": "busy", "no.txt": "refused"}.items():
        put(run, f"{SOURCE}/{name}", text)
    interpreter = run(*steps(run))
    assert run.status is Status.SUCCEEDED, interpreter.step_statuses.records
    written = answers.write(run.services.storage, f"{SOURCE}/", f"{OUT}/predictions", tmp_path / "x.jsonl")
    assert (written.answered, written.refused, written.missing) == (3, 1, 0)
    found = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["input"] for line in found] == ["a/1.dcm", "b.png", "busy.pgm", "no.txt"]
    assert found[0]["answer"] == {
        "SAGEMAKER_BATCH": "true",
        "MAMMOPIPE_MAX_BYTES": "1048576",
        "type": "application/octet-stream",
        "body": "one",
        "model": "the model",
    }
    assert found[3] == {"input": "no.txt", "error": {"code": "not_mammogram", "message": "x"}}


def test_a_job_goes_on_after_an_object_without_an_answer_and_then_fails(
    run: Runner, served: None, tmp_path: Path
) -> None:
    for name, text in {"a.dcm": "fault", "b.dcm": "two", "large.dcm": "x" * (2**20 + 1)}.items():
        put(run, f"{SOURCE}/{name}", text)
    interpreter = run(*steps(run))
    assert run.status is Status.FAILED
    reason = interpreter.step_statuses.records["Transform"].reason
    assert reason == "2 of 3 objects got no answer; the first: a.dcm: the server answered 500: broken"
    written = answers.write(run.services.storage, SOURCE, f"{OUT}/predictions", tmp_path / "x.jsonl")
    assert (written.answered, written.missing) == (1, 2)


def test_an_empty_prefix_fails_the_step(run: Runner, served: None) -> None:
    interpreter = run(*steps(run))
    assert interpreter.step_statuses.records["Transform"].reason == f"there is no object under {SOURCE}/"


def test_answers_are_matched_by_name_and_never_by_order(run: Runner, tmp_path: Path) -> None:
    for name in ("1/view.dcm", "2/view.dcm"):
        put(run, f"{SOURCE}/{name}", name)
        # According to the API reference, SageMaker repeats folders of the input's key.
        put(run, f"{OUT}/p/batch/today/{name}.out", json.dumps({"of": name}) + "\n")
    found = list(answers.lines(run.services.storage, SOURCE, f"{OUT}/p"))
    assert [(line["input"], line["answer"]["of"]) for line in found] == [("1/view.dcm",) * 2, ("2/view.dcm",) * 2]
    put(run, f"{OUT}/p/other.dcm.out", "{}")
    with pytest.raises(ConfigError, match="1 answers belong to no input"):
        list(answers.lines(run.services.storage, SOURCE, f"{OUT}/p"))
