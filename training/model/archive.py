"""`model.tar.gz`: packing and unpacking a model directory, the same bytes for the same files."""

import gzip
import tarfile
import zlib
from pathlib import Path

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import extract, written_whole


def pack(directory: Path, tar_path: Path) -> None:
    """Write the directory's files as a `.tar.gz` whose bytes depend on nothing but names and contents."""
    # Level 0: compression would save 7 % of the weights, which are random to it, and take fifteen times as long.
    with (
        written_whole(tar_path) as target,
        gzip.GzipFile(fileobj=target, mode="wb", filename="", mtime=0, compresslevel=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(directory).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                archive.addfile(entry, content)


def unpack(tar_path: Path, directory: Path) -> None:
    """Unpack a `model.tar.gz`; raises `ConfigError` for one that is damaged or would write outside the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(tar_path, "r:gz") as archive:
            extract(archive, directory)
            # tarfile stops at the archive's last block; gzip checks length and CRC at the end of the stream only.
            while archive.fileobj is not None and archive.fileobj.read(1 << 20):
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise ConfigError(f"{tar_path}: cannot be unpacked: {error}") from None
