"""What a dataset is to the pipeline: one object with its files, its label table and its terms.

A new dataset is one module with such an object and one line in `mammopipe.processing.datasets.registry`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.errors import LabelError


@dataclass(frozen=True)
class Table:
    """What the label table of a dataset says, and which of its rows cannot be used."""

    records: list[ImageRecord]
    """One record an image, sorted by image id."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Image id and reason of each row that was left out."""


@dataclass(frozen=True)
class Terms:
    """Where a dataset comes from and what it may be used for."""

    title: str
    """Its name and origin in one sentence, for reports and model cards."""
    licence: str
    citation: str = ""

    def __str__(self) -> str:
        """Return all of it as one paragraph."""
        return " ".join(filter(None, (self.title, self.licence, self.citation)))


@dataclass(frozen=True)
class Dataset:
    """One dataset."""

    name: str
    """Its key in `DATASETS`: what `--dataset` takes, and the folder below `raw/` on S3."""
    terms: Terms
    label_table: str
    """File of the label table in the dataset's folder; the folder is found by it."""
    patterns: tuple[str, ...]
    """The files of the folder that staging uploads, as glob patterns; the label table is among them."""
    read_table: Callable[[Path], Table]
    """Reads the label table at a path. Raises `LabelError` where it is not this dataset's."""
    check: Callable[[Path], Table]
    """Reads the dataset's folder and raises `LabelError` where it is not the dataset as released."""
    image_folder: str = ""
    """Folder of the images below the dataset's folder; empty: the folder itself. Records' paths are relative to it."""
    more_labels: tuple[str, ...] = ()
    """Further files or folders (with a slash at the end) that the reader of the label table needs beside it."""

    def read(self, path: Path) -> Table:
        """Return the label table at `path`, the file itself or the folder that holds it."""
        return self.read_table(path if path.is_file() else path / self.label_table)

    def find(self, folder: Path, *, shown: Path | None = None) -> Path:
        """Return the folder in `folder` that holds the label table, the uppermost one.

        `shown` is what a message calls the folder. Raises `LabelError` where there is none.
        """
        found = sorted(folder.rglob(self.label_table), key=lambda path: len(path.parts))
        if not found:
            raise LabelError(
                f"{shown or folder}: no {self.label_table} here; the folder of {self.name} holds it beside the images"
            )
        return found[0].parent

    def files(self, folder: Path) -> list[Path]:
        """Return the files of the dataset's folder that staging uploads, sorted."""
        return sorted({path for pattern in self.patterns for path in folder.glob(pattern) if path.is_file()})

    def is_synthetic(self, folder: Path, table: Table) -> bool:
        """Return whether the dataset in a folder holds phantoms, by its label table or by any of its DICOM headers."""
        from mammopipe.processing.dicom.file import PHANTOM_WRITER

        if any(record.synthetic for record in table.records):
            return True
        return any(PHANTOM_WRITER.encode() in _head(path) for path in self.files(folder) if path.suffix == ".dcm")


def _head(path: Path) -> bytes:
    """Return the first bytes of a DICOM file, which hold the preamble and the file meta information."""
    with path.open("rb") as stream:
        return stream.read(1024)
