"""The server under stress: full or closed outputs; clients that are slow, gone or half gone; many connections."""

import http.client
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mammopipe.inference.server.capture import UNFINISHED
from tests.inference.conftest import start

PGM = "image/x-portable-graymap"
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
ROOT = Path(__file__).parents[3]


def head(body: bytes, path: str = "/invocations") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {PGM}", f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode()


def connect(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def answer(connection: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def memory(process: int) -> int:
    """Return the anonymous resident memory of a process (RssAnon), in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures") / "kept"


@pytest.fixture(scope="module")
def stressed(
    exported: Path, tmp_path_factory: pytest.TempPathFactory, captures: Path, wait_for: Callable[..., Any]
) -> Iterator[Any]:
    """A server with one worker and low limits."""
    limits = {
        "MAMMOPIPE_WORKERS": "1",
        "MAMMOPIPE_MAX_WAITING": "4",
        "MAMMOPIPE_HEADER_SECONDS": "2",
        "MAMMOPIPE_MAX_CONNECTIONS": "12",
        "MAMMOPIPE_METRICS": "true",
        "MAMMOPIPE_CAPTURE": str(captures),
    }
    server = start(exported, tmp_path_factory.mktemp("logs"), **limits)
    wait_for(lambda: server.ping() == 200)
    yield server
    server.process.kill()
    server.process.wait()


# Outputs that cannot be written


@contextmanager
def unlogged(base: Path, redirection: str, wait_for: Callable[..., Any], **environment: str) -> Iterator[Any]:
    """Start a server with redirected standard output, on a fixed port because its log cannot state one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$0" -m mammopipe.inference.server {redirection}', sys.executable],
        cwd=ROOT,
        env={
            **os.environ,
            "MAMMOPIPE_BASE": str(base),
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "MAMMOPIPE_WORKERS": "1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )

    def request(method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": PGM})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def ready() -> bool:
        try:
            return request("GET", "/ping")[0] == 200
        except ConnectionError:
            return False

    try:
        wait_for(ready)
        yield request
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_a_log_that_cannot_be_written_fails_no_request_and_ping_says_so(
    exported: Path, phantom: Any, wait_for: Callable[..., Any], redirection: str
) -> None:
    with unlogged(exported, redirection, wait_for) as request:
        assert [request("POST", "/invocations", phantom.pgm)[0] for _ in range(2)] == [200, 200]
        assert request("POST", "/invocations", b"no image")[0] == 422
        assert request("GET", "/ping") == (200, {"status": "degraded", "degraded": ["log"]})


def test_a_full_disk_leaves_no_file_of_a_capture_and_no_request_fails(
    stressed: Any, phantom: Any, captures: Path, wait_for: Callable[..., Any]
) -> None:
    server = stressed
    assert server.invoke(phantom.pgm).status == 200
    kept = wait_for(lambda: [path for path in captures.rglob("*") if path.is_file() and path.suffix != UNFINISHED])
    # Large enough for a body in memory and the log, too small for a body in base64.
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
    assert server.invoke(phantom.pgm).status == 200
    wait_for(lambda: json.loads(server.request("GET", "/ping").body)["degraded"] == ["capture"])
    assert [path for path in captures.rglob("*") if path.is_file()] == kept
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
    assert server.invoke(phantom.pgm).status == 200
    line = [line for line in server.lines() if line["event"] == "request"][-1]
    assert line["DroppedCaptures"] == 1
    wait_for(lambda: json.loads(server.request("GET", "/ping").body) == {"status": "ok", "degraded": []})
    assert "Traceback" not in server.stderr.read_text()


# Clients that are slow or gone


def test_a_half_closed_client_gets_its_answer(stressed: Any, phantom: Any) -> None:
    with connect(stressed) as connection:
        connection.sendall(head(phantom.pgm) + phantom.pgm)
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection).status == 200


def test_a_half_closed_client_that_waits_gets_its_answer_too(
    stressed: Any, phantom: Any, wait_for: Callable[..., Any]
) -> None:
    (worker,) = stressed.workers()
    os.kill(worker, signal.SIGSTOP)
    with connect(stressed) as running, connect(stressed) as waiting:
        running.sendall(head(phantom.pgm) + phantom.pgm)
        wait_for(lambda: [stressed.ping() for _ in range(5)] == [200] * 5)
        waiting.sendall(head(phantom.pgm) + phantom.pgm)
        waiting.shutdown(socket.SHUT_WR)
        # The server's probe of a waiting client: every client discards a status 100.
        assert waiting.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        os.kill(worker, signal.SIGCONT)
        assert answer(running).status == 200 and answer(waiting).status == 200


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize(
    ("close", "requests", "noticed"),
    [
        pytest.param(socket.socket.close, 1, 4, id="closed"),
        pytest.param(reset, 1, 4, id="reset"),
        # A connection with a request behind the one at work is not read, which hides its end.
        pytest.param(socket.socket.close, 2, 3, id="closed with a second request sent"),
        pytest.param(reset, 2, 4, id="reset with a second request sent"),
    ],
)
def test_clients_that_have_gone_free_their_places(
    stressed: Any,
    phantom: Any,
    wait_for: Callable[..., Any],
    close: Callable[[socket.socket], None],
    requests: int,
    noticed: int,
) -> None:
    server = stressed
    (worker,) = server.workers()

    def lines(code: str) -> int:
        return sum(line.get("code") == code for line in server.lines())

    before = lines("client_gone")
    os.kill(worker, signal.SIGSTOP)
    gone = [connect(server) for _ in range(4)]
    for connection in gone:
        connection.sendall(requests * (head(phantom.pgm) + phantom.pgm))
    wait_for(lambda: server.invoke(phantom.pgm).status == 503)
    for connection in gone:
        close(connection)

    # The request in the worker has freed its place, too.
    wait_for(lambda: lines("client_gone") >= before + noticed)
    refused = lines("busy")
    os.kill(worker, signal.SIGCONT)
    assert [server.invoke(phantom.pgm).status for _ in range(3)] == [200] * 3
    assert lines("busy") == refused and server.workers() == [worker], "no worker was given up for a client that left"


def test_a_header_has_a_deadline_and_a_silent_connection_is_closed(stressed: Any) -> None:
    with connect(stressed) as kept, connect(stressed) as half, connect(stressed) as silent:
        kept.sendall(PING)
        assert answer(kept).read()
        half.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\n")
        response = answer(half)
        assert (response.status, json.loads(response.read())["error"]["code"]) == (408, "header_timeout")
        assert silent.recv(1) == b""
        kept.sendall(PING)
        assert answer(kept).status == 200, "a connection between two requests has more time"


def test_connections_are_limited_and_half_sent_headers_displace_each_other(stressed: Any) -> None:
    with ExitStack() as stack:
        kept = [stack.enter_context(connect(stressed)) for _ in range(12)]
        for connection in kept:
            connection.sendall(PING)
            assert answer(connection).read()
        assert stressed.ping() == 200, "an idle one has gone for it"
        half = b"GET /ping HTTP/1.1\r\n"
        kept[1].sendall(half)
        for _ in range(11):
            stack.enter_context(connect(stressed)).sendall(half)
        assert [stressed.ping() for _ in range(3)] == [200] * 3
        response = answer(kept[1])
        assert (response.status, response.getheader("retry-after")) == (503, "1")
        assert json.loads(response.read())["error"]["code"] == "busy"


@contextmanager
def burst_of_resets(server: Any, body: bytes, count: int) -> Iterator[None]:
    """Stop the server's process while `count` clients send most of a body and reset: all wait for it at once."""
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        for _ in range(count):
            connection = connect(server)
            connection.sendall(head(body) + body[:-1])
            reset(connection)
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def test_connections_that_are_reset_leave_no_memory(server: Any, phantom: Any, wait_for: Callable[..., Any]) -> None:
    def left_by_a_burst() -> int:
        with burst_of_resets(server, phantom.pgm, 400):
            before = memory(server.process.pid)
        assert server.ping() == 200
        # The heap keeps its peak until the server has been idle for a second.
        assert memory(server.process.pid) - before < 20 * 2**20 < 400 * len(phantom.pgm) / 2
        wait_for(lambda: memory(server.process.pid) - before < 4 * 2**20, 60)
        return memory(server.process.pid)

    first = left_by_a_burst()
    assert left_by_a_burst() - first < 2 * 2**20, "a second burst uses the memory of the first"


def test_ping_is_answered_while_more_connections_than_the_limit_are_reset(stressed: Any, phantom: Any) -> None:
    with burst_of_resets(stressed, phantom.pgm, 200), ExitStack() as stack:
        pings = [stack.enter_context(connect(stressed)) for _ in range(4)]
        for ping in pings:
            ping.sendall(PING)
        os.kill(stressed.process.pid, signal.SIGCONT)
        assert [answer(ping).status for ping in pings] == [200] * 4


# Requests of unusual forms


def test_a_path_with_a_slash_more_is_no_redirect(server: Any, phantom: Any) -> None:
    reply = server.invoke(phantom.pgm, path="/invocations/", Host="elsewhere.example")
    assert (reply.status, reply.code) == (404, "not_found") and "location" not in reply.headers


def test_an_encoded_body_is_refused(server: Any, phantom: Any) -> None:
    reply = server.invoke(phantom.pgm, Content_Encoding="gzip")
    assert (reply.status, reply.code) == (415, "unsupported_encoding")
    assert server.invoke(phantom.pgm, Content_Encoding="identity").status == 200


@pytest.mark.parametrize(
    "value",
    [
        "c000b4f9-df62-4c85-a0bf-7c525f9104a4",
        "Trace ID: 7",
        "trace-id=7",
        "request_id=7",
        "aGVsbG8gd29ybGQ==",
        "dGVzdGE=",
        "Root=1-67891233-abcdef012345678912345678",
    ],
)
def test_an_opaque_attribute_is_echoed_with_every_answer(server: Any, phantom: Any, value: str) -> None:
    for body, status in ((phantom.pgm, 200), (b"no image", 422)):
        reply = server.invoke(body, **{ATTRIBUTES: value})
        assert reply.status == status and reply.headers[ATTRIBUTES.lower()].endswith(value)
    assert not any(value in json.dumps(line) for line in server.lines())


@pytest.mark.parametrize("value", ["laterality", "lateralty=L", "view=CC,trace=7", "patient=7"])
def test_what_looks_like_an_option_is_none_of_the_caller_s_own(server: Any, phantom: Any, value: str) -> None:
    assert server.invoke(phantom.pgm, **{ATTRIBUTES: value}).code == "bad_option"


def test_no_process_of_the_server_leaves_a_core_file(server: Any, wait_for: Callable[..., Any]) -> None:
    (worker, *_) = wait_for(server.workers)
    fork_server = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    for process in (server.process.pid, fork_server, worker):
        assert resource.prlimit(process, resource.RLIMIT_CORE) == (0, 0)
    code = (
        "import ctypes; from mammopipe.inference.workers.process import prevent_core_files; prevent_core_files();"
        "print(ctypes.CDLL(None).prctl(3))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0", "PR_GET_DUMPABLE"
