"""Packs, unpacks and reads `model.tar.gz`; packing the same files always gives the same bytes."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import atomic_writer, extract
from mammopipe.training.model.description import read_description, verify_files

PACKED = ".tar.gz"
"""Suffix of a packed model's file name."""


def pack(directory: Path, tar_path: Path) -> None:
    """Write the directory's files as a `.tar.gz`; its bytes depend only on the files' names and contents."""
    # Level 0: weights hardly compress. Compression would save 7 % and take fifteen times as long.
    with (
        atomic_writer(tar_path) as target,
        gzip.GzipFile(fileobj=target, mode="wb", filename="", mtime=0, compresslevel=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(directory).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                archive.addfile(entry, content)


def unpack(tar_path: Path, directory: Path) -> None:
    """Unpack a `model.tar.gz` into a directory.

    Raises:
        ConfigError: The archive is damaged or would write outside the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(tar_path, "r:gz") as archive:
            extract(archive, directory)
            # tarfile stops at the archive's last block, but gzip checks length and CRC only at the end of the stream.
            while archive.fileobj is not None and archive.fileobj.read(1 << 20):
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise ConfigError(f"{tar_path}: cannot be unpacked: {error}") from None


@contextmanager
def unpacked(tar_path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a temporary folder with a packed model's files, all digests checked, and its `model.json`.

    Raises:
        ConfigError: The archive is damaged, or a file is missing, altered or of another schema.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        unpack(tar_path, folder)
        try:
            description = read_description(folder)
            verify_files(folder, description)
        except ConfigError as error:
            reason = str(error).replace(f"{folder}/", "")  # The temporary folder means nothing to the reader.
            raise ConfigError(f"{tar_path}: not a model of this version: {reason}") from None
        yield folder, description
