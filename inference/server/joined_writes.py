"""A transport that sends the parts of an answer together."""

import asyncio
from typing import Any

JOINED_BYTES = 2**16
"""Longest part that waits for others."""


class JoinedWrites:
    """Sends what is written within one step of the event loop at once; otherwise as the transport that it wraps.

    uvicorn writes the header of an answer and its body one after the other. The client would wake up for the header,
    take the server's core where all cores are busy, and wait again.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send the data with what else is written in this step."""
        if len(data) > JOINED_BYTES:
            self.flush()
            self._transport.write(data)
        elif data:
            # `call_soon` runs at the start of the loop's next step, when the current one has written all its parts.
            if not self._held:
                self._loop.call_soon(self.flush)
            self._held.append(data)

    def flush(self) -> None:
        """Send what has been written so far."""
        if self._held:
            held, self._held = self._held, []
            self._transport.write(b"".join(held))

    def close(self) -> None:
        """Send what has been written so far and close the connection."""
        self.flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that have not been sent yet."""
        self.flush()
        return self._transport.get_write_buffer_size()
