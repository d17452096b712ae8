"""The pool of workers: queues requests for free workers, and replaces ended workers.

A worker that ends loses only its own request. A worker whose request takes too long is killed, because nothing else
stops a decoder or a forward pass that hangs. Workers are forked from a fork server
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
"""Workers in a row that may end before any has answered its warm-up image; then the server gives up."""
LONGEST_PAUSE = 30.0
"""Most seconds between attempts to replace a worker that cannot load its model."""
Log = Callable[..., None]


class Pool:
    """A pool of `worker_count` workers. All methods must run in the event loop that created the pool."""

    def __init__(self, settings: ServerSettings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._fork_server = ForkServer(settings)
        self._idle: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()
        self._able: set[Worker] = set()
        self._begun = time.perf_counter()
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Wait until the first worker has answered its warm-up image; raises `CannotServeError` if none can."""
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._settings.worker_count)]
        await asyncio.wait([self._first, *self._keepers], return_when=asyncio.FIRST_COMPLETED)
        for keeper in filter(asyncio.Task.done, self._keepers):
            keeper.result()
        await self._first

    async def stop(self) -> None:
        """End all workers at once, and wait until they have ended."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self._fork_server.stop()

    @property
    def started(self) -> bool:
        """Whether a worker has ever answered its warm-up image."""
        return self._first.done()

    @property
    def healthy(self) -> bool:
        """Whether at least one running worker has answered its warm-up image."""
        return bool(self._able)

    async def run(self, task: Task, body: Body, begun: Callable[[], None] = lambda: None) -> tuple[Reply, float]:
        """Return the reply of the next free worker, and the seconds of waiting for it.

        If the call is cancelled while it waits, it leaves the queue. If a worker has already started, that worker is
        killed and replaced.

        Args:
            task: The request.
            body: Its body.
            begun: Called when a worker has the task.

        Raises:
            RequestError: The worker's own error.
            UnavailableError: The worker ended during the task.
            WorkerFault: A fault of this program in the worker.
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
        """Keep one worker running: start it, wait for its end, start the next."""
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
        """Start a worker and wait for its end; return `None`, or the error if it never answered its warm-up image."""
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
