"""The server when it is full, slow, stopping, or cannot start, and when requests are malformed."""

import os
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mammopipe.processing.files import write_bytes
from tests.support import fork_server


def test_full_server_answers_503_until_there_is_room(narrow_server: Any, phantom: Any) -> None:
    server = narrow_server
    with server.unfinished(phantom.pgm) as finish:
        reply = server.invoke(phantom.pgm)
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "busy", "1")
        assert server.ping() == 200
        assert finish().status == 200
    assert server.invoke(phantom.pgm).status == 200


def test_a_request_over_its_time_is_given_up(narrow_server: Any, phantom: Any) -> None:
    with narrow_server.unfinished(phantom.pgm) as finish:
        refusal = finish(early=True)
        assert (refusal.status, refusal.code) == (504, "time_limit")
    assert narrow_server.invoke(phantom.pgm).status == 200


def test_sigterm_finishes_what_runs_and_refuses_what_comes(
    own_server: Callable[..., Any], phantom: Any, wait_for: Callable[..., Any]
) -> None:
    server = own_server()
    with server.unfinished(phantom.pgm) as finish:
        wait_for(lambda: server.ping() == 200)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.ping() == 503)
        late = server.invoke(phantom.pgm)
        assert (late.status, late.code) == (503, "stopping")
        assert finish().status == 200
    assert server.process.wait(30) == 0
    assert server.lines()[-1]["event"] == "stopped"
    assert server.stderr.read_text() == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_under_load_loses_none(
    own_server: Callable[..., Any], phantom: Any, wait_for: Callable[..., Any], workers: str
) -> None:
    server = own_server(MAMMOPIPE_WORKERS=workers)

    def load(_: int) -> list[int]:
        statuses: list[int] = []
        while 503 not in statuses:
            try:
                statuses.append(server.invoke(phantom.pgm).status)
            except ConnectionRefusedError:  # never taken on
                break
        return statuses

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load, index) for index in range(4)]
        wait_for(lambda: sum(line["event"] == "request" for line in server.lines()) >= 8)
        server.process.send_signal(signal.SIGTERM)
        statuses = Counter(status for client in clients for status in client.result())
    assert server.process.wait(30) == 0
    answered = Counter(line["status"] for line in server.lines() if line["event"] == "request")
    assert set(statuses) <= {200, 503} and statuses == answered and statuses[200] >= 8


def test_not_ready_before_the_model_is_loaded(own_server: Callable[..., Any], phantom: Any) -> None:
    server = own_server(ready=False)
    reply = server.invoke(phantom.pgm)
    assert (server.ping(), reply.status, reply.code) == (503, 503, "starting")
    assert server.stop() == 0


def serve(base: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*fork_server.shared(), "-m", "mammopipe.inference.server"],
        cwd=Path(__file__).parents[3],
        text=True,
        env={**os.environ, "SAGEMAKER_BIND_TO_PORT": "0", "MAMMOPIPE_BASE": str(base), **environment},
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_missing_model_is_one_line_and_exit_1(tmp_path: Path) -> None:
    ended = serve(tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and "model.json" in ended.stderr


@pytest.mark.parametrize(("engine", "name"), [("openvino", "network.bin"), ("torch", "weights.safetensors")])
def test_altered_weights_are_one_line_and_exit_1(exported: Path, tmp_path: Path, engine: str, name: str) -> None:
    shutil.copytree(exported / "model", tmp_path / "model")
    weights = bytearray((tmp_path / "model" / name).read_bytes())
    weights[-1] ^= 1
    write_bytes(tmp_path / "model" / name, bytes(weights))
    ended = serve(tmp_path, MAMMOPIPE_ENGINE=engine)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and "SHA-256" in ended.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "http"),
        ("SAGEMAKER_BIND_TO_PORT", "70000"),
        ("MAMMOPIPE_MAX_SECONDS", "-1"),
        ("MAMMOPIPE_HOST", "256.0.0.1"),
    ],
)
def test_bad_settings_are_one_line_and_exit_1(base: Path, name: str, value: str) -> None:
    ended = serve(base, **{name: value})
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and value in ended.stderr


def test_a_body_whose_framing_breaks_is_answered_once_and_leaves_no_trace_on_standard_error(
    own_server: Callable[..., Any], phantom: Any
) -> None:
    server = own_server()
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/x-portable-graymap\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as broken:
        broken.sendall(head + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n")
        assert broken.makefile("rb").readline() == b"HTTP/1.1 400 Bad Request\r\n"
    assert server.invoke(phantom.pgm).status == 200
    assert "Traceback" not in server.stderr.read_text()


def test_a_batch_transform_gets_an_answer_for_every_body(own_server: Any, phantom: Any) -> None:
    server = own_server(SAGEMAKER_BATCH="true", MAMMOPIPE_ENGINE="torch")
    any_type = "application/octet-stream"
    reply = server.invoke(phantom.pgm, any_type, Accept="application/json")
    assert reply.status == 200 and b"\n" not in reply.body, "one line of the job's output"
    for body, code in (
        (b"a,b\n1,2\n", "unsupported_type"),
        (b"P5 9 9 255 ", "corrupt_image"),
        (b"PK\x03\x04", "bad_zip"),
    ):
        refused = server.invoke(body, any_type)
        assert refused.status == 200 and refused.json["error"]["code"] == code
    assert server.invoke(phantom.pgm, "text/plain").json["error"]["code"] == "unsupported_type"
    assert {line["status"] for line in server.lines() if "status" in line} >= {415, 422}, "the log has the true status"


@pytest.mark.parametrize("first", ["", "?result=report"])
def test_an_option_that_states_its_default_is_not_taken_for_none(server: Any, phantom: Any, first: str) -> None:
    found = {}
    for query in (first, "?result=report", "", "?result=report", ""):
        reply = server.invoke(phantom.pgm, path=f"/invocations{query}")
        found.setdefault(query, set()).add(reply.status)
    assert found == {"": {200}, "?result=report": {400}}
