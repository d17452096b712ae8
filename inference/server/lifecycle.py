"""From the listening socket to the end: load, answer, and stop without losing a request."""

import asyncio
import socket
import time
from pathlib import Path
from types import FrameType

import uvicorn
from h11 import LocalProtocolError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mammopipe.inference.contract.errors import CannotServeError
from mammopipe.inference.demo import page
from mammopipe.inference.server.app import Application
from mammopipe.inference.server.capture import CaptureFolder, capturing
from mammopipe.inference.server.connections import connection_class, connection_limit
from mammopipe.inference.server.log import Log, log_libraries
from mammopipe.inference.settings import ServerSettings
from mammopipe.inference.workers.pool import Pool
from mammopipe.processing.container.memory import release_heap

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection, so that it is not closed under a request on its way."""
QUIET_TICKS = 10
"""Tenths of a second without a request after which memory is given back."""
LAST_WORDS_SECONDS = 1
"""For answers that are ready to be written out once the listener is closed."""


class _Released:
    """Gives memory back where no request has come for a while: the heap keeps what a storm of connections took."""

    def __init__(self) -> None:
        self._requests, self._at, self._ticks = 0, 0, 0

    def look(self, application: Application) -> None:
        """Look whether anything has come since the last look, a tenth of a second ago."""
        self._ticks = self._ticks + 1 if application.idle and application.requests == self._requests else 0
        self._requests = application.requests
        if self._ticks >= QUIET_TICKS and self._at != self._requests:
            self._at = self._requests
            release_heap()


class Server(uvicorn.Server):
    """uvicorn, but asked to stop it first answers 503 and finishes what runs, and then it ends with exit code 0."""

    def __init__(self, asgi: ASGIApp, application: Application, settings: ServerSettings, log: Log) -> None:
        connections = connection_class(
            most=connection_limit(settings.max_connections, settings.places),
            header_seconds=settings.header_seconds,
            log=log,
        )
        super().__init__(
            uvicorn.Config(
                asgi,
                http=connections,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=LAST_WORDS_SECONDS,
            )
        )
        self._application = application
        self._stop_seconds = settings.stop_seconds
        self._stop_by = 0.0
        self._quiet_ticks = 0
        self._released = _Released()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; asked twice, stop at once."""
        if self._application.stopping:
            self.force_exit = self.should_exit = True
        self._application.stopping = True
        self._stop_by = time.monotonic() + self._stop_seconds

    async def on_tick(self, counter: int) -> bool:
        """Return, ten times a second, whether to close the listener: when nothing has run for a whole tick."""
        stopping = self._application.stopping
        self._quiet_ticks = self._quiet_ticks + 1 if stopping and self._application.idle else 0
        overdue = stopping and time.monotonic() > self._stop_by
        self._released.look(self._application)
        return await super().on_tick(counter) or self._quiet_ticks > 1 or overdue


async def serve(settings: ServerSettings, listener: socket.socket, log: Log) -> None:
    """Answer on `listener` until the process is told to stop; raises `CannotServeError` where no worker can."""
    log_libraries(log)
    pool = Pool(settings, log)
    captures = None
    if settings.capture:
        captures = CaptureFolder(Path(settings.capture), int(settings.capture_gb * 1e9), settings.capture_days)
    more = [page.route()] if settings.demo else []
    application = Application(settings, pool, log, captures=captures, more=more)
    asgi: ASGIApp = application.asgi()
    if captures is not None:
        asgi = capturing(asgi, captures)
    server = Server(_tolerant(asgi, log), application, settings, log)
    host, port = listener.getsockname()[:2]
    log("listening", host=host, port=port)
    starting = asyncio.create_task(_start(pool, server, log))
    try:
        await server.serve(sockets=[listener])
        if starting.done():
            await starting
    finally:
        starting.cancel()
        await pool.stop()
    log("stopped")


def _tolerant(application: ASGIApp, log: Log) -> ASGIApp:
    """Return the application, whose answer may come too late.

    Where the framing of a body breaks off, uvicorn has answered 400 itself and closes the connection.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with a `send` that outlives the connection."""

        async def deliver(message: Message) -> None:
            """Send a part of the answer, and log the one that nobody takes any more."""
            try:
                await send(message)
            except LocalProtocolError:
                log("undelivered", part=message["type"])

        await application(scope, receive, deliver)

    return answer


async def _start(pool: Pool, server: Server, log: Log) -> None:
    begun = time.perf_counter()
    try:
        await pool.start()
    except CannotServeError:
        server.should_exit = True
        raise
    log("ready", seconds=round(time.perf_counter() - begun, 2))
