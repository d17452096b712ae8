"""The entries of the step cache on this disk: lists them, marks them as used, removes those unused for longest.

A run holds a shared lock on an entry while it copies it. An entry with a lock is never removed.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ENTRY = "entry.json"
"""The file that is written last, so that it makes an entry complete; a lock on it locks the entry."""


@dataclass(frozen=True)
class Entry:
    """One cached step."""

    folder: Path
    bytes: int
    used: float
    """Unix time of the entry's creation, or of its last use."""


def entries(root: Path) -> list[Entry]:
    """Return the complete entries of a cache, sorted by their last use, the oldest first."""
    found = []
    # Folders whose names begin with a dot are being written or removed.
    for file in root.glob(f"[!.]*/{ENTRY}"):
        try:
            size = sum(path.stat().st_size for path in file.parent.rglob("*") if path.is_file())
            found.append(Entry(file.parent, size, file.parent.stat().st_mtime))
        except FileNotFoundError:  # another run removed it meanwhile
            continue
    return sorted(found, key=lambda entry: (entry.used, entry.folder.name))


@contextmanager
def in_use(folder: Path) -> Iterator[bool]:
    """Yield whether an entry exists; marks it as used now, and prevents its removal until the block ends."""
    try:
        stream = (folder / ENTRY).open("rb")
    except FileNotFoundError:
        yield False
        return
    with stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        if not (folder / ENTRY).exists():  # removed between opening and locking
            yield False
            return
        os.utime(folder)
        yield True


def remove(folder: Path) -> bool:
    """Remove an entry that no run uses; return whether it was removed."""
    try:
        stream = (folder / ENTRY).open("rb")
    except FileNotFoundError:
        return False
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Renamed first, so that an interrupted removal leaves no incomplete entry under the entry's name.
        gone = folder.with_name(f".{folder.name}-{os.getpid()}-removed")
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    return True


def limit(root: Path, most_bytes: float, *, dry_run: bool = False) -> list[Entry]:
    """Remove the entries that were unused for longest until the others together have at most `most_bytes`.

    Args:
        root: The folder of the cache.
        most_bytes: Maximum size of the cache, in bytes.
        dry_run: Whether to remove nothing, and only return what would be removed.

    Returns:
        The removed entries. Entries in use stay, even if the cache is then larger.
    """
    found = entries(root)
    size, removed = sum(entry.bytes for entry in found), []
    for entry in found:
        if size <= most_bytes:
            break
        if dry_run or remove(entry.folder):
            removed.append(entry)
            size -= entry.bytes
    return removed
