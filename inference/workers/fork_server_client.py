"""The server's side of the fork server: requests new workers, gives them tasks, and notes when they end."""

import asyncio
import os
import pickle
import socket
import subprocess
import sys
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

from mammopipe.inference.contract.errors import CannotServeError, RequestError, WorkerFault
from mammopipe.inference.contract.task import Reply, Task
from mammopipe.inference.settings import ServerSettings
from mammopipe.inference.workers.channel import Inbox, Order, Report, SharedBody, post

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables that numerical libraries read once, at import."""
HEAP = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20)}
"""Settings of glibc's heap. It keeps up to 128 MiB of freed memory for the next request, because touching fresh pages
costs more than the work on them. Blocks of 32 MiB (the largest allowed threshold) and above, which large images need,
return to the system at once."""
STANDARD_ERROR = 2
"""Target of the fork server's standard output, because the server's standard output holds only JSON lines."""
STOP_SECONDS = 5.0
"""Seconds to wait for killed workers to end."""


class WorkerLostError(Exception):
    """The worker process has ended."""


class Worker:
    """One worker process."""

    def __init__(self, process: int, channel: socket.socket) -> None:
        self.process = process
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The exit code; if negative, the signal that ended the worker."""
        self._channel = channel
        self._inbox = Inbox(channel)
        self._busy = False

    async def ready(self) -> None:
        """Wait until the worker has answered its warm-up image.

        Raises:
            CannotServeError: The worker cannot load the model.
            WorkerLostError: The worker ended before.
        """
        try:
            reason = await self._inbox.receive()
        except EOFError:
            code = await asyncio.shield(self.ended)
            raise WorkerLostError(f"a worker ended with exit code {code} before its warm-up image") from None
        if isinstance(reason, CannotServeError):
            raise reason

    def submit(self, task: Task, body: SharedBody) -> "asyncio.Future[bytes] | None":
        """Give the worker a task; return its future answer for `outcome`, or `None` if the worker has already ended."""
        try:
            packed = _packed(replace(task, request_id=""), frozenset(task.options.model_fields_set))
            post(self._channel, (task.request_id, packed, body.size), body.fileno())
        except OSError:
            return None
        self._busy = True
        answer = self._inbox.next()
        answer.add_done_callback(self._finish)
        return answer

    def outcome(self, answer: "asyncio.Future[bytes]") -> Reply | RequestError | WorkerFault:
        """Return the worker's result from a finished answer; raises `WorkerLostError` if the worker has ended."""
        try:
            found: Reply | RequestError | WorkerFault = pickle.loads(answer.result())
        except EOFError:
            raise WorkerLostError(f"worker {self.process} ended") from None
        return found

    def end(self, code: int) -> None:
        """Note that the process has ended."""
        if not self.ended.done():
            self.ended.set_result(code)
        self._close_at_end()

    def _finish(self, answer: "asyncio.Future[bytes]") -> None:
        self._busy = False
        self._close_at_end()

    def _close_at_end(self) -> None:
        # The answer of a busy worker may still be in the channel.
        if self.ended.done() and not self._busy:
            self._inbox.close()


@lru_cache(maxsize=16)
def _packed(task: Task, stated: frozenset[str]) -> bytes:
    """Return a pickled task that has no request id yet. Cached: such tasks repeat, and pickling takes 0.1 ms.

    Args:
        task: The task.
        stated: Names of the options that the request states; part of the cache's key, because an option that states its
            default value is equal to one that is not stated.
    """
    return pickle.dumps(task, pickle.HIGHEST_PROTOCOL)


class ForkServer:
    """The fork server process. It starts with the first worker, and again if it has ended."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._listener: asyncio.Task[None] | None = None
        self._pending: deque[tuple[asyncio.Future[Worker], socket.socket]] = deque()
        self._workers: dict[int, Worker] = {}

    async def start_worker(self) -> Worker:
        """Return a new worker that is not ready yet; raises `WorkerLostError` if the fork server ends before."""
        if self._channel is None:
            self._start()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        pending: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._pending.append((pending, ours))
        with theirs:
            self._order(Order.FORK, self._settings, theirs.fileno())
        return await pending

    def kill(self, worker: Worker) -> None:
        """End a worker at once."""
        self._order(Order.KILL, worker.process)

    async def stop(self) -> None:
        """End all workers and the fork server, and wait until they have ended."""
        workers = list(self._workers.values())
        for worker in workers:
            self.kill(worker)
        if workers:
            await asyncio.wait([worker.ended for worker in workers], timeout=STOP_SECONDS)
        if self._process is not None:
            self._process.kill()
        if self._listener is not None:
            await self._listener

    def _order(self, order: Order, value: object, descriptor: int | None = None) -> None:
        # A broken pipe means that the fork server and its workers have just ended; the listener is about to notice.
        with suppress(BrokenPipeError):
            if self._channel is not None:
                post(self._channel, (order, value), descriptor)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        threads = dict.fromkeys(THREAD_VARIABLES, str(self._settings.threads))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mammopipe.inference.workers.fork_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=STANDARD_ERROR,
                # The environment may set another heap, but not other threads: `threads` is a setting of the server.
                env={**HEAP, **os.environ, **threads},
            )
        self._channel = ours
        self._listener = asyncio.create_task(self._listen(ours, self._process))

    async def _listen(self, channel: socket.socket, process: "subprocess.Popen[bytes]") -> None:
        inbox = Inbox(channel)
        try:
            while True:
                self._handle(*await inbox.receive())
        except EOFError:
            self._end_all(process.wait())
            inbox.close()

    def _handle(self, report: Report, process: int, *rest: Any) -> None:
        if report is Report.FORKED:
            pending, channel = self._pending.popleft()
            self._workers[process] = worker = Worker(process, channel)
            if pending.cancelled():
                self.kill(worker)
            else:
                pending.set_result(worker)
        else:
            self._workers.pop(process).end(*rest)

    def _end_all(self, code: int) -> None:
        """End all workers: the fork server has ended, and the system has killed its children (`end_with_parent`)."""
        self._channel = None
        for worker in self._workers.values():
            worker.end(code)
        self._workers.clear()
        for pending, channel in self._pending:
            channel.close()
            if not pending.done():
                pending.set_exception(WorkerLostError(f"the fork server ended with exit code {code}"))
        self._pending.clear()
