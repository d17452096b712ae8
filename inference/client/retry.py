"""Retries with full jitter, within one deadline for all attempts and the waits between them."""

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
LONGEST_SECONDS = 86_400.0
"""Longest deadline of a call, one day; SageMaker keeps an async request in its queue for at most 6 hours."""
GRACE_SECONDS = 0.2
"""Seconds after a deadline in which the call itself may still report why it failed."""


class Deadline:
    """A point in time on the monotonic clock, `seconds` after creation."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until the deadline; raises `DeadlineError` if it has passed."""
        self.check()
        return self._end - time.monotonic()

    def check(self) -> None:
        """Raise `DeadlineError` if the deadline has passed."""
        if self._end <= time.monotonic():
            raise DeadlineError("deadline", f"no answer within {self.seconds:g} seconds")

    def bound(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, or raise `DeadlineError` when the deadline passes.

        A socket timeout restarts with every byte, so it does not bound a call: a server that sends one byte a second
        would keep the client waiting for ever. `work` therefore runs in a thread. When time is up the thread is
        abandoned; it ends at its next check of the deadline.
        """
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:  # the caller's thread raises it, whatever it is
                outcome.set_exception(error)

        threading.Thread(target=run, name="mammopipe-client", daemon=True).start()
        try:
            return outcome.result(self.left + GRACE_SECONDS)
        except NotDoneError:
            raise DeadlineError("deadline", f"no answer within {self.seconds:g} seconds") from None

    def sleep(self, seconds: float) -> None:
        """Wait, or raise `DeadlineError` at once if the deadline would pass during the wait."""
        if seconds >= self.left:
            raise DeadlineError("deadline", f"no answer within {self.seconds:g} seconds")
        time.sleep(seconds)


@dataclass(frozen=True)
class Retry:
    """The retry policy: a call is retried if the endpoint is busy or throttles, or if the connection breaks."""

    attempts: int = 5
    """Number of calls, the first included."""
    backoff_seconds: float = 0.5
    """Upper bound of the first wait, doubled each time; the wait is a random part of it ("full jitter")."""
    longest_seconds: float = 20.0
    """Upper bound of any wait, unless the server asks for a longer one (Retry-After)."""

    def __post_init__(self) -> None:
        """Refuse fewer than one attempt, and a backoff outside 0 to `longest_seconds`."""
        if self.attempts < 1:
            raise ConfigError(f"attempts={self.attempts} must be at least 1")
        if not 0 <= self.backoff_seconds <= self.longest_seconds:
            raise ConfigError(f"backoff_seconds={self.backoff_seconds} must be 0 to {self.longest_seconds:g}")

    def run(self, call: Callable[[], T], deadline: Deadline) -> T:
        """Return the call's result; raise the last error if no attempt or no time is left.

        Source of the jitter: "Exponential Backoff And Jitter" (AWS Architecture Blog).
        """
        # The last attempt is made after the loop, so that its error reaches the caller as it is.
        for attempt in range(1, self.attempts):
            try:
                return call()
            except (EndpointBusyError, BrokenConnectionError) as error:
                wait = random.uniform(0, min(self.longest_seconds, self.backoff_seconds * 2 ** (attempt - 1)))
                try:
                    deadline.sleep(max(wait, error.retry_after))
                except DeadlineError as late:
                    raise DeadlineError(late.code, f"{late.message}; the last error: {error}") from None
        return call()
