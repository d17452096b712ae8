import asyncio
import hashlib
import os
import socket
from collections.abc import Iterator

import pytest

from mammopipe.inference.workers.channel import Body, post, read_body, receive, receive_later, send

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_a_body_travels_as_an_open_file(pair: Pair) -> None:
    with Body() as body:
        for chunk in (b"P5 ", b"", b"2 1 255\n", b"\x01\x02"):
            body.write(chunk)
        post(pair[0], ["task"], body.fileno())
        digest, size = body.sha256(), body.size
    received = receive(pair[1])
    assert received is not None
    message, descriptor = received
    assert descriptor is not None
    data = read_body(descriptor)
    assert (message, data, size) == (["task"], b"P5 2 1 255\n\x01\x02", 13)
    assert digest == hashlib.sha256(data).hexdigest() and body.head.startswith(b"P5 ")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_answers_larger_than_the_socket_s_buffer_arrive_whole(pair: Pair) -> None:
    async def both() -> object:
        sending = asyncio.to_thread(send, pair[1], bytes(10_000_000))
        return (await asyncio.gather(receive_later(pair[0]), sending))[0]

    assert asyncio.run(both()) == bytes(10_000_000)


def test_the_end_of_the_other_process_is_told(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        post(pair[0], "task")
    with pytest.raises(EOFError):
        asyncio.run(receive_later(pair[0]))


def test_a_message_cut_short_is_the_end(pair: Pair) -> None:
    pair[0].send(b"\x08\0\0\0\0\0\0\0abc")
    pair[0].close()
    assert receive(pair[1]) is None


def test_only_bodies_may_be_large(pair: Pair) -> None:
    with pytest.raises(OSError, match="do not fit"):
        post(pair[0], bytes(10_000_000))
