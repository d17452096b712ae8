"""The pool of workers: queues requests for free workers, and replaces ended workers.

A worker that ends loses only its own request. A worker whose request takes too long is killed, because nothing else
stops a decoder or a forward pass that hangs. Workers are forked from a fork server
(`mammopipe.inference.workers.fork_server_client`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mammopipe.inference.contract.errors import CannotServeError, RequestError, UnavailableError, WorkerFault
from mammopipe.inference.contract.task import Reply, Task
from mammopipe.inference.settings import ServerSettings
from mammopipe.inference.workers.channel import SharedBody
from mammopipe.inference.workers.fork_server_client import ForkServer, Worker, WorkerLostError

MOST_FAILED_STARTS = 3
"""Workers in a row that end before any has answered its warm-up image; the server then gives up."""
LONGEST_PAUSE = 30.0
"""Most seconds between attempts to replace a worker that cannot load its model."""
Log = Callable[..., None]


class ClientGoneError(Exception):
    """The client of a request has gone."""


@dataclass(eq=False)
class _Queued:
    """A request in the queue for a worker."""

    task: Task
    body: SharedBody
    running: "asyncio.Future[tuple[Worker, asyncio.Future[bytes]]]"
    """The worker that has the request, and its future answer."""


class Pool:
    """A pool of `worker_count` workers. All methods must run in the event loop that created the pool."""

    def __init__(self, settings: ServerSettings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._fork_server = ForkServer(settings)
        self._idle: list[Worker] = []
        """Workers without a request; the last one was busy last, so its memory is most likely in the caches."""
        self._queue: deque[_Queued] = deque()
        self._ready_workers: set[Worker] = set()
        self._begun = time.perf_counter()
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisors: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Wait until the first worker has answered its warm-up image; raises `CannotServeError` if none can."""
        self._supervisors = [asyncio.create_task(self._supervise()) for _ in range(self._settings.worker_count)]
        await asyncio.wait([self._first, *self._supervisors], return_when=asyncio.FIRST_COMPLETED)
        for supervisor in filter(asyncio.Task.done, self._supervisors):
            supervisor.result()
        await self._first

    async def stop(self) -> None:
        """End all workers at once, and wait until they have ended."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        await self._fork_server.stop()

    @property
    def started(self) -> bool:
        """Whether a worker has ever answered its warm-up image."""
        return self._first.done()

    @property
    def healthy(self) -> bool:
        """Whether at least one running worker has answered its warm-up image."""
        return bool(self._ready_workers)

    async def run(
        self, task: Task, body: SharedBody, gone: "asyncio.Future[None]", begun: Callable[[], None] = lambda: None
    ) -> tuple[Reply, float]:
        """Return the reply of the next free worker, and the seconds of waiting for it.

        If the call is cancelled while it waits, it leaves the queue. If a worker has already started, that worker is
        killed and replaced.

        Args:
            task: The request.
            body: Its body.
            gone: Done once the client has gone. A waiting request then leaves the queue. A worker that has already
                started finishes the request, because starting a new worker takes longer than most answers.
            begun: Called when a worker has the task.

        Raises:
            RequestError: The worker's own error.
            UnavailableError: The worker ended during the task.
            WorkerFault: A fault of this program in the worker.
            ClientGoneError: The client has gone.
        """
        asked = time.perf_counter()
        queued = _Queued(task, body, asyncio.get_running_loop().create_future())
        self._queue.append(queued)
        self._serve()
        try:
            if not queued.running.done():
                await asyncio.wait((queued.running, gone), return_when=asyncio.FIRST_COMPLETED)
            if not queued.running.done():
                raise ClientGoneError
            worker, answer = queued.running.result()
            waited = time.perf_counter() - asked
            begun()
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if queued.running.done():
                self._kill_busy(*queued.running.result())
            raise
        finally:
            if not queued.running.done():
                self._queue.remove(queued)
        if not answer.done():
            self._limit(worker, answer)
            raise ClientGoneError
        try:
            outcome = worker.outcome(answer)
        except WorkerLostError:
            raise UnavailableError("worker_lost", "the process that worked on this request ended; try again") from None
        if isinstance(outcome, RequestError | WorkerFault):
            raise outcome
        return outcome, waited

    def _serve(self) -> None:
        """Hand the waiting requests to idle workers."""
        while self._queue and self._idle:
            worker, queued = self._idle.pop(), self._queue[0]
            # The worker may have been killed, or have ended, since it became idle.
            if worker not in self._ready_workers or (answer := worker.submit(queued.task, queued.body)) is None:
                continue
            self._queue.popleft()
            answer.add_done_callback(partial(self._note_answer, worker, queued.body))
            queued.running.set_result((worker, answer))

    def _note_answer(self, worker: Worker, body: SharedBody, answer: "asyncio.Future[bytes]") -> None:
        """Give a worker that has answered its next request at once, before the answer is sent."""
        if answer.cancelled() or answer.exception() is not None:
            self._ready_workers.discard(worker)
            return
        body.was_read = True
        self._idle.append(worker)
        self._serve()

    def _limit(self, worker: Worker, answer: "asyncio.Future[bytes]") -> None:
        """Let a worker finish a request whose client has gone, within the time limit of every request."""
        timer = asyncio.get_running_loop().call_later(self._settings.max_seconds, self._kill_busy, worker, answer)
        answer.add_done_callback(lambda _: timer.cancel())

    def _kill_busy(self, worker: Worker, answer: "asyncio.Future[bytes]") -> None:
        """Kill a worker that has not answered; one that has may already work on another request."""
        if not answer.done():
            self._ready_workers.discard(worker)
            self._fork_server.kill(worker)

    async def _supervise(self) -> None:
        """Keep one worker running: start it, wait for its end, start the next."""
        failures = 0
        while True:
            reason = await self._run_worker()
            if reason is None:
                failures = 0
                continue
            failures += 1
            if not self._first.done() and (failures == MOST_FAILED_STARTS or isinstance(reason, CannotServeError)):
                raise CannotServeError(str(reason))
            self._log("worker_failed", reason=str(reason))
            await asyncio.sleep(min(LONGEST_PAUSE, 0.1 * 2**failures))

    async def _run_worker(self) -> Exception | None:
        """Start a worker and wait for its end; return `None`, or the error if it never answered its warm-up image."""
        try:
            worker = await self._fork_server.start_worker()
            await worker.ready()
        except (CannotServeError, WorkerLostError) as reason:
            return reason
        self._ready_workers.add(worker)
        self._idle.append(worker)
        self._serve()
        self._log("worker_ready", worker=worker.process, seconds=round(time.perf_counter() - self._begun, 2))
        if not self._first.done():
            self._first.set_result(None)
        code = await worker.ended
        self._ready_workers.discard(worker)
        self._log("worker_ended", worker=worker.process, exit_code=code)
        return None
