import json
import sys
from pathlib import Path

import boto3
import pytest

from mammopipe.pipelines.backends import local_endpoint
from mammopipe.pipelines.backends.jobs import StepFailed
from mammopipe.pipelines.backends.processes import RunningProcesses
from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.processing.errors import ConfigError
from tests.pipelines.conftest import BUCKET


def test_a_server_that_ends_at_once_gives_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "endpoint").mkdir()
    with pytest.raises(StepFailed, match=r"exit code 1; its last line: error: .*model\.json: is missing"):
        local_endpoint.serve(
            "films", tmp_path / "endpoint", tmp_path / "log", RunningProcesses(), threads=1, environment={}
        )


def test_nobody_answers_at_a_closed_port() -> None:
    assert not local_endpoint.is_healthy("http://127.0.0.1:9")


def test_a_run_that_keeps_no_endpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kept no endpoint"):
        local_endpoint.read_kept(tmp_path)


def test_an_endpoint_whose_server_is_gone_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / local_endpoint.FILE).write_text(
        json.dumps({"name": "films", "url": "http://127.0.0.1:9", "pid": 2**22 - 1})
    )
    assert local_endpoint.delete_kept(tmp_path) is False
    assert not (tmp_path / local_endpoint.FILE).exists()


CONTAINER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
http.server.HTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""
PLACES = {"S3OutputPath": f"s3://{BUCKET}/async/films/output", "S3FailurePath": f"s3://{BUCKET}/async/films/failures"}


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> local_endpoint.LocalEndpoint:
    monkeypatch.setitem(local_endpoint.ENTRYPOINTS, "serve", [sys.executable, "-c", CONTAINER])
    return local_endpoint.serve("films", tmp_path, tmp_path / "log", RunningProcesses(), threads=1, environment={})


def test_the_async_api_runs_before_a_server_and_is_kept_and_deleted_with_it(
    endpoint: local_endpoint.LocalEndpoint, tmp_path: Path, services: LocalServices
) -> None:
    config = {"OutputConfig": PLACES, "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2}}
    both = local_endpoint.add_async(
        endpoint, config, tmp_path, tmp_path / "front.log", RunningProcesses(), services.environment
    )
    assert both.asynchronous and both.url != endpoint.url and both.uploads == f"s3://{BUCKET}/async/films/input"
    services.storage.client.put_object(Bucket=BUCKET, Key="film", Body=b"a film")
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=both.url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    reply = runtime.invoke_endpoint_async(EndpointName="films", InputLocation=f"s3://{BUCKET}/film")
    waiter = services.storage.client.get_waiter("object_exists")
    key = reply["OutputLocation"].removeprefix(f"s3://{BUCKET}/")
    waiter.wait(Bucket=BUCKET, Key=key, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    assert services.storage.read(reply["OutputLocation"]) == b"a film"

    both.keep(tmp_path)
    kept = local_endpoint.read_kept_async(tmp_path)
    assert kept is not None and kept == local_endpoint.read_kept(tmp_path)
    assert (kept["url"], kept["uploads"]) == (both.url, both.uploads)
    assert local_endpoint.delete_kept(tmp_path) is True
    both.stop()  # here, the processes are children of this one, so it must wait for them
    assert not local_endpoint.is_healthy(both.url) and not local_endpoint.is_healthy(endpoint.url)
    assert local_endpoint.read_kept_async(tmp_path) is None


def test_a_server_whose_async_api_does_not_start_is_stopped(
    endpoint: local_endpoint.LocalEndpoint, tmp_path: Path
) -> None:
    with pytest.raises(StepFailed, match=r"exit code 1; its last line: .*films"):
        local_endpoint.add_async(
            endpoint,
            {"OutputConfig": {"S3OutputPath": "films"}},
            tmp_path,
            tmp_path / "front.log",
            RunningProcesses(),
            {},
        )
    assert not local_endpoint.is_healthy(endpoint.url)
