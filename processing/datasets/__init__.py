"""Label tables, image records and manifests. Each dataset is one object in one file; `registry` lists them.

A new dataset needs one module with a `Dataset` (`definition`) and one line in `registry`; CONTRIBUTING.md has an
example.
"""

from mammopipe.processing.datasets.definition import Dataset, LabelTable, Terms
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, Split, View
from mammopipe.processing.datasets.registry import DATASETS, read_labels

__all__ = [
    "DATASETS",
    "Dataset",
    "ImageRecord",
    "Label",
    "Laterality",
    "Lesion",
    "Split",
    "LabelTable",
    "Terms",
    "View",
    "read_labels",
]
