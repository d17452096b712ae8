"""The list of all datasets. A new dataset needs one module and one line here."""

from collections.abc import Mapping
from pathlib import Path

from mammopipe.processing.datasets.arranged import arranged
from mammopipe.processing.datasets.cbis_ddsm import DATASET as CBIS_DDSM
from mammopipe.processing.datasets.cmmd import DATASET as CMMD
from mammopipe.processing.datasets.collection import files_below
from mammopipe.processing.datasets.definition import Dataset
from mammopipe.processing.datasets.inbreast import DATASET as INBREAST
from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.datasets.mias import DATASET as MIAS
from mammopipe.processing.datasets.own import DATASET as OWN
from mammopipe.processing.datasets.rsna import DATASET as RSNA
from mammopipe.processing.datasets.vindr_mammo import DATASET as VINDR_MAMMO
from mammopipe.processing.errors import ConfigError

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
DATASETS: Mapping[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        MIAS,
        RSNA,
        OWN,
        arranged(INBREAST),
        arranged(CBIS_DDSM),
        arranged(CMMD),
        arranged(VINDR_MAMMO),
    )
}
EVALUATED: Mapping[str, Dataset] = {name: dataset.released or dataset for name, dataset in DATASETS.items()}
"""The datasets as `mammopipe evaluate` reads them: as released."""


def dataset_in(folder: Path, name: str | None = None) -> tuple[Dataset, Path]:
    """Return the dataset in a folder, and the folder inside it that holds the label table.

    Args:
        folder: The folder of the dataset.
        name: The name of the dataset; `None` recognises it by its label table.

    Raises:
        ConfigError: No dataset has this name, or the folder holds no known label table.
    """
    if name is not None and name not in EVALUATED:
        raise ConfigError(f"dataset = {name!r}: must be one of {', '.join(EVALUATED)}")
    asked = [EVALUATED[name]] if name is not None else list(EVALUATED.values())
    found = [dataset for dataset in asked if dataset.tables(folder)]
    if len(found) > 1:
        names = ", ".join(dataset.name for dataset in found)
        raise ConfigError(f"{folder}: holds label tables of {names}; say which it is: --as NAME")
    if found:
        return found[0], found[0].find(folder)
    tables = ", ".join(dataset.label_table for dataset in asked)
    archives = [path.name for path in files_below(folder) if path.suffix.lower() in _ARCHIVES]
    packed = f"; it holds archives, which must be unpacked first: {', '.join(archives[:3])}" if archives else ""
    raise ConfigError(f"{folder}: holds no label table of a known dataset ({tables}){packed}")


def dataset_named(name: str) -> Dataset:
    """Return a dataset by its name; raises `ConfigError` with similar names if there is none."""
    if name not in DATASETS:
        raise ConfigError(f"dataset = {name!r}: must be one of {', '.join(DATASETS)}")
    return DATASETS[name]


def same_breast(dataset: str, patient_id: str) -> str:
    """Return the other patient whose breast a patient shows, if the release lists a breast twice; else the patient.

    Args:
        dataset: Name of the dataset.
        patient_id: A patient of it; in a joined set, with the dataset's name as prefix.
    """
    known = DATASETS[dataset].same_breast if dataset in DATASETS else {}
    prefix = f"{dataset}-" if patient_id.startswith(f"{dataset}-") else ""
    plain = patient_id.removeprefix(prefix)
    return f"{prefix}{known.get(plain, plain)}"


def read_labels(dataset: Dataset | str, path: Path) -> list[ImageRecord]:
    """Return the records of a dataset's label table, sorted by image id.

    Args:
        dataset: The dataset or its name.
        path: The label table or its folder.

    Raises:
        ConfigError: No dataset has this name.
        LabelError: The table cannot be read, or too many of its rows cannot be used.
    """
    known = dataset if isinstance(dataset, Dataset) else dataset_named(dataset)
    table = known.read(path)
    table.require_usable(path)
    return table.records
