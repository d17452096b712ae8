"""The definition of a dataset: its files, its label table and its terms of use.

A new dataset needs one module with a `Dataset` object, and one line in `mammopipe.processing.datasets.registry`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from mammopipe.processing.datasets.collection import files_below, is_dicom_name, is_image, tables_in
from mammopipe.processing.datasets.lesion_masks import Mask
from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.errors import LabelError

MAX_REFUSED = 0.01
"""Greatest share of unusable rows; a label table with more of them is refused."""


@dataclass(frozen=True)
class LabelTable:
    """The content of a dataset's label table, and the rows that cannot be used."""

    records: list[ImageRecord]
    """One record per image, sorted by image id."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Image id and reason for each row that was left out."""
    unlabelled: list[tuple[str, str]] = field(default_factory=list)
    """Image id and reason for each image that no row names; CMMD, for example, has images of unlisted breasts."""
    masks: Mapping[str, Sequence[Mask]] = field(default_factory=dict)
    """Masks of the lesions by image id; they are read image by image (`lesion_masks.with_lesions`)."""

    def require_usable(self, path: Path) -> None:
        """Raise `LabelError` if a larger share than `MAX_REFUSED` of the rows of the table at `path` was left out."""
        rows = len(self.records) + len(self.refused)
        if len(self.refused) > MAX_REFUSED * rows:
            image_id, reason = self.refused[0]
            raise LabelError(
                f"{path}: {len(self.refused)} of {rows} rows cannot be used, more than {MAX_REFUSED:.0%}; "
                f"the first is image {image_id}: {reason}"
            )


@dataclass(frozen=True)
class Terms:
    """The origin of a dataset and its permitted use."""

    title: str
    """Name and origin of the dataset in one sentence, for reports and model cards."""
    licence: str
    citation: str = ""
    note: str = ""
    """What a reader of its figures must know about the release."""

    def __str__(self) -> str:
        """Return all terms as one paragraph."""
        return " ".join(filter(None, (self.title, self.licence, self.citation, self.note)))


@dataclass(frozen=True)
class Dataset:
    """One dataset: its files, the reader of its label table, and its terms."""

    name: str
    """Key in `DATASETS`, value of `--dataset`, and name of the folder below `raw/` on S3."""
    terms: Terms
    label_table: str
    """File name of the label table; the dataset's folder is recognised by this file, or by one of `other_tables`."""
    patterns: tuple[str, ...]
    """Glob patterns of the files that staging uploads, including the label table."""
    read_table: Callable[[Path], LabelTable]
    """Reads the label table at a path; raises `LabelError` if it is not this dataset's."""
    check: Callable[[Path], LabelTable]
    """Reads the dataset's folder; raises `LabelError` if it differs from the released dataset."""
    image_folder: str = ""
    """Folder of the images in the dataset's folder; empty for that folder itself. Records' paths are relative to it."""
    more_labels: tuple[str, ...] = ()
    """Other files or folders (with a trailing slash) that the reader of the label table needs beside the table."""
    other_tables: tuple[str, ...] = ()
    """Glob patterns of other names of the label table, or of further label tables."""
    anywhere: bool = False
    """Whether tables and images may lie in different folders below the dataset's folder."""
    released: "Dataset | None" = None
    """The dataset as released, where staging brings it into another layout (`arranged`)."""

    same_breast: Mapping[str, str] = field(default_factory=dict)
    """Patients of the release who show a breast of another of its patients, whose split and fold they share."""
    meanings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What the label table's own words mean, by field of the manifest (`density`, `finding`) and word."""

    def meaning(self, name: str, word: str) -> str:
        """Return the meaning of a label table's word in a field of the manifest; "" if unknown."""
        return self.meanings.get(name, {}).get(word, "")

    def legend(self) -> str:
        """Return the meanings of all words as text, "" without any: `density: D dense-glandular; finding: ...`."""
        return ". ".join(
            f"{name.capitalize()}: {', '.join(f'{word} {text}' for word, text in words.items())}"
            for name, words in self.meanings.items()
        )

    def read(self, path: Path) -> LabelTable:
        """Return the label table at `path`, which is the file itself or its folder."""
        return self.read_table(path if path.is_file() else path / self.label_table)

    def find(self, folder: Path, *, shown: Path | None = None) -> Path:
        """Return the uppermost folder in `folder` that holds the label table.

        If tables and images may lie in different folders (`anywhere`), the result is `folder` itself, unless all tables
        are in one folder with images below it. `shown` is the name of the folder in messages. Raises `LabelError` if
        there is no label table.
        """
        found = self.tables(folder)
        if not found:
            raise LabelError(
                f"{shown or folder}: no {self.label_table} here; the folder of {self.name} holds it beside the images"
            )
        several = len({path.parent for path in found}) > 1
        if self.anywhere and (several or not any(is_image(path) for path in files_below(found[0].parent))):
            return folder
        return found[0].parent

    def tables(self, folder: Path) -> list[Path]:
        """Return the label tables below a folder, the uppermost first."""
        return tables_in(folder, (self.label_table, *self.other_tables), spreadsheets=self.anywhere)

    def files(self, folder: Path) -> list[Path]:
        """Return the files that staging uploads from the dataset's folder, sorted."""
        return sorted({path for pattern in self.patterns for path in folder.glob(pattern) if path.is_file()})

    def is_synthetic(self, folder: Path, table: LabelTable) -> bool:
        """Return whether the label table or any DICOM header shows that a folder holds phantoms."""
        from mammopipe.processing.dicom.file import PHANTOM_WRITER

        if any(record.synthetic for record in table.records):
            return True
        # `files` does not find images that may lie anywhere; the table names them.
        images = (folder / self.image_folder / record.path for record in table.records)
        paths = filter(is_dicom_name, chain(self.files(folder), images))
        return any(PHANTOM_WRITER.encode() in _head(path) for path in paths if path.is_file())


def _head(path: Path) -> bytes:
    """Return the start of a DICOM file, which holds the preamble and the file meta information."""
    with path.open("rb") as stream:
        return stream.read(1024)
