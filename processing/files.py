"""Writing files so that a reader never sees half of one: to a temporary name beside the target, then renamed."""

import csv
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


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all, making the folder when it is missing."""
    with written_whole(path) as stream:
        stream.write(data)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Give a stream whose content becomes the file `path` at the end, and nothing where the body raises.

    The folder is made when it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON in its own key order; NaN and infinity are refused (`ValueError`)."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def write_csv(path: Path, columns: list[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write `rows` under a header of `columns`, lines ending in a line feed on every machine."""
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
    """Extract plain files and folders into `folder`, which nothing may leave; raises `tarfile.TarError` for the rest.

    Python has this as the filter `data` (PEP 706) from 3.11.4 on; Debian 12 brings 3.11.2.
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
