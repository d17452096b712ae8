"""Ending well when SageMaker asks: SIGTERM is noted, and obeyed between two steps, never in the middle of a file."""

import signal
from types import FrameType

SIGTERM_EXIT = 128 + signal.SIGTERM


class StopRequest:
    """Whether SIGTERM came; SageMaker sends it 120 seconds before it kills, and when a spot instance is taken away."""

    def __init__(self) -> None:
        self.received = False

    def listen(self) -> "StopRequest":
        """Note SIGTERM from now on instead of dying of it."""
        signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def check(self) -> None:
        """Raise `SystemExit` when SIGTERM came: the job ends here and resumes from its last checkpoint."""
        if self.received:
            print("stopped by SIGTERM; the last epoch's checkpoint is whole", flush=True)
            raise SystemExit(SIGTERM_EXIT)
