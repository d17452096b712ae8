"""The client and the ideal server of the server's benchmark, over loopback."""

import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from benchmarks.serving.harness import Client
from benchmarks.serving.ideal_server import serve

BODY = bytes(range(256)) * 4096
ANSWERED = b'{"size":1048576}'


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def served(listener: socket.socket, count: int) -> list[bytes]:
    """Answer `count` requests of one connection; return their bodies."""
    bodies: list[bytes] = []

    def answer(body: bytes) -> bytes:
        bodies.append(body)
        return b'{"size":%d}' % len(body)

    with listener.accept()[0] as connection:
        assert all(serve(connection, answer) for _ in range(count))
    return bodies


def give(listener: socket.socket, answers: Sequence[bytes]) -> None:
    """Give each answer on a connection of its own, and close it."""
    for answer in answers:
        with listener.accept()[0] as connection:
            while not connection.recv(2**20).endswith(BODY[-256:]):
                pass
            connection.sendall(answer)


def test_a_client_and_an_ideal_server_understand_each_other(listener: socket.socket) -> None:
    with ThreadPoolExecutor(1) as pool:
        bodies = pool.submit(served, listener, 2)
        with closing(Client(listener.getsockname()[1])) as client:
            for _ in range(2):
                status, seconds = client.ask(BODY)
                assert (status, client.answer.endswith(ANSWERED)) == (200, True)
                assert 0 < seconds < 60
        assert bodies.result() == [BODY, BODY]


def test_a_connection_that_the_server_closes_is_made_anew(listener: socket.socket) -> None:
    refusal = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
    with ThreadPoolExecutor(1) as pool:
        given = pool.submit(give, listener, [refusal, refusal])
        with closing(Client(listener.getsockname()[1])) as client:
            assert [client.ask(BODY)[0] for _ in range(2)] == [503, 503]
            given.result()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nno", ConnectionError),
        (b"HTTP/1.1 200 OK\r\nContent-Len", ConnectionError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nno", ValueError),
        (b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\nno", ValueError),
    ],
)
def test_an_answer_of_another_size_is_an_error(listener: socket.socket, answer: bytes, error: type[Exception]) -> None:
    with ThreadPoolExecutor(1) as pool:
        given = pool.submit(give, listener, [answer])
        with closing(Client(listener.getsockname()[1])) as client, pytest.raises(error):
            client.ask(BODY)
        given.result()
