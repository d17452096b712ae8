"""Processes many images with one process per core, in bounded memory; an image that kills its worker is refused."""

import multiprocessing
import os
import sys
import threading
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
"""Items per worker that are submitted: enough that no worker waits, few enough that memory stays bounded."""
SECONDS_BETWEEN_LINES = 10.0
"""Interval between lines of progress if standard error is not a terminal."""


@dataclass(frozen=True)
class Refused:
    """An item that could not be processed, with the reason."""

    reason: str


class ProgressDisplay:
    """Shows progress: a bar on a terminal, otherwise a line every `SECONDS_BETWEEN_LINES` and one at the end."""

    def __init__(self, title: str, total: int, *, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting; `clock` gives seconds."""
        self.title, self.total, self.stream, self.clock = title, total, stream, clock
        self.done = self.refused = 0
        self.started = self.reported = clock()
        self._bar = tqdm(total=total, desc=title, unit="image", file=stream, disable=not stream.isatty())

    def add(self, *, refused: bool) -> None:
        """Count one more item, processed or refused."""
        self.done += 1
        self.refused += refused
        self._bar.set_postfix(refused=self.refused, refresh=False)
        self._bar.update()
        now = self.clock()
        if self._bar.disable and (self.done == self.total or now - self.reported >= SECONDS_BETWEEN_LINES):
            self.reported = now
            print(self.line(now - self.started), file=self.stream, flush=True)

    def line(self, seconds: float) -> str:
        """Return the line after so many seconds: items done and in total, speed, time left, items refused."""
        rate = self.done / seconds if seconds > 0 else 0.0
        left = f"{timedelta(seconds=round((self.total - self.done) / rate))} left" if rate else "time left unknown"
        return f"{self.title}: {self.done} of {self.total} images, {rate:.1f} images/s, {left}, {self.refused} refused"

    def close(self) -> None:
        """Close the bar; it stays visible."""
        self._bar.close()


def map_images(
    function: Callable[[Item], Result], items: Iterable[Item], *, total: int, title: str, workers: int | None = None
) -> Iterator[tuple[Item, Result | Refused]]:
    """Yield each item with the result of `function`, or `Refused` if it raised `ImageError` or killed its worker.

    Items are yielded in order of completion. Progress is shown on standard error.

    Args:
        function: The function to call; it must be importable by name.
        items: Its arguments.
        total: The number of items.
        title: The name of the work in the progress.
        workers: The number of processes; by default one per core.
    """
    workers = max(1, min(workers or cores(), total))
    progress = ProgressDisplay(title, total, stream=sys.stderr)
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
        # Any of the items in progress may be the cause, so each is tried again in its own worker.
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
    """Yield the items that were finished before the pool broke, and return the others."""
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
    # A forked copy of a process with threads can wait forever for the locks of those threads. So a fork server without
    # threads makes the workers. It imports the modules once; spawned workers would each import them again.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in sys.modules if name.startswith("mammopipe.processing.")])
    return ProcessPoolExecutor(workers, context, initializer=_start_worker)


def _start_worker() -> None:
    cv2.setNumThreads(1)  # there is a process per core, and OpenCV's own threads would compete for the cores
    keep_heap()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Without this, a worker would wait for work forever after its parent process was killed.
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
