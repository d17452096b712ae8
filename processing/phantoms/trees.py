"""Writes synthetic images in the layout of a dataset, for the datasets that support it."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from mammopipe.processing.datasets import own
from mammopipe.processing.datasets.arranged import IMAGE_FOLDER
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms import mias_tree
from mammopipe.processing.phantoms.own_tree import write_own_tree


def write_phantoms(dataset: str, folder: Path, images: int) -> None:
    """Write synthetic images and their label table into a folder.

    Args:
        dataset: Name of the dataset whose layout is used.
        folder: The folder to write.
        images: Approximate number of images; a layout of whole exams writes the exams that make up this number.

    Raises:
        ConfigError: There are no phantoms for this dataset, or the number is out of range.
    """
    if dataset not in WRITERS:
        raise ConfigError(
            f"dataset={dataset}: has no phantoms; give its images (--source), or use {' or '.join(WRITERS)}"
        )
    WRITERS[dataset](folder, images)


def _own(folder: Path, images: int) -> None:
    with TemporaryDirectory() as scratch:
        write_own_tree(Path(scratch), images=images)
        own.arrange(Path(scratch), folder)
        for link in (folder / IMAGE_FOLDER).rglob("*.png"):
            data = link.read_bytes()
            link.unlink()
            link.write_bytes(data)


def _write_collection(name: str, folder: Path, images: int) -> None:
    # Imported here, so that synthetic MIAS films need no pydicom.
    from mammopipe.processing.phantoms import collection_trees

    collection_trees.WRITERS[name](folder, images)


WRITERS: Mapping[str, Callable[[Path, int], None]] = {
    "mias": lambda folder, images: mias_tree.write_mias_tree(folder, films=images),
    "rsna": lambda folder, images: mias_tree.write_rsna_tree(folder, patients=max(2, images // 4)),
    "own": _own,
    **{name: partial(_write_collection, name) for name in ("inbreast", "cbis-ddsm", "cmmd", "vindr-mammo")},
}
"""Writers by the name of the dataset."""
