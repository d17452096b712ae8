"""Records the images that an external evaluation has judged, so that an interrupted evaluation resumes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mammopipe.processing.datasets.definition import Table

NAME = ".judged.jsonl"


class Journal:
    """A file with one line per judged image; its first line identifies model and images."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Open the folder's journal; start a new one if it belongs to another model, other images or other code."""
        self.path = folder / NAME
        head = json.dumps({"fingerprint": fingerprint})
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self._finished = _parse(lines[1:]) if lines[:1] == [head] else {}
        folder.mkdir(parents=True, exist_ok=True)
        self._stream: IO[str] = self.path.open("w", encoding="utf-8")
        self._stream.write(f"{head}\n")
        for image_id, entry in self._finished.items():
            self._write(image_id, entry)
        self._stream.flush()

    def finished(self, image_id: str) -> Mapping[str, Any] | None:
        """Return the entry of an image; `None` if it is not judged yet."""
        return self._finished.get(image_id)

    def add(self, image_id: str, entry: Mapping[str, Any]) -> None:
        """Add the entry of an image."""
        self._write(image_id, entry)
        self._stream.flush()

    def close(self) -> None:
        """Close the file without removing it."""
        self._stream.close()

    def remove(self) -> None:
        """Remove the closed file, after the results are written."""
        self.path.unlink(missing_ok=True)

    def _write(self, image_id: str, entry: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps({"image_id": image_id, "entry": entry}) + "\n")


def _parse(lines: list[str]) -> dict[str, Mapping[str, Any]]:
    """Return the judged images; the last line may be incomplete if the evaluation was killed."""
    finished: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        try:
            read = json.loads(line)
            finished[str(read["image_id"])] = read["entry"]
        except (ValueError, KeyError, TypeError):
            break
    return finished


def fingerprint(description: Mapping[str, Any], table: Table, folder: Path, version: str) -> str:
    """Return a digest of the model, the version of the code, and the images with their sizes.

    Args:
        description: The model's verified `model.json`.
        table: The label table of the images.
        folder: Folder that the records' paths are relative to.
        version: The version of the package.
    """
    digest = hashlib.sha256(json.dumps([version, description], sort_keys=True).encode())
    for record in table.records:
        path = folder / record.path
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{record.image_id} {record.path} {size}\n".encode())
    return digest.hexdigest()
