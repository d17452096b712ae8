"""Work on many images with one process per core, in bounded memory, losing only an image that kills its worker."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TextIO, TypeVar

import cv2
from tqdm import tqdm

from mammopipe.processing.container.job import cores
from mammopipe.processing.container.memory import keep_heap
from mammopipe.processing.errors import ImageError

Item = TypeVar("Item")
Result = TypeVar("Result")

QUEUED_PER_WORKER = 2
"""Items handed out ahead, so that no worker waits and the queue stays short however many images there are."""
SECONDS_BETWEEN_LINES = 10.0
"""How often progress is told where standard error is no terminal."""


@dataclass(frozen=True)
class Refused:
    """An item that could not be worked on, and why."""

    reason: str


class Progress:
    """How far the work is: a bar on a terminal, elsewhere a line every `SECONDS_BETWEEN_LINES` and one at the end."""

    def __init__(self, title: str, total: int, *, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting; `clock` gives seconds."""
        self.title, self.total, self.stream, self.clock = title, total, stream, clock
        self.done = self.refused = 0
        self.started = self.told = clock()
        self._bar = tqdm(total=total, desc=title, unit="image", file=stream, disable=not stream.isatty())

    def add(self, *, refused: bool) -> None:
        """Count one more item that was worked on, or refused."""
        self.done += 1
        self.refused += refused
        self._bar.set_postfix(refused=self.refused, refresh=False)
        self._bar.update()
        now = self.clock()
        if self._bar.disable and (self.done == self.total or now - self.told >= SECONDS_BETWEEN_LINES):
            self.told = now
            print(self.line(now - self.started), file=self.stream, flush=True)

    def line(self, seconds: float) -> str:
        """Return what there is to tell after so many seconds: how many of how many, speed, time left, refusals."""
        rate = self.done / seconds if seconds > 0 else 0.0
        left = f"{timedelta(seconds=round((self.total - self.done) / rate))} left" if rate else "time left unknown"
        return f"{self.title}: {self.done} of {self.total} images, {rate:.1f} images/s, {left}, {self.refused} refused"

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def map_images(
    function: Callable[[Item], Result], items: Iterable[Item], *, total: int, title: str, workers: int | None = None
) -> Iterator[tuple[Item, Result | Refused]]:
    """Yield each item with the result of `function`, or `Refused` where it raised an `ImageError` or killed its worker.

    The order is that of completion. `function` must be importable by name. Progress (images a second, time left,
    refused so far) goes to standard error.
    """
    workers = max(1, min(workers or cores(), total))
    progress = Progress(title, total, stream=sys.stderr)
    try:
        for item, result in _run(function, iter(items), workers):
            progress.add(refused=isinstance(result, Refused))
            yield item, result
    finally:
        progress.close()


def _run(
    function: Callable[[Item], Result], items: Iterator[Item], workers: int
) -> Iterator[tuple[Item, Result | Refused]]:
    while suspects := (yield from _until_a_worker_dies(function, items, workers)):
        # Nobody knows which of the items under way was the cause, so each is tried again with a worker of its own.
        for item in suspects:
            with _pool(1) as pool:
                yield item, _result(pool.submit(function, item))


def _until_a_worker_dies(
    function: Callable[[Item], Result], items: Iterator[Item], workers: int
) -> Generator[tuple[Item, Result | Refused], None, list[Item]]:
    pending: dict[Future[Result], Item] = {}
    with _pool(workers) as pool:
        while True:
            ahead = workers * QUEUED_PER_WORKER - len(pending)
            try:
                for item in islice(items, ahead):
                    suspect = [item]
                    pending[pool.submit(function, item)] = item
            except BrokenProcessPool:
                return suspect + (yield from _drain(pending))
            if not pending:
                return []
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                if isinstance(future.exception(), BrokenProcessPool):
                    return (yield from _drain(pending))
                item = pending.pop(future)
                yield item, _result(future)


def _drain(pending: dict[Future[Result], Item]) -> Generator[tuple[Item, Result | Refused], None, list[Item]]:
    """Yield what was finished before the pool broke and return the items that were not."""
    wait(pending)
    unfinished = []
    for future, item in pending.items():
        if isinstance(future.exception(), BrokenProcessPool):
            unfinished.append(item)
        else:
            yield item, _result(future)
    return unfinished


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except ImageError as error:
        return Refused(str(error))
    except BrokenProcessPool:
        return Refused("the worker process died on this image (out of memory, or a crash inside a decoder)")


def _pool(workers: int) -> ProcessPoolExecutor:
    # Started afresh instead of forked: a forked copy of a process with threads can wait for ever on their locks.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    keep_heap()
