"""The register of the evaluations that read a frozen test split.

Whoever evaluates on a test split many times, and keeps the run with the best figure, has chosen by the test. So each
evaluation appends one entry, and later ones state how many there are. Each entry is a file of its own with a unique
name, because S3 cannot append to an object. So concurrent runs never overwrite each other's entries.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_type_hints

from mammopipe.processing.datasets.manifest import ImageRecord, Split
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes, write_json

NAME = "test-reads"
"""Name of the register's folder below the storage prefix, and of the input and output of Evaluate."""
HEAD = "register.json"
"""The file that every register has, even before the first entry; a processing input must have at least one object."""
DATE = "%Y-%m-%dT%H:%M:%SZ"
"""Form of an entry's date, UTC, as `datetime.strptime` takes it."""
ABOUT = (
    "Each other file is one evaluation that read a frozen test split of this dataset. Nothing here is ever changed or "
    "removed."
)


@dataclass(frozen=True)
class Read:
    """One evaluation of a frozen test split."""

    date: str
    """In the form of `DATE`, such as 2026-11-29T17:05:01Z."""
    test_digest: str
    """Identifies the split (`frozen_test_digest`)."""
    images: int
    synthetic: bool
    protocol: str
    network: str
    """The selected network."""
    model: str
    """SHA-256 of the selected network's weights."""
    code: str
    """SHA-256 of the source code of `processing` and `training`."""
    macro_auc: float | None
    malignant_auc: float | None


def frozen_test_digest(records: Iterable[ImageRecord]) -> str:
    """Return the digest of the test split's images, 16 hexadecimal digits.

    It depends on the images' identity only. The same images at another size, with other classes, or in another run are
    the same test.
    """
    lines = sorted(
        f"{record.dataset}/{record.patient_id}/{record.image_id}/{record.synthetic}\n"
        for record in records
        if record.split is Split.TEST and not record.source_image_id
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def write_head(folder: Path) -> Path:
    """Write the file that opens a register, and return it; its content is always the same."""
    write_json(folder / HEAD, {"schema": 1, "about": ABOUT})
    return folder / HEAD


def append(folder: Path, read: Read) -> Path:
    """Write an entry as a new file of the folder, and return the file."""
    path = folder / f"{read.date.replace('-', '').replace(':', '')}-{secrets.token_hex(8)}.json"
    write_json(path, asdict(read))
    return path


def entries(folder: Path) -> list[Read]:
    """Return the entries of a register, the oldest first.

    Raises:
        ConfigError: The folder cannot be read, or a file is no entry. Skipping either would hide reads.
    """
    try:
        # `Path.glob` would take a folder without permission for an empty one.
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.name != HEAD)
    except OSError as error:
        raise ConfigError(f"{folder}: the register of test reads cannot be read: {error}") from None
    return sorted(map(_entry, paths), key=lambda read: read.date)


def _entry(path: Path) -> Read:
    hints = get_type_hints(Read)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or set(value) != set(hints):
            raise ValueError(f"its keys must be {', '.join(sorted(hints))}")
        for name, hint in hints.items():
            # JSON does not distinguish whole numbers from others, and in Python a boolean is an int.
            kind = hint if hint in (str, bool) else hint | int
            if not isinstance(value[name], kind) or isinstance(value[name], bool) is not (hint is bool):
                raise ValueError(f"{name}={value[name]!r} must be of type {getattr(hint, '__name__', hint)}")
        datetime.strptime(value["date"], DATE)
        return Read(**value)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no entry of the register of test reads: {error}") from None


def merge(source: Path, target: Path) -> int:
    """Copy the entries that `target` lacks; entries that it has stay as they are. Returns how many were copied."""
    new = [path for path in sorted(source.glob("*.json")) if not (target / path.name).exists()]
    for path in new:
        write_bytes(target / path.name, path.read_bytes())
    return sum(path.name != HEAD for path in new)


def account(earlier: Sequence[Read] | None, read: Read) -> dict[str, Any]:
    """Return what an evaluation states about the reads of its test split, as JSON values.

    Args:
        earlier: The entries before this one; `None` without a register.
        read: This evaluation.

    Returns:
        `register`: whether there is a register; `reads`: how often this split was read, this time included, as far as
        the register says; `other_splits`: reads of other test splits of the dataset, which may share images with this
        one; `earlier`: the entries of this split before this one, the oldest first. Nothing depends on the date of this
        evaluation, so the same inputs give the same bytes.
    """
    own = [one for one in earlier or () if one.test_digest == read.test_digest]
    # Real and synthetic images never share an image.
    alike = [one for one in earlier or () if one.synthetic == read.synthetic]
    return {
        "register": earlier is not None,
        "test_digest": read.test_digest,
        "reads": len(own) + 1,
        "other_splits": len(alike) - len(own),
        "earlier": [asdict(one) for one in own],
    }


def sentence(reads: Mapping[str, Any]) -> str:
    """Return the account in one sentence or two, for the report and the card."""
    if not reads["register"]:
        return "No register was given: how often this test split was read before is not known."
    count = reads["reads"]
    if count == 1:
        text = "This evaluation is the first of this test split in the register."
    else:
        text = (
            f"This test split was read {count} times, first on {reads['earlier'][0]['date'][:10]}; this evaluation is "
            f"number {count}. A figure that was chosen among several reads is too good."
        )
    if reads["other_splits"]:
        text += (
            f" Other test splits of the dataset were read {reads['other_splits']} times; they may share images with "
            "this one."
        )
    return text
