"""Where decoded training images are kept: all in memory, or nowhere, so that memory does not grow with their number."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.errors import ManifestError
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.training.config import Cache
from mammopipe.training.fitting.distributed import ALONE, World, agree, wait_for_all

SHARE_OF_MEMORY = 0.25
"""Of the host's memory that decoded images may take with `Cache.AUTO`."""
_BYTES_A_PIXEL = 2

Pixels = NDArray[np.uint16]


class ImageCache(Protocol):
    """Decoded images by number."""

    @property
    def sums(self) -> Sequence[bytes]:
        """SHA-256 of each file."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, index: int) -> Pixels:
        """Return the image of this number, (H, W) uint16."""


class ImagesOnDisk:
    """Images that are decoded each time they are used, and held against the SHA-256 that they had at the start."""

    def __init__(
        self, records: Sequence[ImageRecord], folder: Path, *, shape: tuple[int, int], description: str
    ) -> None:
        """Find the file `<folder>/<image_id>.png` of every record; raises `ManifestError` where one is missing.

        A record that states a SHA-256 is believed until its file is read; other files are read once for it.
        """
        self.records, self.folder, self.shape = tuple(records), folder, shape
        bar = tqdm(self.records, desc=f"finding {description}", unit="image", disable=None)
        self.sums = [bytes.fromhex(_stated_sum(self._path(record), record)) for record in bar]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def read(self, index: int) -> Pixels:
        """Return the image of this number; raises `ManifestError` where its file was changed."""
        record = self.records[index]
        path = self._path(record)
        found = _sum(path, record)
        if found != self.sums[index]:
            raise ManifestError(
                f"{path}: its SHA-256 is {found.hex()}, the manifest's and the job's is {self.sums[index].hex()}; "
                f"the file of image_id={record.image_id} was changed"
            )
        return _decode(path, record, self.shape)

    def _path(self, record: ImageRecord) -> Path:
        return self.folder / f"{record.image_id}.png"


class ImagesInMemory:
    """Images that are decoded once; the processes of a host share them."""

    def __init__(
        self,
        records: Sequence[ImageRecord],
        folder: Path,
        *,
        shape: tuple[int, int],
        description: str,
        world: World = ALONE,
    ) -> None:
        """Decode `<folder>/<image_id>.png` of every record, in the host's first process.

        Raises `ManifestError` where a file is missing, is not the one of its SHA-256, or has another shape, and
        `processing.errors.ImageError` where it cannot be decoded.
        """
        on_disk = ImagesOnDisk(records, folder, shape=shape, description=description)
        self.sums: Sequence[bytes] = on_disk.sums
        self.pixels = _shared((len(records), *shape), world, lambda pixels: _fill(pixels, on_disk, description))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def read(self, index: int) -> Pixels:
        """Return the image of this number; it must not be changed."""
        pixels: Pixels = self.pixels[index]
        return pixels


class _Fill(Protocol):
    def __call__(self, pixels: Pixels) -> None: ...


def _fill(pixels: Pixels, images: ImagesOnDisk, description: str) -> None:
    for index in tqdm(range(len(images)), desc=f"reading {description}", unit="image", disable=None):
        pixels[index] = images.read(index)


def _shared(shape: tuple[int, ...], world: World, fill: _Fill) -> Pixels:
    """Return an array that the host's first process fills; several processes map one file, which has no name then."""
    if world.local_size == 1:
        pixels: Pixels = np.empty(shape, np.uint16)
        fill(pixels)
        return pixels
    folder = Path(agree(tempfile.mkdtemp(prefix="mammopipe-") if world.leads else "", world))
    path = folder / "pixels"
    if world.local_rank == 0:
        folder.mkdir(mode=0o700, exist_ok=True)
        written: Pixels = (
            np.memmap(path, np.uint16, "w+", shape=shape) if np.prod(shape) else np.empty(shape, np.uint16)
        )
        fill(written)
    wait_for_all(world)
    mapped: Pixels = np.memmap(path, np.uint16, "r", shape=shape) if np.prod(shape) else np.empty(shape, np.uint16)
    wait_for_all(world)
    if world.local_rank == 0:
        path.unlink(missing_ok=True)
        folder.rmdir()
    return mapped


def choose_cache(wanted: Cache, images: int, shape: tuple[int, int]) -> Cache:
    """Return `wanted`, or for `auto` where this many images of a shape (H, W) are kept on this host."""
    if wanted is not Cache.AUTO:
        return wanted
    needed = images * shape[0] * shape[1] * _BYTES_A_PIXEL
    return Cache.MEMORY if needed < SHARE_OF_MEMORY * host_memory() else Cache.DISK


def host_memory() -> int:
    """Return the bytes of memory that this host, or this container of it, has."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    return min([whole, *_numbers(limits)])


def _numbers(paths: Iterable[Path]) -> list[int]:
    texts = [path.read_text(encoding="ascii").strip() for path in paths if path.is_file()]
    return [int(text) for text in texts if text.isdigit()]


def _stated_sum(path: Path, record: ImageRecord) -> str:
    if record.sha256 and path.is_file():
        return record.sha256
    return _sum(path, record).hex()


def _sum(path: Path, record: ImageRecord) -> bytes:
    try:
        return bytes.fromhex(sha256(path))
    except OSError as error:
        raise ManifestError(
            f"{path}: image_id={record.image_id} of split {record.split} cannot be read "
            f"({error.strerror}); each row of the manifest has its file"
        ) from None


def _decode(path: Path, record: ImageRecord, shape: tuple[int, int]) -> Pixels:
    pixels = read_mammogram(path, record=record).pixels
    if pixels.shape != shape:
        raise ManifestError(
            f"{path}: {pixels.shape[0]} x {pixels.shape[1]} pixels; the stage says {shape[0]} x {shape[1]}"
        )
    return pixels
