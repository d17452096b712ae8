"""Reads the images of a stage, each from a file of its own or from a shard (`mammopipe.processing.images.shards`)."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.errors import ImageError
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.images.shards import Member, members


class ImageFiles:
    """The image files below a folder, by their paths relative to it."""

    def __init__(self, root: Path) -> None:
        """Open the folder; the indexes of its shards are read when they are first needed."""
        self.root = root
        self._members: dict[Path, Mapping[str, Member]] = {}

    def __contains__(self, path: str) -> bool:
        """Return whether there is such an image file, or a member of a shard that exists."""
        member = self._member(path)
        return (self.root / path).is_file() if member is None else member.shard.is_file()

    def names(self, suffixes: Collection[str]) -> list[str]:
        """Return the names of the image files of the folder itself, in single files or in shards, sorted.

        Args:
            suffixes: The endings of image files, such as `.png`.
        """
        single = {path.name for path in self.root.iterdir() if path.suffix in suffixes}
        return sorted(single | members(self.root).keys())

    def source(self, path: str) -> Path | bytes:
        """Return what `read_mammogram` reads: the path of a single file, or the bytes of a member of a shard."""
        member = self._member(path)
        return self.root / path if member is None else member.read()

    def read(self, path: str) -> bytes:
        """Return the bytes of an image file.

        Raises:
            OSError: There is no such file.
            ManifestError: The index of the shards is damaged, or a shard is not complete.
        """
        member = self._member(path)
        return (self.root / path).read_bytes() if member is None else member.read()

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of an image file, in hexadecimal; raises as `read` does."""
        return hashlib.sha256(self.read(path)).hexdigest()

    def pixels(self, path: str) -> NDArray[np.uint16]:
        """Return the pixels of an image file, (rows, columns), uint16, 0 is air.

        Raises:
            OSError: There is no such file.
            ManifestError: The index of the shards is damaged, or a shard is not complete.
            ImageError: The file cannot be decoded.
        """
        return decoded(self.read(path), self.root / path)

    def _member(self, path: str) -> Member | None:
        place = Path(path)
        if place.parent not in self._members:
            self._members[place.parent] = members(self.root / place.parent)
        return self._members[place.parent].get(place.name)


def decoded(data: bytes, where: Path, record: ImageRecord | None = None) -> NDArray[np.uint16]:
    """Return the pixels of an image file's bytes; errors name the file `where`. Raises `ImageError`."""
    try:
        return read_mammogram(data, record=record).pixels
    except ImageError as error:
        raise type(error)(str(error).replace("<bytes>", str(where), 1)) from None
