import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from inference.errors import UnavailableError
from inference.worker import Worker


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    return run


@in_loop
async def test_everything_runs_in_one_thread_that_is_not_the_caller_s() -> None:
    worker = Worker(threading.get_ident, capacity=2)
    assert not worker.healthy
    await worker.start()
    found = [(await worker.run(lambda loaded: (loaded, threading.get_ident())))[0] for _ in range(3)]
    assert worker.healthy
    assert len({ident for pair in found for ident in pair}) == 1
    assert found[0][0] != threading.get_ident()


@in_loop
async def test_places_are_bounded_and_given_back() -> None:
    worker = Worker(lambda: 1, capacity=2)
    with pytest.raises(UnavailableError) as caught:
        worker.reserve()
    assert caught.value.code == "starting"
    await worker.start()
    worker.reserve()
    worker.reserve()
    with pytest.raises(UnavailableError) as caught:
        worker.reserve()
    assert (caught.value.code, worker.held) == ("busy", 2)
    worker.release()
    worker.reserve()


@in_loop
async def test_what_a_job_or_the_loading_raises_is_raised_and_the_worker_lives_on() -> None:
    def fail() -> int:
        raise LookupError("no model")

    with pytest.raises(LookupError):
        await Worker(fail, capacity=1).start()
    worker = Worker(lambda: 7, capacity=1)
    await worker.start()
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda model: model // 0)
    assert (await worker.run(lambda model: model + 1))[0] == 8


@in_loop
async def test_a_job_that_was_given_up_marks_the_worker_until_it_ends() -> None:
    worker = Worker(lambda: 1, capacity=2)
    await worker.start()
    begun, go = threading.Event(), threading.Event()

    def slow(model: int) -> None:
        begun.set()
        go.wait(30)

    dropped: list[int] = []
    running = asyncio.create_task(worker.run(slow))
    waiting = asyncio.create_task(worker.run(dropped.append))
    await asyncio.to_thread(begun.wait, 30)
    for task in (running, waiting):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not worker.healthy
    go.set()
    assert (await worker.run(lambda model: model))[0] == 1
    assert worker.healthy and dropped == []
