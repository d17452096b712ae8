"""Synthetic images in the layout of a dataset, for those datasets that have a writer of them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms import mias_tree


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


WRITERS: Mapping[str, Callable[[Path, int], None]] = {"mias": _mias, "rsna": _rsna}
"""By the dataset's name."""
