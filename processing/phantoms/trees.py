"""Synthetic images in the layout of a dataset, for those datasets that have a writer of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from mammopipe.processing.datasets import own
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms import mias_tree
from mammopipe.processing.phantoms.own_tree import write_own_tree


def write_phantoms(dataset: str, folder: Path, images: int) -> None:
    """Write about as many synthetic images as asked for into a folder, with their label table.

    Args:
        dataset: Name of the dataset whose layout is written.
        folder: Where the tree goes.
        images: How many; a layout of whole exams writes as many exams as make up this number.

    Raises:
        ConfigError: There are no phantoms of this dataset, or the number is out of range.
    """
    if dataset not in WRITERS:
        raise ConfigError(
            f"dataset={dataset}: has no phantoms; give its images (--source), or use {' or '.join(WRITERS)}"
        )
    WRITERS[dataset](folder, images)


def _mias(folder: Path, images: int) -> None:
    mias_tree.write_mias_tree(folder, films=images)


def _rsna(folder: Path, images: int) -> None:
    mias_tree.write_rsna_tree(folder, patients=max(2, images // 4))


def _own(folder: Path, images: int) -> None:
    with TemporaryDirectory() as scratch:
        write_own_tree(Path(scratch), images=images)
        own.arrange(Path(scratch), folder)
        for link in (folder / own.IMAGE_FOLDER).rglob("*.png"):
            data = link.read_bytes()
            link.unlink()
            link.write_bytes(data)


WRITERS: Mapping[str, Callable[[Path, int], None]] = {"mias": _mias, "rsna": _rsna, "own": _own}
"""By the dataset's name."""
