"""S3 as a folder on this disk, for runs of the process backend.

Files are transferred by hard link, or by copy between disks: a run on 50 GB of images loads none of them into memory,
and needs no second 50 GB on the source's disk. Linked files are never modified: jobs only read their inputs and write
new files.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mammopipe.pipelines.data.s3 import S3Object, Storage
from mammopipe.processing.container.s3_uri import S3Uri
from mammopipe.processing.errors import StorageError
from mammopipe.processing.files import sha256

CONTENT_BYTES = 2**21
"""The largest file whose content enters a digest; a larger one is identified by size and time, since reading hundreds
of gigabytes would take an hour."""


@dataclass
class FolderStorage(Storage):
    """Objects as files below `root/BUCKET`; the client of `Storage` is used only for the bodies of async requests."""

    root: Path = Path()

    @property
    def endpoint(self) -> str:
        """The folder of the objects."""
        return str(self.root)

    def ensure_bucket(self, bucket: str) -> None:
        """Create the bucket if it is missing, in the folder and through the client."""
        super().ensure_bucket(bucket)
        (self.root / bucket).mkdir(parents=True, exist_ok=True)

    def list(self, uri: str) -> list[S3Object]:
        """Return the objects whose key starts with that of `uri`, sorted by key."""
        place = S3Uri.parse(uri)
        bucket = self._bucket(place)
        # All keys with this prefix are below its last complete folder.
        start = bucket / place.key.rpartition("/")[0]
        found = []
        for path in start.rglob("*") if start.is_dir() else ():
            key = path.relative_to(bucket).as_posix()
            if key.startswith(place.key) and path.is_file():
                stat = path.stat()
                found.append(S3Object(key, stat.st_size, f"{stat.st_size:x}-{stat.st_mtime_ns:x}"))
        return sorted(found, key=lambda item: item.key)

    def digest(self, uri: str) -> str:
        """Return a digest of the objects under a prefix: content of small files, size and time of large ones."""
        place, digest = S3Uri.parse(uri), hashlib.sha256()
        for item in self.list(uri):
            path = self._file(S3Uri(place.bucket, item.key))
            identity = sha256(path) if item.size <= CONTENT_BYTES else item.etag
            digest.update(f"{place.name_below(item.key)} {item.size} {identity}\n".encode())
        return digest.hexdigest()[:16]

    def holds(self, place: S3Uri, path: Path) -> bool:
        """Return whether an object has this file's content."""
        return sha256(self._file(place)) == sha256(path)

    def read(self, uri: str) -> bytes:
        """Return the bytes of one object."""
        return self._file(S3Uri.parse(uri)).read_bytes()

    def put(self, path: Path, uri: str) -> None:
        """Store one file."""
        place = S3Uri.parse(uri)
        _link(path.resolve(), self._bucket(place) / self._inside(place))

    def fetch(self, place: S3Uri, item: S3Object, target: Path) -> None:
        """Write one object to the file `target`."""
        _link(self._file(S3Uri(place.bucket, item.key)), target)

    def mount(self, uri: str, folder: Path, objects: Sequence[S3Object]) -> None:
        """Show objects under a prefix as symbolic links to the stored files; nothing is read or copied."""
        place = S3Uri.parse(uri)
        for item in objects:
            target = folder / place.name_below(item.key)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(self._file(S3Uri(place.bucket, item.key)).resolve())

    def _bucket(self, place: S3Uri) -> Path:
        folder = self.root / place.bucket
        if not folder.is_dir():
            raise StorageError(f"{place}: bucket does not exist (S3 at {self.endpoint})")
        return folder

    def _inside(self, place: S3Uri) -> PurePosixPath:
        key = PurePosixPath(place.key)
        if key.is_absolute() or ".." in key.parts or not key.parts:
            raise StorageError(f"{place}: the key must name a file below the bucket")
        return key

    def _file(self, place: S3Uri) -> Path:
        path = self._bucket(place) / self._inside(place)
        if not path.is_file():
            raise StorageError(f"{place}: does not exist (S3 at {self.endpoint})")
        return path


def _link(source: Path, target: Path) -> None:
    """Make `target` a hard link to a file, or a copy if the file is on another disk; replaces an existing target.

    An interrupted call leaves the target as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        try:
            os.link(source, scratch)
        except OSError:  # another disk, or a file system without hard links
            shutil.copy2(source, scratch)
        os.replace(scratch, target)
    finally:
        # Left over after a failure, and if both names already linked to one file: then `os.replace` does nothing.
        scratch.unlink(missing_ok=True)
