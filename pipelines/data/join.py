"""Joins several datasets into one folder for training, and records the dataset of each image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mammopipe.processing.datasets.arranged import IMAGE_FOLDER, LABEL_TABLE, link_images
from mammopipe.processing.datasets.definition import LabelTable
from mammopipe.processing.datasets.manifest import ImageRecord, Split, write_manifest
from mammopipe.processing.datasets.registry import EVALUATED
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.splits.assignment import SplitConfig, assign_splits, states_splits

LEAST_DATASETS = 2


def sources_of(texts: Sequence[str]) -> dict[str, Path]:
    """Return the folders of datasets by name, from arguments `NAME=FOLDER`.

    Raises:
        ConfigError: An argument has another form, a dataset is unknown or named twice, or a folder does not exist.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, sign, folder = text.partition("=")
        if not sign or name not in EVALUATED:
            raise ConfigError(f"{text!r}: must be NAME=FOLDER, where NAME is one of {', '.join(EVALUATED)}")
        if name in found:
            raise ConfigError(f"{text!r}: {name} is named twice")
        if not Path(folder).is_dir():
            raise ConfigError(f"{text!r}: no such folder")
        found[name] = Path(folder)
    if len(found) < LEAST_DATASETS:
        raise ConfigError(f"{' '.join(texts) or 'no dataset'}: must name at least {LEAST_DATASETS} datasets")
    return found


def join(sources: Mapping[str, Path], folder: Path, split: SplitConfig | None = None) -> LabelTable:
    """Write the staged form of several datasets into `folder`: one manifest, and links to all images.

    Ids of images and patients get the name of their dataset as prefix, so that no id occurs twice; the column `dataset`
    has the name. A test split that a dataset was released with is kept. If only some datasets have one, this function
    splits the patients of the others; if none has one, the run splits all.

    Args:
        sources: Folders of the datasets as released, by name.
        folder: The folder to write, which must be empty or new.
        split: How to split the patients of datasets without a released split.

    Returns:
        The joined table, and the rows that were refused.

    Raises:
        ConfigError: The folder is not empty.
        LabelError: A dataset cannot be used, or too many of its rows cannot be used.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty; join writes a new folder")
    tables = {}
    for name, source in sources.items():
        tables[name] = link_images(EVALUATED[name], source, folder / IMAGE_FOLDER, prefix=f"{name}-")
        tables[name].require_usable(source)
    stated = any(states_splits(table.records) for table in tables.values())
    records = [record for table in tables.values() for record in _placed(table.records, split, stated=stated)]
    write_manifest(records, folder / LABEL_TABLE)
    refused = [row for table in tables.values() for row in table.refused]
    return LabelTable(records, refused, [row for table in tables.values() for row in table.unlabelled])


def _placed(records: Sequence[ImageRecord], split: SplitConfig | None, *, stated: bool) -> list[ImageRecord]:
    """Return the records of one dataset; with a split, if `stated` says that any of the datasets has one.

    Validation images become training images: the run chooses the validation fold among the images of all datasets.
    """
    if not stated:
        return list(records)
    divided = records if states_splits(records) else assign_splits(records, split)
    return [
        # Without the old digest, which includes the split.
        replace(record, split=Split.TEST if record.split is Split.TEST else Split.TRAIN, fold=None, label_digest="")
        for record in divided
    ]
