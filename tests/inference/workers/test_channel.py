"""Messages and bodies between the server's processes."""

import asyncio
import hashlib
import os
import socket
from collections.abc import Iterator

import pytest

from mammopipe.inference.workers.channel import KEPT_BYTES, BodyFiles, Inbox, SharedBody, post, read_body, receive, send

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_a_body_travels_as_an_open_file(pair: Pair) -> None:
    with SharedBody() as body:
        for chunk in (b"P5 ", b"", b"2 1 255\n", b"\x01\x02"):
            body.write(chunk)
        post(pair[0], ["task"], body.fileno())
        digest, size = body.sha256(), body.size
    received = receive(pair[1])
    assert received is not None
    message, descriptor = received
    assert descriptor is not None
    data = read_body(descriptor, size)
    assert (message, data, size) == (["task"], b"P5 2 1 255\n\x01\x02", 13)
    assert digest == hashlib.sha256(data).hexdigest() and body.head.startswith(b"P5 ")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_answers_larger_than_the_socket_s_buffer_arrive_whole(pair: Pair) -> None:
    async def both() -> object:
        sending = asyncio.to_thread(send, pair[1], bytes(10_000_000))
        return (await asyncio.gather(Inbox(pair[0]).receive(), sending))[0]

    assert asyncio.run(both()) == bytes(10_000_000)


def test_the_end_of_the_other_process_is_told(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        post(pair[0], "task")

    async def wait() -> None:
        await Inbox(pair[0]).receive()

    with pytest.raises(EOFError):
        asyncio.run(wait())


def test_messages_that_arrive_together_are_received_one_by_one(pair: Pair) -> None:
    async def both() -> list[object]:
        inbox = Inbox(pair[0])
        return [await inbox.receive(), await inbox.receive()]

    send(pair[1], "first")
    send(pair[1], ["second"])
    pair[1].close()
    assert asyncio.run(both()) == ["first", ["second"]]


def test_the_file_of_a_body_that_was_read_serves_the_next_which_ends_where_it_ends() -> None:
    files = BodyFiles()
    with SharedBody(files) as body:
        body.write(b"another patient's image")
        first, body.was_read = body.fileno(), True
    with SharedBody(files) as body:
        body.write(b"short")
        assert (body.fileno(), body.size, body.head) == (first, 5, b"short")
        assert body.sha256() == hashlib.sha256(b"short").hexdigest()
        assert read_body(os.dup(body.fileno()), body.size) == b"short"


def test_the_file_of_a_body_that_a_worker_may_still_read_serves_no_other() -> None:
    files = BodyFiles()
    with SharedBody(files) as body:
        body.write(b"P5")
        held = os.dup(body.fileno())
    with SharedBody(files) as body:
        body.write(b"xx")
        assert not os.path.sameopenfile(body.fileno(), held)
    assert read_body(held, 2) == b"P5"


def test_kept_files_are_limited_and_can_be_closed() -> None:
    files = BodyFiles()
    with SharedBody(files) as large:
        large.write(bytes(KEPT_BYTES + 1))
        descriptor, large.was_read = large.fileno(), True
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with SharedBody(files) as small:
        small.write(b"x")
        descriptor, small.was_read = small.fileno(), True
    os.fstat(descriptor)
    files.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_body_shorter_than_announced_is_an_error() -> None:
    with SharedBody() as body:
        body.write(b"P5")
        with pytest.raises(ValueError, match="holds 2 of 3 bytes"):
            read_body(os.dup(body.fileno()), 3)


def test_a_message_cut_short_is_the_end(pair: Pair) -> None:
    pair[0].send(b"\x08\0\0\0\0\0\0\0abc")
    pair[0].close()
    assert receive(pair[1]) is None


def test_only_bodies_may_be_large(pair: Pair) -> None:
    with pytest.raises(OSError, match="do not fit"):
        post(pair[0], bytes(10_000_000))
