"""Shards: the images of a folder in a few large files, for training that reads S3 as it goes (FastFile, FSx).

A shard is a plain, uncompressed tar archive (POSIX.1-1988 "ustar"), so any tar program reads it. An index beside the
shards states where each image lies, so an image is read by its name without a scan. The image files are the same bytes
as without shards, and so are their SHA-256 sums, the manifest and `stage.json`.
"""

import csv
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mammopipe.processing.errors import ManifestError
from mammopipe.processing.files import atomic_writer, write_csv

COLUMNS = ["name", "shard", "offset", "bytes"]
"""Columns of an index: name of the image file, name of its shard, position and length of its bytes in the shard."""
INDEX, SHARD = "index", "shard"


@dataclass(frozen=True, slots=True)
class Member:
    """Where the bytes of one image file lie."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes; raises `ManifestError` if the shard is shorter than the index says."""
        with self.shard.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(self.size)
        if len(data) != self.size:
            raise ManifestError(
                f"{self.shard}: {len(data)} bytes at offset {self.offset}, and the index beside it says {self.size}: "
                "the shard is not complete"
            )
        return data


def pack(folder: Path, names: Sequence[str], *, megabytes: float, host: str = "") -> list[Path]:
    """Move image files into shards beside them, in the given order, and write the index last.

    Args:
        folder: The folder of the files; the shards and the index are written there.
        names: Names of the files.
        megabytes: Size of a shard in MB (10^6 bytes); one larger image makes a larger shard.
        host: Name of this host, where several hosts write to one folder on S3; it becomes part of the files' names.

    Returns:
        The shards.
    """
    infix = f"-{host}" if host else ""
    for old in (*folder.glob(f"{SHARD}{infix}-[0-9]*.tar"), *folder.glob(f"{INDEX}{infix}.csv")):
        old.unlink()  # of an interrupted run
    rows: list[dict[str, str]] = []
    shards = []
    for number, part in enumerate(_parts(folder, names, megabytes * 1e6)):
        shards.append(folder / f"{SHARD}{infix}-{number:05d}.tar")
        rows += _write(shards[-1], part)
    # The index comes last, so that an interrupted run leaves none that names missing shards.
    if rows:
        write_csv(folder / f"{INDEX}{infix}.csv", COLUMNS, rows)
    for name in names:
        (folder / name).unlink()
    return shards


def _parts(folder: Path, names: Sequence[str], limit: float) -> Iterator[list[Path]]:
    """Yield consecutive files that fit into one shard together."""
    part: list[Path] = []
    size = 0
    for path in (folder / name for name in names):
        needed = 2 * tarfile.BLOCKSIZE + path.stat().st_size
        if part and size + needed > limit:
            yield part
            part, size = [], 0
        part.append(path)
        size += needed
    if part:
        yield part


def _write(shard: Path, files: Sequence[Path]) -> list[dict[str, str]]:
    """Write a shard with fixed times and owners, so that equal images give equal bytes; returns its rows of the index.

    A name above 100 bytes makes tarfile add a second header, so the offset is found from the end of the member.
    """
    rows = []
    with atomic_writer(shard) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in files:
            info = tarfile.TarInfo(path.name)
            info.size = path.stat().st_size
            with path.open("rb") as source:
                archive.addfile(info, source)
            blocks = -(-info.size // tarfile.BLOCKSIZE)
            offset = archive.offset - blocks * tarfile.BLOCKSIZE
            rows.append({"name": path.name, "shard": shard.name, "offset": str(offset), "bytes": str(info.size)})
    return rows


def members(folder: Path) -> Mapping[str, Member]:
    """Return where each image of a folder's shards lies, by file name; empty if the folder has no index.

    Raises:
        ManifestError: An index is damaged, names a file outside the folder, or two name the same image.
    """
    found: dict[str, Member] = {}
    for index in sorted(folder.glob(f"{INDEX}*.csv")):
        shards: dict[str, Path] = {}
        with index.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream)
            if rows.fieldnames != COLUMNS:
                raise ManifestError(f"{index}: columns {rows.fieldnames}; an index of shards has {', '.join(COLUMNS)}")
            for number, row in enumerate(rows, 2):
                name, member = _member(row, shards, index, number)
                if name in found:
                    raise ManifestError(f"{index}, line {number}: {name} is in two places of the shards")
                found[name] = member
    return found


def _member(row: Mapping[str, str | None], shards: dict[str, Path], index: Path, number: int) -> tuple[str, Member]:
    name, shard, offset, size = (row[column] or "" for column in COLUMNS)
    whole = offset.isdecimal() and size.isdecimal()
    if not whole or os.path.basename(shard) != shard or not shard.startswith(f"{SHARD}-") or not name:
        raise ManifestError(
            f"{index}, line {number}: {name!r} in {shard!r} at {offset!r}, {size!r} bytes; an index names a shard "
            "beside it, and states position and length in bytes"
        )
    # One path object for all members of a shard: large sets have millions of rows.
    return name, Member(shards.setdefault(shard, index.parent / shard), int(offset), int(size))
