"""Messages between the server's processes: pickled, over Unix sockets, with an optional open file descriptor.

    8 bytes    length of the message; an open file descriptor travels with the first byte
    n bytes    the message, pickled

Pickle is safe here, because both ends are processes of this program. Data from outside is only ever bytes inside a
message.
"""

import asyncio
import errno
import hashlib
import os
import pickle
import socket
import struct
import sys
import tempfile
from enum import StrEnum
from typing import Any

_HEAD = struct.Struct("<Q")
HASHED_AT_ONCE = 2**20
"""Bytes read at a time for a digest."""
READ_AT_ONCE = 2**31 - 4096
"""Most bytes that one read(2) returns on Linux."""


class Order(StrEnum):
    """Orders from the server to the fork server."""

    FORK = "fork"
    KILL = "kill"


class Report(StrEnum):
    """Reports from the fork server to the server."""

    FORKED = "forked"
    ENDED = "ended"


class Body:
    """A request's body in an unnamed file in memory, which grows as data arrives and is passed on as a descriptor.

    A worker reads it once, so at most two copies of a body are in memory.
    """

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._file = os.fdopen(os.memfd_create("body"), "w+b", buffering=0)
        else:
            self._file = tempfile.TemporaryFile(buffering=0)
        self.size = 0
        self.head = b""
        """The first bytes, which indicate the format."""

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._file.write(rest) :]
        if not self.size:
            self.head = bytes(chunk[:256])
        self.size += len(chunk)

    def sha256(self) -> str:
        """Return the SHA-256 of the data so far, in hexadecimal.

        Only refused bodies are hashed here; workers hash all others.
        """
        digest, place = hashlib.sha256(), 0
        while piece := os.pread(self._file.fileno(), HASHED_AT_ONCE, place):
            digest.update(piece)
            place += len(piece)
        return digest.hexdigest()

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._file.fileno()


def read_body(descriptor: int) -> bytes:
    """Return the whole body from its file, and close the descriptor."""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        file.seek(0)
        return file.read(os.fstat(descriptor).st_size) or b""


def send(channel: socket.socket, message: object) -> None:
    """Send a message; blocks."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    channel.sendall(_HEAD.pack(len(data)))
    channel.sendall(data)


def receive(channel: socket.socket) -> tuple[Any, int | None] | None:
    """Return the next message and its descriptor, or `None` at the end of the channel; blocks."""
    head, descriptors, _, _ = socket.recv_fds(channel, _HEAD.size, 1)
    if len(head) < _HEAD.size:
        return None
    data = bytearray(_HEAD.unpack(head)[0])
    view = memoryview(data)
    while view:
        count = channel.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return pickle.loads(data), descriptors[0] if descriptors else None


def post(channel: socket.socket, message: object, descriptor: int | None = None) -> None:
    """Send a short message, with an optional open file, over a non-blocking socket.

    Messages fit in the socket's buffer: bodies are not part of them, and the server sends a message only after the
    previous one has been answered.

    Raises:
        OSError: The other end is closed, or the message does not fit in the socket's buffer.
    """
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    frame = _HEAD.pack(len(data)) + data
    sent = socket.send_fds(channel, [frame], [] if descriptor is None else [descriptor])
    if sent < len(frame):
        raise OSError(errno.EMSGSIZE, f"{len(frame)} bytes do not fit in the socket's buffer")


async def receive_later(channel: socket.socket) -> Any:
    """Return the next message from a non-blocking socket; raises `EOFError` at the end of the channel."""
    head = await _exactly(channel, _HEAD.size)
    return pickle.loads(await _exactly(channel, _HEAD.unpack(head)[0]))


async def _exactly(channel: socket.socket, count: int) -> bytearray:
    loop, data = asyncio.get_running_loop(), bytearray(count)
    view = memoryview(data)
    while view:
        try:
            received = await loop.sock_recv_into(channel, view)
        except ConnectionError:  # same as the end: the other process is gone
            received = 0
        if not received:
            raise EOFError
        view = view[received:]
    return data
