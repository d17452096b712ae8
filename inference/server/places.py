"""The places of requests in the server, and the minimum rate at which a request's body must arrive.

A client that stops in the middle of its body would keep its place until the time limit of the whole request. A body
therefore has a time limit of its own, which moves with the bytes that arrive. In a full server the body that is
furthest behind gives its place to the next request.

Sources: RFC 9110, 15.5.9 (408); Apache HTTP Server, mod_reqtimeout (`body=timeout,MinRate=rate`).
"""

import asyncio
from types import TracebackType

from mammopipe.inference.contract.errors import BodyTimeoutError, RequestError, UnavailableError

SLOWEST_RATE = 4096
"""Bytes per second at which a body must arrive. A slower one could not be a mammogram within a request's 60 seconds."""
EXACTNESS = 0.01
"""Share of the time limit by which it may end too early."""
GIVES_WAY_AFTER = 0.1
"""Share of the time limit that a body must be behind before another request may take its place."""


class Place:
    """The place of one request, and how far its body is behind the slowest rate allowed.

    Each second adds a second to the lag, and each byte that arrives removes 1 / `SLOWEST_RATE` seconds. The lag never
    falls below 0, so a body whose greatest part came at once may not stop for longer than any other.

    As a context manager it raises `RequestError` if the body falls behind by more than the limit, or gives way.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._clock = asyncio.get_running_loop().time
        self._timeout = asyncio.timeout(None)
        self._arriving = False
        self._behind, self._at = 0.0, 0.0
        self._refusal: RequestError | None = None

    async def __aenter__(self) -> "Place":
        await self._timeout.__aenter__()
        self._arriving, self._at = True, self._clock()
        self._timeout.reschedule(self._at + self._limit)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arriving = False
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._refusal or BodyTimeoutError(
                "body_timeout",
                f"the body must arrive with {SLOWEST_RATE} bytes a second; it is {self._limit:g} seconds behind",
            ) from None

    def received(self, count: int) -> None:
        """Count bytes of the body that have arrived, and move the time limit."""
        self._behind = max(0.0, self.behind - count / SLOWEST_RATE)
        self._at = self._clock()
        due, set_for = self._at + self._limit - self._behind, self._timeout.when()
        if set_for is not None and due - set_for < EXACTNESS * self._limit:
            return  # a body that arrives at once moves its time limit hundreds of times, by milliseconds
        # The bytes may arrive after the timeout has expired and before the task is cancelled: it cannot be moved then.
        if not self._timeout.expired():
            self._timeout.reschedule(due)

    @property
    def behind(self) -> float:
        """Return the seconds that the body is behind; 0 if none is arriving."""
        return self._behind + self._clock() - self._at if self._arriving else 0.0

    @property
    def stopped(self) -> bool:
        """Whether the body is so far behind that another request may take its place."""
        return self.behind > GIVES_WAY_AFTER * self._limit

    def give_way(self) -> None:
        """End the arrival of the body, because another request takes the place."""
        self._arriving = False
        self._refusal = UnavailableError(
            "busy", "the body had stopped arriving, and another request needed its place; try again"
        )
        if not self._timeout.expired():
            self._timeout.reschedule(self._clock())


class Places:
    """The places of all requests."""

    def __init__(self, count: int, body_seconds: float) -> None:
        self._count = count
        self._body_seconds = body_seconds
        self._taken: set[Place] = set()

    @property
    def idle(self) -> bool:
        """Whether the server has no request."""
        return not self._taken

    def take(self) -> Place:
        """Return a place for a request, free or of a request whose body has stopped; raises `UnavailableError`."""
        if len(self._taken) >= self._count:
            stopped = max(self._taken, key=lambda place: place.behind)
            if not stopped.stopped:
                rule = f"{len(self._taken)} requests are being answered, which is the limit; try again"
                raise UnavailableError("busy", rule)
            stopped.give_way()
            # Freed here, before the task of that request learns of it, so that the limit holds at every moment.
            self.free(stopped)
        place = Place(self._body_seconds)
        self._taken.add(place)
        return place

    def free(self, place: Place) -> None:
        """Free a place; one that has given way is free already."""
        self._taken.discard(place)
