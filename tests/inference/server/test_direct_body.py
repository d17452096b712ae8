"""Bodies that bypass the HTTP parser arrive complete, and the connection then serves the next request."""

import asyncio
import hashlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from mammopipe.inference.server.connections import connection_class
from mammopipe.inference.server.direct_body import PASS_BODY, RECEIVED_AT_ONCE

BODY = bytes(range(251)) * 12_000
"""Several pieces of `RECEIVED_AT_ONCE`, with another remainder."""


class Application:
    """Answers with the size and digest of the body, and how many bytes of it the parser did not see."""

    def __init__(self) -> None:
        self.begun, self.given_up = threading.Event(), threading.Event()
        self.disconnects = 0
        self.seconds = 60.0
        self.room = 2 * len(BODY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, passed = bytearray(), bytearray()

        def write(piece: memoryview) -> None:
            self.begun.set()
            if len(body) >= self.room:
                raise OSError("no space")
            passed.extend(piece)
            body.extend(piece)

        request, status = Request(scope, receive), 200
        try:
            async with asyncio.timeout(self.seconds):
                await scope["state"][PASS_BODY](write)
            async for chunk in request.stream():
                body.extend(chunk)
        except ClientDisconnect:
            self.disconnects += 1
            return
        except (TimeoutError, OSError):
            status = 500
            self.given_up.set()
            async for _ in request.stream():
                pass
        answer = json.dumps([len(body), hashlib.sha256(body).hexdigest(), len(passed)]).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@contextmanager
def served(application: Application) -> Iterator[int]:
    """Serve the application; yields the port."""
    limited = connection_class(most=8, header_seconds=60, log=lambda event, **facts: None)
    config = uvicorn.Config(application, http=limited, log_config=None, lifespan="off", ws="none")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.force_exit = server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served(Application()) as number:
        yield number


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def header(length: int, *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join((f"POST /x HTTP/{version}", "Host: x", f"Content-Length: {length}", *lines, "", "")).encode()


def answer(connection: socket.socket) -> tuple[int, list[Any]]:
    """Return the next answer, and read nothing behind it."""
    with connection.makefile("rb", buffering=0) as file:
        status = int(file.readline().split()[1])
        headers = http.client.parse_headers(file)
        content = b""
        while len(content) < int(headers["content-length"]):
            content += file.read(int(headers["content-length"]) - len(content))
    return status, json.loads(content)


def facts(body: bytes) -> list[Any]:
    return [len(body), hashlib.sha256(body).hexdigest()]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, RECEIVED_AT_ONCE, RECEIVED_AT_ONCE + 1, len(BODY)])
@pytest.mark.parametrize("together", [True, False])
def test_bodies_of_any_size_arrive_whole_one_after_the_other(port: int, size: int, together: bool) -> None:
    with connect(port) as connection:
        for body in (BODY[:size], b"", BODY[-size:] if size else b"", b"x"):
            if together:
                connection.sendall(header(len(body)) + body)
            else:
                connection.sendall(header(len(body)))
                connection.sendall(body)
            status, found = answer(connection)
            assert (status, found[:2]) == (200, facts(body))


def test_a_large_body_passes_the_parser(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(header(len(BODY)))
        connection.sendall(BODY)
        assert answer(connection)[1][2] > len(BODY) // 2


@pytest.mark.parametrize("cut", [1, 7, len(BODY) - 1, len(BODY)])
def test_a_body_in_pieces_and_the_next_request_behind_it(port: int, cut: int) -> None:
    with connect(port) as connection:
        connection.sendall(header(len(BODY)) + BODY[:cut])
        connection.sendall(BODY[cut:] + header(3) + b"end" + header(2) + b"no")
        assert [answer(connection)[1][:2] for _ in range(3)] == [facts(BODY), facts(b"end"), facts(b"no")]


@pytest.mark.parametrize(("version", "line"), [("1.1", "Connection: close"), ("1.0", "X-None: x")])
def test_a_connection_that_ends_with_its_answer_does(port: int, version: str, line: str) -> None:
    with connect(port) as connection:
        connection.sendall(header(len(BODY), line, version=version) + BODY)
        assert answer(connection)[1][:2] == facts(BODY)
        assert connection.recv(1) == b""


def test_chunks_and_a_client_that_waits_for_100_are_served_by_the_parser(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert answer(connection) == (200, [*facts(b"abc"), 0])
        connection.sendall(header(len(BODY), "Expect: 100-continue"))
        assert connection.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert answer(connection) == (200, [*facts(BODY), 0])


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_goes_in_the_middle_is_noticed(reset: bool, wait_for: Callable[..., Any]) -> None:
    application = Application()
    with served(application) as port:
        connection = connect(port)
        connection.sendall(header(len(BODY)) + BODY[:1000])
        wait_for(application.begun.is_set)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
        wait_for(lambda: application.disconnects == 1)


@pytest.mark.parametrize("room", [0, 1000, len(BODY)])
def test_after_a_time_limit_or_a_full_disk_the_rest_is_read_and_the_next_request_answered(room: int) -> None:
    application = Application()
    application.room, application.seconds = room, 60 if room < len(BODY) else 0.01
    with served(application) as port, connect(port) as connection:
        connection.sendall(header(len(BODY)) + BODY[:1000])
        assert application.begun.wait(30)
        connection.sendall(BODY[1000:2000])
        assert application.given_up.wait(30)
        connection.sendall(BODY[2000:])
        assert answer(connection)[0] == 500
        application.room, application.seconds = len(BODY), 60
        connection.sendall(header(3) + b"end")
        assert answer(connection)[1][:2] == facts(b"end")


def test_where_a_request_has_both_headers_the_chunks_count(port: int) -> None:
    with connect(port) as connection:
        lines = ("Transfer-Encoding: chunked", "Connection: close")
        connection.sendall(header(9, *lines) + b"3\r\nabc\r\n")
        connection.sendall(b"0\r\n\r\n")
        status = connection.recv(12, socket.MSG_WAITALL).split()[1]
        rest = b"".join(iter(lambda: connection.recv(4096), b""))
        assert status == b"400" or json.loads(rest.split(b"\r\n\r\n")[1])[:2] == facts(b"abc")
