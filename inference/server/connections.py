"""HTTP/1.1 connections with deadlines, a limit on open connections, and handling of half-closed connections.

uvicorn limits neither the time that a header takes nor the number of silent connections, and it treats a client that
has closed only its sending side as gone. This module's connection class fixes these three points.

Sources: RFC 9112, 9.5 and 9.6 (failures and tear-down); RFC 9110, 15.2.1 (a client discards an unexpected 100) and
15.5.9 (408); tcp(7), TCP_INFO.
"""

import asyncio
import resource
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mammopipe.inference.contract.media_types import error_body
from mammopipe.inference.server.direct_body import RECEIVED_AT_ONCE, DirectBodyProtocol
from mammopipe.inference.server.joined_writes import JoinedWrites

RESERVED_FILES = 128
"""Descriptors reserved for the listener, the workers and the bodies of running requests."""
CHECK_SECONDS = 0.02
"""Seconds between checks of a connection whose client has closed its sending side."""
PROBE_SECONDS = 3.0
"""Seconds after which a client that has closed its sending side is probed, even if a worker has its request."""
TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8
"""States of a connection that was reset, and of one whose client has closed at least its sending side (Linux,
net/tcp_states.h)."""
IN_QUEUE = "in_queue"
"""Key in the `state` of an ASGI scope: true while the request waits for a worker."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
Log = Callable[..., None]


def connection_limit(wanted: int, places: int) -> int:
    """Return the limit on open connections: `wanted`, or less if the limit on open files requires it.

    This process's soft limit on open files is raised as far as allowed (getrlimit(2), RLIMIT_NOFILE).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + RESERVED_FILES + places
    if soft != resource.RLIM_INFINITY and soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else min(hard, enough)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - RESERVED_FILES - places))


def connection_class(*, most: int, header_seconds: float, log: Log) -> type[H11Protocol]:
    """Return the class of a server's connections.

    Args:
        most: Limit on open connections. A further connection replaces the one that has been without a complete header
            for longest, or is refused with 503 if every connection has a request.
        header_seconds: Seconds from a connection's start, or from a request's first byte, to the end of its header.
        log: Called with an event for each connection that is refused or times out.
    """
    settings = {
        "most": most,
        "header_seconds": header_seconds,
        "log": staticmethod(log),
        "buffer": memoryview(bytearray(RECEIVED_AT_ONCE)),
    }
    return type("LimitedConnection", (Connection,), settings)


