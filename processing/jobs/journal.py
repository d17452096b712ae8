"""Records the finished images of a job, so that a restarted job resumes in its partly filled folder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from mammopipe.processing.datasets.manifest import ImageRecord, from_row, to_row
from mammopipe.processing.errors import ManifestError
from mammopipe.processing.files import sha256

NAME = ".journal.jsonl"


class Journal:
    """A file with one line per finished image; its first line identifies the job."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Open the folder's journal; start a new one if it belongs to another job, other settings or other input."""
        self.path = folder / NAME
        self.folder = folder
        head = json.dumps({"fingerprint": fingerprint})
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self._finished = _parse(lines[1:]) if lines[:1] == [head] else {}
        folder.mkdir(parents=True, exist_ok=True)
        self._stream: IO[str] = self.path.open("w", encoding="utf-8")
        self._stream.write(f"{head}\n")

    def finished(self, image_id: str) -> list[ImageRecord] | None:
        """Return the records made from an image; `None` if it is not finished or a file is incomplete."""
        records = self._finished.get(image_id)
        if records is None or not all(_whole(self.folder / record.path, record.sha256) for record in records):
            return None
        self.add(image_id, records)
        return records

    def add(self, image_id: str, records: Iterable[ImageRecord]) -> None:
        """Add the records made from an image; their files must be complete."""
        self._stream.write(json.dumps({"image_id": image_id, "rows": [to_row(record) for record in records]}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file without removing it; the stage removes it after writing its manifest."""
        self._stream.close()


def _parse(lines: Iterable[str]) -> dict[str, list[ImageRecord]]:
    """Return the finished images; the last line may be incomplete if the job was killed."""
    finished = {}
    for number, line in enumerate(lines, 2):
        try:
            entry = json.loads(line)
            finished[str(entry["image_id"])] = [from_row(row, f"{NAME}, line {number}") for row in entry["rows"]]
        except (ValueError, KeyError, TypeError, ManifestError):
            return finished
    return finished


def _whole(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest
