"""A transport that joins the writes of one step of the event loop."""

import asyncio
from typing import cast

from mammopipe.inference.server.joined_writes import JOINED_BYTES, JoinedWrites


class Transport:
    """Records what is written and whether it is closed."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.written))


def test_what_is_written_in_one_step_is_sent_together_and_in_order() -> None:
    async def steps() -> list[bytes]:
        transport = Transport()
        joined = JoinedWrites(cast(asyncio.Transport, transport), asyncio.get_running_loop())
        for data in (b"header", b"", b"body"):
            joined.write(data)
        assert not transport.written
        await asyncio.sleep(0)
        joined.write(b"next")
        joined.write(bytes(JOINED_BYTES + 1))
        joined.write(b"last")
        assert joined.get_write_buffer_size() == 10 + 4 + JOINED_BYTES + 1 + 4
        joined.write(b"end")
        assert not joined.is_closing()
        joined.close()
        assert joined.is_closing()
        await asyncio.sleep(0)
        return transport.written

    assert asyncio.run(steps()) == [b"headerbody", b"next", bytes(JOINED_BYTES + 1), b"last", b"end"]
