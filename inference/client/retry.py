"""How long the client tries: attempts with full jitter, all of them and the waits between within one deadline."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDoneError
from dataclasses import dataclass
from typing import TypeVar

from mammopipe.inference.client.errors import BrokenConnectionError, DeadlineError, EndpointBusyError
from mammopipe.processing.errors import ConfigError

T = TypeVar("T")
GRACE_SECONDS = 0.2
"""How long past a deadline the call itself may take to say why it failed."""


class Deadline:
    """A moment in time, by the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; `DeadlineError` when it has passed."""
        self.check()
        return self._end - time.monotonic()

    def check(self) -> None:
        """Raise `DeadlineError` when the deadline has passed."""
        if self._end <= time.monotonic():
            raise DeadlineError("deadline", f"no answer within {self.seconds:g} seconds")

    def bound(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, or raise `DeadlineError` once the deadline has passed, whatever it waits for.

        A socket's timeout starts anew with every byte, so that it bounds no call: a server that sends one byte a second
        would be listened to for ever. `work` therefore runs in a thread, which is left to itself when time is up; what
        it does next that looks at the deadline ends it.
        """
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:  # whatever it is, the caller's thread raises it
                outcome.set_exception(error)

        threading.Thread(target=run, name="mammopipe-client", daemon=True).start()
        try:
            return outcome.result(self.left + GRACE_SECONDS)
        except NotDoneError:
            raise DeadlineError("deadline", f"no answer within {self.seconds:g} seconds") from None

    def sleep(self, seconds: float) -> None:
        """Wait, or raise `DeadlineError` at once where the deadline would pass meanwhile."""
        if seconds >= self.left:
            raise DeadlineError("deadline", f"no answer within {self.seconds:g} seconds")
        time.sleep(seconds)


@dataclass(frozen=True)
class Retry:
    """Which calls are tried again: where the endpoint is busy or throttles, or the connection breaks."""

    attempts: int = 5
    """Calls in all."""
    backoff_seconds: float = 0.5
    """Upper bound of the first wait, doubled each time; a random part of it is waited ("full jitter")."""
    longest_seconds: float = 20.0
    """Upper bound of any wait."""

    def __post_init__(self) -> None:
        """Refuse a client that would never call, and waits that no clock can keep."""
        if self.attempts < 1:
            raise ConfigError(f"attempts={self.attempts} must be at least 1")
        if not 0 <= self.backoff_seconds <= self.longest_seconds:
            raise ConfigError(f"backoff_seconds={self.backoff_seconds} must be 0 to {self.longest_seconds:g}")

    def run(self, call: Callable[[], T], deadline: Deadline) -> T:
        """Return the call's result; the last error is raised where no attempt or no time is left.

        Source of the jitter: "Exponential Backoff And Jitter" (AWS Architecture Blog).
        """
        for attempt in range(1, self.attempts):
            try:
                return call()
            except (EndpointBusyError, BrokenConnectionError) as error:
                wait = random.uniform(0, min(self.longest_seconds, self.backoff_seconds * 2 ** (attempt - 1)))
                try:
                    deadline.sleep(wait)
                except DeadlineError as late:
                    raise DeadlineError(late.code, f"{late.message}; the last error: {error}") from None
        return call()
