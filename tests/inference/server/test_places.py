"""Bodies that stop or arrive slowly: their time limit, and which of them gives its place to another request."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

import pytest

from mammopipe.inference.contract.errors import BodyTimeoutError, RequestError, UnavailableError
from mammopipe.inference.server.places import SLOWEST_RATE, Place, Places

LIMIT = 10.0


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing else is left to do."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        if not self._ready and timers:  # type: ignore[attr-defined]
            self._now = max(self._now, min(timers))
        super()._run_once()  # type: ignore[misc]


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(main())


async def arrive(place: Place, pieces: list[tuple[float, int]]) -> None:
    """Receive a body of pieces, each with the seconds before it and its bytes."""
    async with place:
        for seconds, count in pieces:
            await asyncio.sleep(seconds)
            place.received(count)


@pytest.mark.parametrize(
    ("pieces", "ends_after"),
    [
        pytest.param([(9.9, 1)] * 3, 10.0, id="drips"),
        pytest.param([(1000, 1)], 10.0, id="nothing arrives"),
        pytest.param([(0, 10**8), (1000, 1)], 10.0, id="stops after the greatest part"),
        pytest.param([(1, SLOWEST_RATE // 2)] * 1000, 19.0, id="half the slowest rate"),
        pytest.param([(1, SLOWEST_RATE)] * 1000, None, id="the slowest rate"),
        pytest.param([(9.9, 100 * SLOWEST_RATE)] * 10, None, id="in bursts"),
        pytest.param([(0.5, 1)] * 15 + [(0, 1000)], None, id="small and slow"),
        pytest.param([], None, id="empty"),
    ],
)
def test_a_body_must_keep_up_with_the_slowest_rate(pieces: list[tuple[float, int]], ends_after: float | None) -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        if ends_after is None:
            await arrive(Place(LIMIT), pieces)
            return
        with pytest.raises(BodyTimeoutError, match=r"4096 bytes a second; it is 10 seconds behind"):
            await arrive(Place(LIMIT), pieces)
        assert clock() == pytest.approx(ends_after, abs=0.01)

    run(main)


def test_the_limit_of_the_whole_request_is_not_taken_for_the_body_s() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await arrive(Place(LIMIT), [(1000, 1)])

    run(main)


def test_in_a_full_server_the_body_that_stopped_first_gives_its_place() -> None:
    async def main() -> None:
        places, refused = Places(3, LIMIT), list[tuple[str, RequestError]]()

        async def request(name: str, pieces: list[tuple[float, int]]) -> None:
            place = places.take()
            try:
                await arrive(place, pieces)
                await asyncio.sleep(100)  # at work
            except RequestError as error:
                refused.append((name, error))
            finally:
                places.free(place)

        async with asyncio.TaskGroup() as group:
            group.create_task(request("at work", [(0, 10)]))
            group.create_task(request("stopped late", [(0.7, 9_000_000), (1000, 1)]))
            group.create_task(request("stopped first", [(0.2, 10), (1000, 1)]))
            await asyncio.sleep(0.9)
            with pytest.raises(UnavailableError, match="3 requests are being answered"):
                places.take()
            await asyncio.sleep(0.2)
            new = places.take()
            with pytest.raises(UnavailableError, match="3 requests are being answered"):
                places.take()
            await asyncio.sleep(0.1)
            assert [(name, error.code, error.status) for name, error in refused] == [("stopped first", "busy", 503)]
            await asyncio.sleep(0.7)
            newer = places.take()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [name for name, _ in refused] == ["stopped first", "stopped late"]
            places.free(new)
            places.free(newer)
            assert not places.idle
        assert places.idle

    run(main)


def test_a_body_whose_time_is_just_over_can_be_displaced() -> None:
    async def main() -> None:
        places = Places(1, LIMIT)
        place = places.take()
        arriving = asyncio.create_task(arrive(place, [(1000, 1)]))
        loop = asyncio.get_running_loop()
        taken = loop.create_future()
        loop.call_at(LIMIT, lambda: loop.call_soon(lambda: taken.set_result(places.take())))
        await asyncio.wait_for(taken, 100)
        with pytest.raises(RequestError):
            await arriving

    run(main)


def test_clients_that_stop_in_the_middle_of_a_body_keep_nobody_out(
    own_server: Callable[..., Any], phantom: Any, wait_for: Callable[..., Any]
) -> None:
    server = own_server(MAMMOPIPE_MAX_WAITING="4", MAMMOPIPE_BODY_SECONDS="3")
    with ExitStack() as stack:
        stopped = [stack.enter_context(server.unfinished(phantom.pgm)) for _ in range(4)]
        wait_for(lambda: server.invoke(phantom.pgm).status == 503)
        wait_for(lambda: server.invoke(phantom.pgm).status == 200)
        answers = [finish(early=True) for finish in stopped]
    assert sorted({reply.status for reply in answers}) == [408, 503]
    assert {reply.code for reply in answers} == {"body_timeout", "busy"}
    busy = next(reply for reply in answers if reply.status == 503)
    assert {name.lower(): value for name, value in busy.headers.items()}["retry-after"] == "1"
    codes = [line["code"] for line in server.lines() if line["event"] == "request"]
    assert codes.count("body_timeout") + codes.count("busy") >= 5
