"""Records the finished images of a job, so that a restarted job does not process them again."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from mammopipe.processing.datasets.manifest import ImageRecord, from_row, to_row
from mammopipe.processing.errors import ManifestError
from mammopipe.processing.files import sha256

NAME = ".journal.jsonl"


class Journal:
    """A file with one line of JSON per finished image; its first line identifies the job."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Open the journal; start a new one if it belongs to another job, other settings, other input or other code."""
        self.path = path
        head = json.dumps({"fingerprint": fingerprint})
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self._entries = _parse(lines[1:]) if lines[:1] == [head] else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: IO[str] = path.open("w", encoding="utf-8")
        self._stream.write(f"{head}\n")
        for image_id, entry in self._entries.items():
            self.add(image_id, entry)
        self._stream.flush()

    def finished(self, image_id: str) -> Any:
        """Return the entry of an image; `None` if it is not finished."""
        return self._entries.get(image_id)

    def add(self, image_id: str, entry: Any) -> None:
        """Add the entry of an image, a JSON value."""
        self._stream.write(json.dumps({"image_id": image_id, "entry": entry}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file without removing it."""
        self._stream.close()


def _parse(lines: Iterable[str]) -> dict[str, Any]:
    """Return the entries by image id; the last line may be incomplete if the process was killed."""
    entries: dict[str, Any] = {}
    for line in lines:
        try:
            read = json.loads(line)
            entries[str(read["image_id"])] = read["entry"]
        except (ValueError, KeyError, TypeError):
            break
    return entries


class RecordJournal(Journal):
    """A journal in a stage's folder, of the records made from each image; the stage removes the file at its end."""

    def finished(self, image_id: str) -> list[ImageRecord] | None:
        """Return the records made from an image; `None` if it is not finished or a file is incomplete."""
        try:
            records = [from_row(row, f"{NAME}, image {image_id}") for row in super().finished(image_id)]
        except (TypeError, ManifestError):  # no entry, or no rows
            return None
        folder = self.path.parent
        whole = all((folder / each.path).is_file() and sha256(folder / each.path) == each.sha256 for each in records)
        return records if whole else None

    def add_records(self, image_id: str, records: Iterable[ImageRecord]) -> None:
        """Add the records made from an image; their files must be complete."""
        self.add(image_id, [to_row(record) for record in records])
