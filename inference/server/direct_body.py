"""Connections that write a request's body directly into its file, past the HTTP parser.

The parser, h11, copies each piece of a body several times, and uvicorn pauses the connection after each piece: a body
of one megabyte took longer than all other work of the server on a request. h11 therefore reads the header and the first
bytes of a body of known length; the other bytes are written to the file as they arrive.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PASS_BODY = "pass_body"
"""Key in the `state` of an ASGI scope: `DirectBodyProtocol.pass_body` of the request's connection."""
GONE = "gone"
"""Key in the `state` of an ASGI scope: a future that is done once the connection is closed."""
RECEIVED_AT_ONCE = 2**18
"""Bytes that are received at a time."""
PIECES_AT_ONCE = 16
"""Pieces that one connection may receive before the event loop serves the others."""
Write = Callable[[memoryview], None]


class DirectBodyProtocol(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's protocol with `pass_body`."""

    buffer = memoryview(bytearray(RECEIVED_AT_ONCE))
    """Memory for the received bytes, which are used before the event loop receives the next ones. The connections of
    one event loop may share it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._write: Write | None = None
        self._left = 0
        self._passed: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] = self.loop.create_future()
        self.app_state = {**self.app_state, PASS_BODY: self.pass_body, GONE: self._gone}

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory for the next bytes."""
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Write the received bytes to the body's file, or let h11 parse them."""
        taken = 0
        if self._write is not None:
            taken = min(nbytes, self._left)
            self._left -= taken
            try:
                self._write(self.buffer[:taken])
            except Exception as error:  # the boundary: the request's handler gets it, the event loop does not
                self._end_passing(error)
            if not self._left:
                self._end_passing()
                self.handle_events()
        if taken < nbytes:
            self.data_received(bytes(self.buffer[taken:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request's handler that the client has gone."""
        self._end_passing()
        if not self._gone.done():
            self._gone.set_result(None)
        # The request's state would keep this connection, and the connection the state.
        self.app_state = {}
        if self.cycle is not None:
            self.cycle.scope["state"].pop(PASS_BODY, None)
        super().connection_lost(exc)

    async def pass_body(self, write: Write) -> None:
        """Pass the request's body to `write`; `receive` returns what is left of it afterwards.

        Returns without doing anything if the body's length is unknown or if the client waits for "100 Continue".
        Returns early if the connection is closed; `receive` then returns `http.disconnect`.

        Raises:
            Exception: As `write` raises.
        """
        cycle, length = self.cycle, _content_length(self.headers)
        if length is None or cycle.waiting_for_100_continue or cycle.disconnected:
            return
        read = len(cycle.body)
        with memoryview(cycle.body) as begun:
            write(begun)
        cycle.body = bytearray()
        self._left = length - read
        if not self._left:
            return
        self._write, self._passed = write, self.loop.create_future()
        try:
            self._receive_waiting()
            self.flow.resume_reading()
            await self._passed
        finally:
            self._end_passing()

    def _receive_waiting(self) -> None:
        """Write what the system has received already; waiting for the event loop before each piece would be slower."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        for _ in range(PIECES_AT_ONCE):
            if self._write is None:
                return
            try:
                count = os.readv(descriptor, [self.buffer])
            except OSError:  # nothing has arrived, or the connection is broken, which the event loop will notice
                return
            if not count:
                return
            self.buffer_updated(count)

    def _end_passing(self, error: Exception | None = None) -> None:
        """Let h11 parse all further bytes."""
        if self._write is None or self._passed is None:
            return
        self._write = None
        # h11 has no public way to say that bytes of the body were read past it. A new connection of h11 that has read
        # the header of a body with as many bytes as are left would do, but takes 0.1 ms.
        reader: Any = self.conn._reader
        reader._remaining = self._left
        if self._passed.done():
            return
        if error is None:
            self._passed.set_result(None)
        else:
            self._passed.set_exception(error)


def _content_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Return the body's length as h11 has checked it; `None` if it is chunked."""
    found = dict(headers)
    # With both headers, the chunks count (RFC 9112, 6.3).
    if b"transfer-encoding" in found or b"content-length" not in found:
        return None
    return int(found[b"content-length"])
