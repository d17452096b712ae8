"""The server's side of the fork server: it has workers forked, hands them tasks, and knows when they end."""

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from contextlib import suppress
from typing import Any

from mammopipe.inference.contract.errors import CannotServeError, RequestError, WorkerFault
from mammopipe.inference.contract.task import Reply, Task
from mammopipe.inference.settings import ServerSettings
from mammopipe.inference.workers.channel import Body, Order, Report, post, receive_later

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What numerical libraries read, once, when they are imported."""
HEAP = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20)}
"""glibc keeps freed memory for the next request up to 128 MiB, since touching fresh pages costs more than the work on
them; blocks of 32 MiB (the most it takes) and above, those of large films, go back to the system at once."""
STANDARD_ERROR = 2
"""Where the fork server's standard output goes: the server's own is JSON lines and nothing else."""
LAST_SECONDS = 5.0
"""For killed workers to be gone."""


class WorkerLostError(Exception):
    """The worker process has ended."""


class Worker:
    """One worker process."""

    def __init__(self, process: int, channel: socket.socket) -> None:
        self.process = process
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The exit code; negative: the signal that ended it."""
        self._channel = channel
        self._busy = False

    async def ready(self) -> None:
        """Return when the worker has answered its warm-up image; raises `CannotServeError`, or `WorkerLostError`."""
        try:
            reason = await receive_later(self._channel)
        except EOFError:
            code = await asyncio.shield(self.ended)
            raise WorkerLostError(f"a worker ended with exit code {code} before its warm-up image") from None
        if isinstance(reason, CannotServeError):
            raise reason

    def hand(self, task: Task, body: Body) -> bool:
        """Give the worker a task; `False` when it has ended before."""
        try:
            post(self._channel, task, body.fileno())
        except OSError:
            return False
        self._busy = True
        return True

    async def outcome(self) -> Reply | RequestError | WorkerFault:
        """Return what the worker makes of its task; raises `WorkerLostError` where it ends over it."""
        try:
            found: Reply | RequestError | WorkerFault = await receive_later(self._channel)
        except EOFError:
            raise WorkerLostError(f"worker {self.process} ended") from None
        finally:
            self._busy = False
            self._close_at_end()
        return found

    def end(self, code: int) -> None:
        """Note that the process has ended."""
        if not self.ended.done():
            self.ended.set_result(code)
        self._close_at_end()

    def _close_at_end(self) -> None:
        # Not under a coroutine that waits on it: it would never wake up.
        if self.ended.done() and not self._busy:
            self._channel.close()


class ForkServer:
    """The fork server process, started when the first worker is wanted and again should it end."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._listener: asyncio.Task[None] | None = None
        self._pending: deque[tuple[asyncio.Future[Worker], socket.socket]] = deque()
        self._workers: dict[int, Worker] = {}

    async def start_worker(self) -> Worker:
        """Return a new worker, which is not ready yet; `WorkerLostError` where the fork server ends before."""
        if self._channel is None:
            self._start()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        pending: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._pending.append((pending, ours))
        with theirs:
            self._tell(Order.FORK, self._settings, theirs.fileno())
        return await pending

    def kill(self, worker: Worker) -> None:
        """End a worker at once."""
        self._tell(Order.KILL, worker.process)

    async def stop(self) -> None:
        """End all workers and the fork server, and return when they are gone."""
        workers = list(self._workers.values())
        for worker in workers:
            self.kill(worker)
        if workers:
            await asyncio.wait([worker.ended for worker in workers], timeout=LAST_SECONDS)
        if self._process is not None:
            self._process.kill()
        if self._listener is not None:
            await self._listener

    def _tell(self, order: Order, value: object, descriptor: int | None = None) -> None:
        # A fork server that has just ended has taken its workers along, and the listener is about to learn of it.
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
                env={**HEAP, **os.environ, **threads},
            )
        self._channel = ours
        self._listener = asyncio.create_task(self._listen(ours, self._process))

    async def _listen(self, channel: socket.socket, process: "subprocess.Popen[bytes]") -> None:
        try:
            while True:
                self._note(*await receive_later(channel))
        except EOFError:
            self._forget(process.wait())
            channel.close()

    def _note(self, report: Report, process: int, *rest: Any) -> None:
        if report is Report.FORKED:
            pending, channel = self._pending.popleft()
            self._workers[process] = worker = Worker(process, channel)
            if pending.cancelled():
                self.kill(worker)
            else:
                pending.set_result(worker)
        else:
            self._workers.pop(process).end(*rest)

    def _forget(self, code: int) -> None:
        """Note that the fork server has ended, and that the system has killed its children with it."""
        self._channel = None
        for worker in self._workers.values():
            worker.end(code)
        self._workers.clear()
        for pending, channel in self._pending:
            channel.close()
            if not pending.done():
                pending.set_exception(WorkerLostError(f"the fork server ended with exit code {code}"))
        self._pending.clear()
