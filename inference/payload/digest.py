"""SHA-256 of a request's body, computed beside the forward pass."""

import hashlib
from concurrent.futures import Executor, Future


class Digest:
    """SHA-256 of some data, in hexadecimal."""

    def __init__(self, data: bytes, executor: Executor) -> None:
        """Compute nothing yet."""
        self._data, self._executor = data, executor
        self._found: Future[str] | None = None

    def start(self) -> None:
        """Begin to compute in the executor.

        Meant for the moment before a long computation that does not hold the interpreter's lock. At any other moment
        the two threads would wait for each other's lock, which takes longer than the digest itself.
        """
        if self._found is None:
            self._found = self._executor.submit(_sha256, self._data)

    def result(self) -> str:
        """Return the digest."""
        return _sha256(self._data) if self._found is None else self._found.result()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
