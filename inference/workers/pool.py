"""The workers as the server sees them: places, a line of waiting requests, and whoever dies is replaced.

A worker that dies costs the request in it and no other. One that is given up, because its request took too long, is
killed: nothing else stops a decoder or a forward that hangs. Workers are forked from a fork server
(`mammopipe.inference.workers.fork_server_client`).
"""

import asyncio
import time
from collections.abc import Callable

from mammopipe.inference.contract.errors import CannotServeError, RequestError, UnavailableError, WorkerFault
from mammopipe.inference.contract.task import Reply, Task
from mammopipe.inference.settings import ServerSettings
from mammopipe.inference.workers.channel import Body
from mammopipe.inference.workers.fork_server_client import ForkServer, Worker, WorkerLostError

PATIENCE = 3
"""Workers that may die, one after the other, before the first has answered its warm-up image."""
LONGEST_PAUSE = 30.0
"""Seconds between attempts to replace a worker that cannot load its model."""
Log = Callable[..., None]


class Pool:
    """As many workers as the settings say. All methods belong to the event loop that made it."""

    def __init__(self, settings: ServerSettings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._fork_server = ForkServer(settings)
        self._idle: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()
        self._able: set[Worker] = set()
        self._begun = time.perf_counter()
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keepers: list[asyncio.Task[None]] = []
        self.held = 0
        """Requests that have a place in the server, running or waiting."""

    async def start(self) -> None:
        """Return when the first worker has answered its warm-up image; `CannotServeError` says why none can."""
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._settings.worker_count)]
        await asyncio.wait([self._first, *self._keepers], return_when=asyncio.FIRST_COMPLETED)
        for keeper in filter(asyncio.Task.done, self._keepers):
            keeper.result()
        await self._first

    async def stop(self) -> None:
        """End all workers at once, and return when they are gone."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self._fork_server.stop()

    @property
    def healthy(self) -> bool:
        """Whether a worker lives that has answered its warm-up image."""
        return bool(self._able)

    def reserve(self) -> None:
        """Take a place in the server or raise `UnavailableError`; `release` gives it back."""
        if not self._first.done():
            raise UnavailableError("starting", "the model is still being loaded; try again")
        if self.held >= self._settings.places:
            raise UnavailableError("busy", f"{self.held} requests are being answered, which is the limit; try again")
        self.held += 1

    def release(self) -> None:
        """Give a place back."""
        self.held -= 1

    async def run(self, task: Task, body: Body, begun: Callable[[], None] = lambda: None) -> tuple[Reply, float]:
        """Return the answer of the next worker that is free, and the seconds it was waited for.

        `begun` is called once a worker has the task.

        Raises the worker's `RequestError`, `UnavailableError` where the worker dies over the task, and `WorkerFault`.
        A cancelled wait leaves the line; one whose worker has begun has the worker killed and replaced.
        """
        asked = time.perf_counter()
        worker = await self._next()
        while not worker.hand(task, body):
            worker = await self._next()
        waited = time.perf_counter() - asked
        begun()
        try:
            outcome = await worker.outcome()
        except WorkerLostError:
            self._able.discard(worker)
            raise UnavailableError("worker_lost", "the process that worked on this request ended; try again") from None
        except asyncio.CancelledError:
            self._able.discard(worker)
            self._fork_server.kill(worker)
            raise
        self._idle.put_nowait(worker)
        if isinstance(outcome, RequestError | WorkerFault):
            raise outcome
        return outcome, waited

    async def _next(self) -> Worker:
        while True:
            worker = await self._idle.get()
            if worker in self._able:
                return worker

    async def _keep(self) -> None:
        """Have one worker at any time: start it, wait for its end, start the next."""
        failures = 0
        while True:
            reason = await self._one_life()
            if reason is None:
                failures = 0
                continue
            failures += 1
            if not self._first.done() and (failures == PATIENCE or isinstance(reason, CannotServeError)):
                raise CannotServeError(str(reason))
            self._log("worker_failed", reason=str(reason))
            await asyncio.sleep(min(LONGEST_PAUSE, 0.1 * 2**failures))

    async def _one_life(self) -> Exception | None:
        """Start a worker and return at its end: `None`, or why it never came to answer its warm-up image."""
        try:
            worker = await self._fork_server.start_worker()
            await worker.ready()
        except (CannotServeError, WorkerLostError) as reason:
            return reason
        self._able.add(worker)
        self._idle.put_nowait(worker)
        self._log("worker_ready", worker=worker.process, seconds=round(time.perf_counter() - self._begun, 2))
        if not self._first.done():
            self._first.set_result(None)
        code = await worker.ended
        self._able.discard(worker)
        self._log("worker_ended", worker=worker.process, exit_code=code)
        return None
