"""One thread that loads the model, warms it up and answers: a forward in a thread that did not warm up takes 1.7x.

OpenMP keeps one pool of threads for each thread that computes, so the model must never move between threads.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from inference.errors import UnavailableError

M = TypeVar("M")
T = TypeVar("T")
_Job = Callable[[], None]


class _Ticket:
    """How far a job has come."""

    begun = False
    """The inference thread works on it, or has."""
    overdue = False
    """It was given up while the thread worked on it."""


class Worker(Generic[M]):
    """The inference thread and its bounded queue. All methods belong to the event loop that made it."""

    def __init__(self, load: Callable[[], M], *, capacity: int) -> None:
        self._load = load
        self._capacity = capacity
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._model: M | None = None
        self._overdue = 0
        self.held = 0
        """Requests that have a place in the server, running or waiting."""
        # A daemon: an answer that hangs must not keep a stopped server alive.
        threading.Thread(target=self._serve, name="inference", daemon=True).start()

    async def start(self) -> None:
        """Load the model and warm it up on the inference thread; what that raises is raised here."""
        self._model = await self._submit(self._load)

    @property
    def healthy(self) -> bool:
        """Whether the model has answered its warm-up image and no answer that was given up still runs."""
        return self._model is not None and not self._overdue

    def reserve(self) -> None:
        """Take a place in the server or raise `UnavailableError`; `release` gives it back."""
        if self._model is None:
            raise UnavailableError("starting", "the model is still being loaded; try again")
        if self.held >= self._capacity:
            raise UnavailableError("busy", f"{self.held} requests are being answered, which is the limit; try again")
        self.held += 1

    def release(self) -> None:
        """Give a place back."""
        self.held -= 1

    async def run(self, job: Callable[[M], T]) -> tuple[T, float]:
        """Return what `job` makes of the model on the inference thread, and the seconds it waited for its turn.

        A cancelled wait drops a job that has not begun; one that has begun runs on, and until it ends the worker counts
        as not healthy.
        """
        model = self._model
        if model is None:
            raise UnavailableError("starting", "the model is still being loaded; try again")
        asked = time.perf_counter()

        def timed() -> tuple[T, float]:
            waited = time.perf_counter() - asked
            return job(model), waited

        return await self._submit(timed)

    async def _submit(self, job: Callable[[], T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        ticket = _Ticket()

        def execute() -> None:
            if future.cancelled():
                return
            ticket.begun = True
            try:
                outcome: tuple[Any, Exception | None] = job(), None
            except Exception as error:  # handed to the request that asked; the thread lives on
                outcome = None, error
            self._report(lambda: self._settle(future, ticket, *outcome))

        self._jobs.put(execute)
        try:
            return await future
        except asyncio.CancelledError:
            ticket.overdue = ticket.begun
            self._overdue += ticket.overdue
            raise

    def _report(self, callback: _Job) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop has closed: the server has stopped and nobody waits
            return

    def _settle(self, future: "asyncio.Future[T]", ticket: "_Ticket", value: T, error: Exception | None) -> None:
        self._overdue -= ticket.overdue
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    def _serve(self) -> None:
        while True:
            self._jobs.get()()
