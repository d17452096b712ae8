"""Brings public collections into one layout for training: `manifest.csv`, and the images below `images/`.

A collection's own layout needs all its files at once, for example to find the mask of a lesion, but a job's instances
each receive only a share of the images. So staging reads the collection once, with its masks, and writes its records.
"""

from dataclasses import replace
from pathlib import Path

from mammopipe.processing.datasets.definition import Dataset, LabelTable
from mammopipe.processing.datasets.lesion_masks import with_lesions
from mammopipe.processing.datasets.manifest import read_manifest, write_manifest
from mammopipe.processing.errors import LabelError

LABEL_TABLE = "manifest.csv"
IMAGE_FOLDER = "images"


def arranged(released: Dataset) -> Dataset:
    """Return the dataset in the layout of staging, made from a collection as released."""
    return Dataset(
        name=released.name,
        terms=released.terms,
        label_table=LABEL_TABLE,
        image_folder=IMAGE_FOLDER,
        patterns=(LABEL_TABLE, f"{IMAGE_FOLDER}/**/*"),
        read_table=read_staged,
        check=check_staged,
        released=released,
    )


def arrange(released: Dataset, source: Path, folder: Path) -> LabelTable:
    """Write the manifest of a collection into `folder`, with links to its images below `images/`.

    Args:
        released: The collection as released.
        source: Folder of the collection.
        folder: Folder to write.

    Returns:
        The table with the paths of the links, and the rows that were refused.

    Raises:
        LabelError: The collection cannot be used.
    """
    table = link_images(released, source, folder / IMAGE_FOLDER)
    write_manifest(table.records, folder / LABEL_TABLE)
    return table


def link_images(dataset: Dataset, source: Path, images: Path, prefix: str = "") -> LabelTable:
    """Write links to the images of a dataset into the folder `images`, with their lesions found from the masks.

    Args:
        dataset: The dataset as released.
        source: Its folder.
        images: Folder to write.
        prefix: Prefix of the ids of images and patients in the returned table.

    Returns:
        The table with the paths of the links, and the rows that were refused.

    Raises:
        LabelError: The dataset cannot be used.
    """
    place = dataset.find(source)
    table = dataset.check(place)
    table.require_usable(source)
    records, refused = [], list(table.refused)
    images.mkdir(parents=True, exist_ok=True)
    for record in table.records:
        name, file = f"{prefix}{record.image_id}", place / dataset.image_folder / record.path
        try:
            if not file.is_file():
                raise LabelError(f"{file}: no such file; the label table names it")
            found = with_lesions(record, table.masks.get(record.image_id, ()), place / dataset.image_folder)
        except LabelError as error:
            refused.append((name, str(error)))
            continue
        link = images / f"{name}{file.suffix.lower()}"
        link.symlink_to(file.resolve())
        records.append(replace(found, image_id=name, patient_id=f"{prefix}{record.patient_id}", path=link.name))
    return LabelTable(records, refused, table.unlabelled)


def read_staged(path: Path) -> LabelTable:
    """Return the table of a staged dataset."""
    return LabelTable(read_manifest(path))


def check_staged(folder: Path) -> LabelTable:
    """Return the table of a staged folder; raises `LabelError` if an image of it has no file."""
    table = read_staged(folder / LABEL_TABLE)
    for record in table.records:
        if not (folder / IMAGE_FOLDER / record.path).is_file():
            raise LabelError(f"{folder}: {record.path} has a row in {LABEL_TABLE} but no file")
    return table