class Connection(DirectBodyProtocol):
    """One connection; `connection_class` sets its limits."""

    most = 512
    header_seconds = 10.0
    log: Log = staticmethod(lambda event, **facts: None)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._check: asyncio.TimerHandle | None = None
        self._half_closed_at = 0.0
        self._probed = False
        self._idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or refuse it if too many are open."""
        self._joined = JoinedWrites(transport, self.loop)
        super().connection_made(cast(asyncio.Transport, self._joined))
        self._idle_since = self.loop.time()
        if len(self.connections) > self.most and not self._replace_another():
            self.log("connection_refused", connections=len(self.connections) - 1)
            self._refuse_busy()
            return
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """Parse the data, and run the header's timer while a header is incomplete."""
        super().data_received(data)
        self._watch_header()
        self._watch_pipeline()

    def on_response_complete(self) -> None:
        """End a request; the start of the next one may have arrived already."""
        self._joined.flush()
        self._idle_since = self.loop.time()
        super().on_response_complete()
        self._watch_header()
        self._watch_pipeline()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open for its answer if the client has closed only its sending side."""
        if self.conn.their_state is not h11.DONE or self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        self._half_closed_at = self._half_closed_at or self.loop.time()
        if self._check is None:
            self._check_client()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        for timer in (self._deadline, self._check):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer data that is not HTTP in the format of all other errors, unless an answer has begun."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()
            return
        self._refuse(HTTPStatus.BAD_REQUEST, "bad_http", msg)

    @property
    def idle(self) -> bool:
        """Whether the connection has no request that is still to be answered; a header may have begun.

        A client that got its answer before the end of its body, or that reads its answer slowly, counts as idle.
        """
        return self.cycle is None or self.cycle.response_started

    def _watch_header(self) -> None:
        """Run the timer only from a header's first byte to its last."""
        in_header = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if self.transport.is_closing() or not in_header:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._set_deadline()

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.header_seconds, self._over_time)

    def _over_time(self) -> None:
        self._deadline = None
        if not self.conn.trailing_data[0]:
            self.transport.close()
            return
        self.log("header_timeout", seconds=self.header_seconds)
        self._refuse(
            HTTPStatus.REQUEST_TIMEOUT,
            "header_timeout",
            f"no complete header within {self.header_seconds:g} seconds, the limit",
        )

    def _refuse_busy(self) -> None:
        self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "busy", f"{self.most} connections are open, which is the limit")

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        """Answer with an error and close the connection."""
        body = error_body(code, message)
        lines = (
            f"HTTP/1.1 {int(status)} {status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *(("retry-after: 1",) if status is HTTPStatus.SERVICE_UNAVAILABLE else ()),
            "connection: close",
        )
        self.transport.write("\r\n".join((*lines, "", "")).encode() + body)
        self.transport.close()

    def _replace_another(self) -> bool:
        """Close the connections whose clients have reset them or else one without a request; return whether one was.

        The connection that has been without a complete header for longest goes first. Clients that send half a header
        and wait therefore displace each other, and health checks are answered.
        """
        # uvicorn's set of connections contains this one already.
        others = [other for other in self.connections if other is not self and isinstance(other, Connection)]
        gone = [other for other in others if _tcp_state(other.transport.get_extra_info("socket")) == TCP_CLOSE]
        for other in gone:
            other.transport.abort()
        if not gone and (idle := [other for other in others if other.idle]):
            gone = [min(idle, key=lambda other: other._idle_since)]
            gone[0]._give_way()
        self.connections.difference_update(gone)
        return bool(gone)

    def _give_way(self) -> None:
        """Close this idle connection for a new one; a client that has begun a header is answered."""
        waits_for_header = self.cycle is None or self.cycle.response_complete
        header_begun = waits_for_header and bool(self.conn.trailing_data[0])
        self.log("connection_replaced", header_begun=header_begun)
        if self.transport.get_write_buffer_size():
            # The client does not read. Closing would wait for it, and keep the connection's descriptor and its answer.
            self.transport.abort()
        elif header_begun:
            self._refuse_busy()
        else:
            self.transport.close()

    def _watch_pipeline(self) -> None:
        """Check the client of a request behind which the next one waits.

        uvicorn does not read such a connection until the request is answered, so it does not notice its end.
        """
        behind = self.conn.their_state is h11.DONE and bool(self.conn.trailing_data[0])
        if behind and self._check is None and self.cycle is not None:
            self._check_client()

    def _check_client(self) -> None:
        """Check whether the client of a half-closed connection is still there, and end the connection if not.

        A closed socket and a socket that has only finished sending look the same until something is sent to them. The
        server therefore sends a status 100 while the request waits for a worker: every client discards it, and a
        closed socket replies with a reset. If a worker already has the request, the server sends the 100 only after a
        few seconds without an answer.
        """
        self._check = None
        if self.transport.is_closing() or self.cycle.response_started:
            return
        state = _tcp_state(self.transport.get_extra_info("socket"))
        if state == TCP_CLOSE:
            self.transport.abort()
            return
        self._check = self.loop.call_later(CHECK_SECONDS, self._check_client)
        if state == TCP_CLOSE_WAIT:
            self._half_closed_at = self._half_closed_at or self.loop.time()
        if not self._half_closed_at:
            return
        waits = self.cycle.scope.get("state", {}).get(IN_QUEUE, False)
        late = self.loop.time() - self._half_closed_at > PROBE_SECONDS
        # HTTP/1.0 has no status 100 (RFC 9110, 15.2).
        if not self._probed and (waits or late) and self.cycle.scope["http_version"] == "1.1":
            self._probed = True
            self.transport.write(CONTINUE)


def _tcp_state(connection: socket.socket | None) -> int | None:
    """Return the TCP state of a connection; `None` if the system does not report it."""
    if connection is None or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return TCP_CLOSE
