"""Caches decoded training images in memory, or decodes them on each use to limit the memory."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mammopipe.processing.container.memory import host_memory
from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.errors import ManifestError
from mammopipe.processing.images.image_files import ImageFiles, decoded
from mammopipe.training.config import Cache
from mammopipe.training.fitting.distributed import ALONE, World, of_host, wait_for_all

SHARE_OF_MEMORY = 0.25
"""Proportion of the host's memory that decoded images may use with `Cache.AUTO`."""
_BYTES_A_PIXEL = 2
"""Images are kept as uint16."""

Pixels = NDArray[np.uint16]


class ImageCache(Protocol):
    """Access to decoded images by index."""

    @property
    def sums(self) -> Sequence[bytes]:
        """SHA-256 of each file."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, index: int) -> Pixels:
        """Return the image at this index, (H, W) uint16."""


class ImagesOnDisk:
    """Images that are decoded on each use, after a check that their SHA-256 is still that of the start."""

    def __init__(
        self, records: Sequence[ImageRecord], folder: Path, *, shape: tuple[int, int], description: str
    ) -> None:
        """Find the file `<folder>/<image_id>.png` of every record; raises `ManifestError` where one is missing.

        A file may be in a shard (`mammopipe.processing.images.shards`). A record's SHA-256 is compared with the file
        when the file is read. For records without one, it is computed here.
        """
        self.records, self.files, self.shape = tuple(records), ImageFiles(folder), shape
        bar = tqdm(self.records, desc=f"finding {description}", unit="image", disable=None)
        self.sums = [self._stated_sum(record) for record in bar]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def read(self, index: int) -> Pixels:
        """Return the image at this index; raises `ManifestError` if its file was changed."""
        record = self.records[index]
        path, data = self.files.root / _name(record), self._read(record)
        found = hashlib.sha256(data).digest()
        if found != self.sums[index]:
            raise ManifestError(
                f"{path}: its SHA-256 is {found.hex()}, the manifest's and the job's is {self.sums[index].hex()}; "
                f"the file of image_id={record.image_id} was changed"
            )
        pixels = decoded(data, path, record)
        if pixels.shape != self.shape:
            raise ManifestError(
                f"{path}: {pixels.shape[0]} x {pixels.shape[1]} pixels; stage.json states {self.shape[0]} x "
                f"{self.shape[1]}"
            )
        return pixels

    def _stated_sum(self, record: ImageRecord) -> bytes:
        if record.sha256 and _name(record) in self.files:
            return bytes.fromhex(record.sha256)
        return hashlib.sha256(self._read(record)).digest()

    def _read(self, record: ImageRecord) -> bytes:
        try:
            return self.files.read(_name(record))
        except OSError as error:
            raise ManifestError(
                f"{self.files.root / _name(record)}: image_id={record.image_id} of split {record.split} cannot be read "
                f"({error.strerror}); each row of the manifest needs its file"
            ) from None


def _name(record: ImageRecord) -> str:
    return f"{record.image_id}.png"


class ImagesInMemory:
    """Images that are decoded once and shared by the processes of a host."""

    def __init__(
        self,
        records: Sequence[ImageRecord],
        folder: Path,
        *,
        shape: tuple[int, int],
        description: str,
        world: World = ALONE,
    ) -> None:
        """Decode the file `<folder>/<image_id>.png` of every record, in the host's first process.

        Args:
            records: Manifest rows of the images.
            folder: Folder of the files.
            shape: Expected (H, W) of every image, in pixels.
            description: Name of the images in progress bars.
            world: The processes of the job.

        Raises:
            ManifestError: A file is missing, does not match its SHA-256, or has another shape.
            processing.errors.ImageError: A file cannot be decoded.
        """
        on_disk = ImagesOnDisk(records, folder, shape=shape, description=description)
        self.sums: Sequence[bytes] = on_disk.sums
        self.pixels = _shared((len(records), *shape), world, lambda pixels: _fill(pixels, on_disk, description))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def read(self, index: int) -> Pixels:
        """Return the image at this index; the caller must not change it."""
        pixels: Pixels = self.pixels[index]
        return pixels


def _fill(pixels: Pixels, images: ImagesOnDisk, description: str) -> None:
    for index in tqdm(range(len(images)), desc=f"reading {description}", unit="image", disable=None):
        pixels[index] = images.read(index)


def _shared(shape: tuple[int, ...], world: World, fill: Callable[[Pixels], None]) -> Pixels:
    """Return an array that the host's first process fills.

    Several processes map one file, which is unlinked once all have mapped it.
    """
    if world.local_size == 1:
        pixels: Pixels = np.empty(shape, np.uint16)
        fill(pixels)
        return pixels
    # One folder per host, because hosts that are containers on one machine may share their temporary folder.
    folder = Path(of_host(tempfile.mkdtemp(prefix="mammopipe-") if world.local_rank == 0 else "", world))
    path = folder / "pixels"
    if world.local_rank == 0:
        # An empty file cannot be mapped, hence the array without images.
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
    """Return `wanted`; for `auto`, return the cache for this number of images of `shape` (H, W) on this host."""
    if wanted is not Cache.AUTO:
        return wanted
    needed = images * shape[0] * shape[1] * _BYTES_A_PIXEL
    return Cache.MEMORY if needed < SHARE_OF_MEMORY * host_memory() else Cache.DISK
