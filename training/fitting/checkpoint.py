"""Writes and reads checkpoints, and handles SIGTERM.

A checkpoint is written atomically and bound to one run by the run's digest. SIGTERM takes effect between two steps,
never while a file is written.
"""

import hashlib
import io
import json
import os
import pickle
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Any, cast

import torch

from mammopipe import processing, training
from mammopipe.processing.datasets.manifest import ImageRecord, to_row

FILE = "checkpoint.pt"
_SUM_BYTES = 32

Saved = dict[str, Any]
"""The state that the training loop resumes from; it always has `epoch` and `digest`."""


class CheckpointStore:
    """The checkpoint of a run, in a folder that SageMaker synchronises with S3."""

    def __init__(self, folder: Path, digest: str) -> None:
        """Create the store.

        Args:
            folder: Folder of the checkpoint.
            digest: Digest of the run (`run_digest`). The checkpoint of another run is never loaded.
        """
        self.path, self.digest = folder / FILE, digest

    def save(self, saved: Saved) -> None:
        """Replace the checkpoint; if the process is killed meanwhile, the previous checkpoint remains."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, because `os.replace` is atomic only within one file system.
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{FILE}.")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                summed = _Summed(stream)
                torch.save({**saved, "digest": self.digest}, cast(IO[bytes], summed))
                stream.write(summed.digest())
            os.replace(name, self.path)
        except BaseException:  # SystemExit and KeyboardInterrupt must not leave a partial file either.
            Path(name).unlink(missing_ok=True)
            raise

    def load(self) -> Saved | None:
        """Return this run's checkpoint, or `None`.

        A checkpoint that is damaged or belongs to another run is moved aside, and a line is printed.
        """
        for left_over in self.path.parent.glob(f".{FILE}.*"):
            left_over.unlink()
        if not self.path.is_file():
            return None
        saved = _read(self.path.read_bytes())
        if saved is not None and saved["digest"] == self.digest:
            return saved
        reason = "is damaged" if saved is None else "belongs to other data, settings or code"
        aside = self.path.with_suffix(".ignored")
        self.path.replace(aside)
        print(f"checkpoint {self.path.name} {reason}; moved to {aside.name}, training starts afresh", flush=True)
        return None


class _Summed:
    """A file that computes its SHA-256 while it is written.

    AlexNet's checkpoint has 900 MB, which is too much to hold in memory a second time. The sum is therefore known only
    at the end, and is the last part of the file.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.sum = stream, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()

    def digest(self) -> bytes:
        return self.sum.digest()


def _read(content: bytes) -> Saved | None:
    payload = memoryview(content)[:-_SUM_BYTES]
    if hashlib.sha256(payload).digest() != content[-_SUM_BYTES:]:
        return None
    try:
        # weights_only, because the folder comes from S3 and nothing in it may be executed.
        saved = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return saved if isinstance(saved, dict) and {"epoch", "digest"} <= set(saved) else None


def code_digest() -> str:
    """Return the SHA-256 of the source code of `processing` and `training`, because changed code may change a model."""
    digest = hashlib.sha256()
    for package in (processing, training):
        folder = Path(str(package.__file__)).parent
        # Sorted, because file systems list files in different orders.
        for path in sorted(folder.rglob("*.py")):
            name = f"{package.__name__}/{path.relative_to(folder).as_posix()}"
            digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def data_digest(records: list[ImageRecord], files: Mapping[str, str]) -> str:
    """Return the SHA-256 over the manifest rows and, for each split, the SHA-256 of its files."""
    rows = [to_row(record) for record in sorted(records, key=lambda record: record.image_id)]
    return hashlib.sha256(json.dumps([rows, dict(files)], sort_keys=True).encode()).hexdigest()


def run_digest(**parts: Any) -> str:
    """Return the SHA-256 over everything that determines the result of a run; values must be JSON."""
    return hashlib.sha256(json.dumps({**parts, "torch": str(torch.__version__)}, sort_keys=True).encode()).hexdigest()


SIGTERM_EXIT = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM ended, as a shell reports it."""


class StopRequest:
    """Records whether SIGTERM was received.

    SageMaker sends SIGTERM 120 seconds before it kills a job, also when it reclaims a spot instance. The handler only
    records the signal, so that no step and no file is cut short; the training loop calls `check` between steps.
    """

    def __init__(self) -> None:
        self.received = False

    def listen(self) -> "StopRequest":
        """Record SIGTERM from now on instead of ending the process."""
        signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def check(self) -> None:
        """Raise `SystemExit` if SIGTERM was received; the job then writes a checkpoint, ends, and can be resumed."""
        if self.received:
            print("stopped by SIGTERM; the next start resumes from this step", flush=True)
            raise SystemExit(SIGTERM_EXIT)
