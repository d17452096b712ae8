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
from io import FileIO
from typing import Any, cast

_HEAD = struct.Struct("<Q")
RECEIVED_AT_ONCE = 2**18
"""Bytes of a message that are received at a time."""
HASHED_AT_ONCE = 2**20
"""Bytes read at a time for a digest."""
KEPT_BYTES = 16 * 2**20
"""Most bytes of the files that are kept for later requests."""


class Order(StrEnum):
    """Orders from the server to the fork server."""

    FORK = "fork"
    KILL = "kill"


class Report(StrEnum):
    """Reports from the fork server to the server."""

    FORKED = "forked"
    ENDED = "ended"


class BodyFiles:
    """Unnamed files in memory for the bodies of requests. Some are kept for later requests.

    The first write to a page of a new file takes ten times as long as the next ones.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[FileIO, int]] = []
        """Each file with the number of bytes for which it has pages."""

    def take(self) -> tuple[FileIO, int]:
        """Return the file that was kept last, or a new one, with the number of bytes for which it has pages."""
        if self._kept:
            return self._kept.pop()
        # A file without a name leaves no patient's image on a disk, whatever ends the process.
        if sys.platform == "linux":
            return open(os.memfd_create("body"), "w+b", buffering=0), 0
        return cast(FileIO, tempfile.TemporaryFile(buffering=0)), 0

    def keep(self, file: FileIO, size: int) -> None:
        """Keep a file that has no reader any more, or close it if the kept files would become too large."""
        if sum(kept for _, kept in self._kept) + size <= KEPT_BYTES:
            self._kept.append((file, size))
        else:
            file.close()

    def clear(self) -> None:
        """Close the kept files."""
        while self._kept:
            self._kept.pop()[0].close()


class SharedBody:
    """A request's body in a file in memory, which grows as data arrives and is passed on as a descriptor.

    A worker reads it once, so at most two copies of a body are in memory.
    """

    def __init__(self, files: BodyFiles | None = None) -> None:
        """Take a file of `files`; by default a new one."""
        self._files = files or BodyFiles()
        self._file, self._pages = self._files.take()
        self.size = 0
        self.head = b""
        """The first bytes, which indicate the format."""
        self.was_read = False
        """Whether the worker has read the body. Only then may its file serve the next request."""

    def __enter__(self) -> "SharedBody":
        return self

    def __exit__(self, *_: object) -> None:
        if self.was_read:
            self._files.keep(self._file, max(self._pages, self.size))
        else:
            self._file.close()

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append a chunk."""
        rest = memoryview(chunk)
        if not self.size:
            self.head = bytes(rest[:256])  # longer than DICOM's preamble of 128 bytes and its magic number
        while rest:
            # One call writes at most 2^31 - 4096 bytes, and may write fewer (write(2)).
            written = os.pwrite(self._file.fileno(), rest, self.size)
            self.size += written
            rest = rest[written:]

    def sha256(self) -> str:
        """Return the SHA-256 of the data so far, in hexadecimal.

        Only refused bodies are hashed here; workers hash all others.
        """
        digest, place = hashlib.sha256(), 0
        while piece := os.pread(self._file.fileno(), min(HASHED_AT_ONCE, self.size - place), place):
            digest.update(piece)
            place += len(piece)
        return digest.hexdigest()

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._file.fileno()


def read_body(descriptor: int, size: int) -> bytes:
    """Return the whole body, the first `size` bytes of its file, and close the descriptor."""
    try:
        data = os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise ValueError(f"the body's file holds {len(data)} of {size} bytes")
    return data


def send(channel: socket.socket, message: object) -> None:
    """Send a message; blocks."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    channel.sendall(_HEAD.pack(len(data)) + data)


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


class Inbox:
    """Receives the messages on a non-blocking socket, which stays registered with the event loop."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._data = bytearray()
        self._ended = False
        self._wanted: asyncio.Future[bytes] | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel, self._read)

    def next(self) -> "asyncio.Future[bytes]":
        """Return the next message as a future; its exception is `EOFError` at the end of the channel.

        A second call is allowed only after the first future is done.
        """
        self._wanted = self._loop.create_future()
        self._deliver()
        return self._wanted

    async def receive(self) -> Any:
        """Return the next message; raises `EOFError` at the end of the channel."""
        return pickle.loads(await self.next())

    def close(self) -> None:
        """Close the channel; a future that waits for a message meets its end."""
        self._end()
        self._channel.close()

    def _read(self) -> None:
        try:
            data = self._channel.recv(RECEIVED_AT_ONCE)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionError:  # same as the end: the other process is gone
            data = b""
        self._data += data
        if data:
            self._deliver()
        else:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._loop.remove_reader(self._channel)
            self._deliver()

    def _deliver(self) -> None:
        if self._wanted is None or self._wanted.done():
            return
        size = _HEAD.unpack_from(self._data)[0] if len(self._data) >= _HEAD.size else None
        if size is not None and len(self._data) >= _HEAD.size + size:
            message = bytes(self._data[_HEAD.size : _HEAD.size + size])
            del self._data[: _HEAD.size + size]
            self._wanted.set_result(message)
        elif self._ended:
            self._wanted.set_exception(EOFError())
