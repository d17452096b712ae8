"""Writes files atomically: under a temporary name beside the target, then renamed; reads JSON objects."""

import csv
import errno
import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mammopipe.processing.errors import ConfigError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the disk, not of this program: full, over quota, read-only."""


def disk_fault(error: BaseException | None) -> str:
    """Return what is wrong with the disk, as `No space left on device`; empty if an error has another cause.

    Libraries that write files with their own code raise errors without an error number. So the text of each error is
    searched for the system's message.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK:
            return os.strerror(error.errno)
        found = [number for number in DISK if os.strerror(number) in str(error)]
        if found:
            return os.strerror(found[0])
        error = error.__cause__ or error.__context__
    return ""


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, completely or not at all; a missing folder is created."""
    with atomic_writer(path) as stream:
        stream.write(data)


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream whose content becomes the file `path` at the end, unless the body raises.

    A missing folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:  # names the file, not the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(name, path)
    except (IsADirectoryError, NotADirectoryError) as error:
        Path(name).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON with its own order of keys; raises `ValueError` for NaN and infinity."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raises `ConfigError` if the file cannot be read or holds another value."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a JSON object")
    return value


def write_csv(path: Path, columns: list[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write `rows` below a header of `columns`; lines end with a line feed on every machine."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Extract plain files and folders into `folder`; raises `tarfile.TarError` for others and for paths outside it.

    Python has this as the filter `data` (PEP 706) since 3.11.4, but Debian 12 has 3.11.2.
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
        return
    for member in archive.getmembers():
        inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
        if not inside or not (member.isfile() or member.isdir()):
            raise tarfile.ExtractError(f"{member.name!r}: only plain files and folders inside the archive's own folder")
        member.mode = 0o755 if member.isdir() else 0o644
    archive.extractall(folder)
