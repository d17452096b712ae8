"""The limit on open connections: which connection is closed for a new one. A web server and plain sockets."""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from mammopipe.inference.server.connections import connection_class

PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 32 * 2**20
"""Bytes of an answer that is larger than every socket buffer."""


class Application:
    """Answers /ping at once, /large with a large answer, /early before it reads the body, and the rest on `finish`."""

    def __init__(self) -> None:
        self.finish = threading.Event()
        self.events: list[tuple[str, dict[str, Any]]] = []

    def log(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))

    def count(self, event: str) -> int:
        return sum(name == event for name, _ in self.events)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.log("request", path=path)
        if path == "/wait":
            while not self.finish.is_set():
                await asyncio.sleep(0.005)
        body = bytes(LARGE) if path == "/large" else b"{}"
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": path == "/early"})
        if path == "/early":
            while (await receive())["type"] != "http.disconnect":
                pass


@contextmanager
def served(most: int) -> Iterator[tuple[Application, int]]:
    """Serve with a limit on connections; yields the application and the port."""
    application = Application()
    limited = connection_class(most=most, header_seconds=60, log=application.log)
    config = uvicorn.Config(application, http=limited, log_config=None, lifespan="off", ws="none")
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield application, listener.getsockname()[1]
        finally:
            application.finish.set()
            server.force_exit = server.should_exit = True
            thread.join()


def connect(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(data)
    return connection


def answer(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def ping(port: int) -> int:
    with connect(port, PING) as connection:
        return answer(connection)[0]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"POST /invocations HTTP/1.1\r\nHost: x\r\n", id="half a header"),
        pytest.param(b"", id="nothing"),
        pytest.param(PING + b"GET /ping HTTP/1.1\r\n", id="half a second header"),
        pytest.param(PING, id="a request"),
        pytest.param(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", id="half a refused body"),
    ],
)
def test_ping_is_answered_however_many_clients_hold_connections_without_a_request(data: bytes) -> None:
    with served(most=40) as (application, port), ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(port, data))
        assert [ping(port) for _ in range(20)] == [200] * 20
        # A connection is refused if every other one is in the turn of the loop between its header and its answer.
        assert application.count("connection_refused") <= 2 and application.count("connection_replaced") >= 58


def test_clients_that_do_not_read_their_answers_hold_no_connection(wait_for: Callable[..., Any]) -> None:
    with served(most=4) as (application, port), ExitStack() as stack:
        slow = [stack.enter_context(connect(port, PING.replace(b"ping", b"large"))) for _ in range(4)]
        wait_for(lambda: application.count("request") == 4)
        assert [ping(port) for _ in range(4)] == [200] * 4
        with pytest.raises((ConnectionError, http.client.IncompleteRead)):
            answer(slow[0])


def test_a_request_that_is_not_answered_yet_keeps_its_connection(wait_for: Callable[..., Any]) -> None:
    with served(most=3) as (application, port), ExitStack() as stack:
        waiting = [stack.enter_context(connect(port, PING.replace(b"ping", b"wait"))) for _ in range(2)]
        wait_for(lambda: application.count("request") == 2)
        half = stack.enter_context(connect(port, PING + PING[:-2]))
        assert answer(half)[0] == 200
        assert ping(port) == 200
        status, body = answer(half)
        assert (status, json.loads(body)["error"]["code"]) == (503, "busy")
        waiting.append(stack.enter_context(connect(port, PING.replace(b"ping", b"wait"))))
        wait_for(lambda: application.count("request") == 5)
        with connect(port) as further:
            assert answer(further)[0] == 503
        assert application.events[-1] == ("connection_refused", {"connections": 3})
        application.finish.set()
        assert [answer(connection)[0] for connection in waiting] == [200] * 3
