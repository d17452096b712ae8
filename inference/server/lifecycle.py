"""The server's lifecycle: loads the model, answers requests, and stops without losing a request."""

import asyncio
import gc
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
"""Longer than clients keep an idle connection, so that the server does not close it while a request is on its way."""
QUIET_TICKS = 10
"""Tenths of a second without a request after which memory is returned to the system."""
ACCEPTED_AT_ONCE = 8
"""Connections accepted before the open ones are served again. asyncio would accept all that wait, and hold the
data of a burst of hundreds in memory at the same time, although their clients may have gone."""
WAITING_CONNECTIONS = 512
"""Connections that the system keeps until they are accepted (listen(2))."""
ANSWER_SECONDS = 1
"""Seconds for writing finished answers after the listener is closed."""


class _IdleMemory:
    """Returns memory to the system when no request arrives for a while; the heap would keep the peak of a burst."""

    def __init__(self) -> None:
        self._requests, self._at, self._ticks = 0, 0, 0

    def check(self, application: Application) -> None:
        """Check whether a request has arrived since the last check, a tenth of a second ago."""
        self._ticks = self._ticks + 1 if application.idle and application.requests == self._requests else 0
        self._requests = application.requests
        if self._ticks >= QUIET_TICKS and self._at != self._requests:
            self._at = self._requests
            # Requests that ended by an exception can be cycles of objects, which would keep the memory around them.
            gc.collect()
            application.release_memory()
            release_heap()


class Server(uvicorn.Server):
    """uvicorn's server with a graceful stop: it answers new requests 503, finishes running ones and exits with 0."""

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
                backlog=ACCEPTED_AT_ONCE,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=ANSWER_SECONDS,
            )
        )
        self._application = application
        self._stop_seconds = settings.stop_seconds
        self._stop_by = 0.0
        self._quiet_ticks = 0
        self._idle_memory = _IdleMemory()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. uvicorn has one setting for waiting connections and for those accepted at once; here they differ."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(WAITING_CONNECTIONS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop on the first signal; stop at once on the second."""
        if self._application.stopping:
            self.force_exit = self.should_exit = True
        self._application.stopping = True
        self._stop_by = time.monotonic() + self._stop_seconds

    async def on_tick(self, counter: int) -> bool:
        """Return whether to close the listener: when stopping and idle for a whole tick. Called ten times a second."""
        stopping = self._application.stopping
        self._quiet_ticks = self._quiet_ticks + 1 if stopping and self._application.idle else 0
        overdue = stopping and time.monotonic() > self._stop_by
        self._idle_memory.check(self._application)
        return await super().on_tick(counter) or self._quiet_ticks > 1 or overdue


async def serve(settings: ServerSettings, listener: socket.socket, log: Log) -> None:
    """Answer on `listener` until a stop signal comes; raises `CannotServeError` if no worker can start."""
    log_libraries(log)
    pool = Pool(settings, log)
    captures = None
    if settings.capture:
        captures = CaptureFolder(Path(settings.capture), int(settings.capture_gb * 1e9), settings.capture_days)
    more = [page.route()] if settings.demo else []
    application = Application(settings, pool, log, captures=captures, more=more)
    asgi = application.asgi()
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
    """Return the application, wrapped so that an answer to a closed connection is no error.

    If the framing of a body is broken, uvicorn itself answers 400 and closes the connection.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with a `send` that outlives the connection."""

        async def deliver(message: Message) -> None:
            """Send a part of the answer; log the part if the connection is closed."""
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
    # Objects that live as long as the process are left out of every later garbage collection.
    gc.collect()
    gc.freeze()
    log("ready", seconds=round(time.perf_counter() - begun, 2))
