"""A set of segmented images without any leak, as the Segment job writes it, in which tests plant leaks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mammopipe.processing.augmentation import Augmenter
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import ImageRecord, Laterality, Split, View, write_manifest
from mammopipe.processing.files import sha256, write_json
from mammopipe.processing.images.mammogram import Mammogram, write_png
from mammopipe.training.evaluation.data import SegmentedData
from mammopipe.training.evaluation.fit_audit import training_digest
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.model_directory import LoadedModel
from mammopipe.training.networks.registry import build_model

Pixels = np.ndarray
COPIED, COPIES = 3, 2
"""Number of training films with augmented copies in the clean set, and copies of each."""


@dataclass(frozen=True)
class CleanSet:
    """Prepared films, and the folder with their segmented images."""

    folder: Path
    films: Mapping[str, tuple[Pixels, ImageRecord]]
    config: PreprocessConfig
    records: list[ImageRecord] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path, images: Iterable[tuple[Pixels, ImageRecord]], config: PreprocessConfig) -> "CleanSet":
        """Segment the films, and augmented copies of some, into the folder; the records have splits already."""
        given = {record.image_id: (pixels, record) for pixels, record in images}
        made = cls(folder, given, config)
        for pixels, record in given.values():
            made.records.append(made.store(pixels, record))
        for pixels, record in [image for image in given.values() if image[1].split is Split.TRAIN][:COPIED]:
            made.records.extend(made.store(*Augmenter().copy(pixels, record, index)) for index in range(COPIES))
        made.records.sort(key=lambda record: record.image_id)
        write_json(folder / "stage.json", {"stage": "segment", "config": {"preprocess": config.to_json()}})
        write_manifest(made.records, folder / "manifest.csv")
        return made

    def store(self, pixels: Pixels, record: ImageRecord) -> ImageRecord:
        """Segment a film into the folder and return its row, as the Segment job does."""
        found = preprocess(Mammogram(pixels, record.laterality, record.view or View.MLO), self.config, record.lesions)
        path = Path("images", str(record.split), f"{record.image_id}.png")
        write_png(self.folder / path, found.pixels)
        spacing = record.pixel_spacing_mm / found.geometry.scale if record.pixel_spacing_mm else None
        return replace(
            record,
            path=path.as_posix(),
            sha256=sha256(self.folder / path),
            lesions=found.lesions,
            height=self.config.height,
            width=self.config.width,
            quality=found.quality,
            pixel_spacing_mm=spacing,
        )

    def tested(self) -> list[str]:
        """Return the names of the test films."""
        return [record.image_id for _, record in self.films.values() if record.split is Split.TEST]

    def data(self, kind: type[SegmentedData] = SegmentedData) -> SegmentedData:
        """Return the set as the evaluation job reads it."""
        segmented: SegmentedData = kind.read(self.folder)
        return segmented

    def candidate(self, scratch: Path, digest: str | None = None) -> LoadedModel:
        """Return an untrained network whose description states this or another digest of its training data."""
        network = build_model("modified_cnn", classes=list(THREE), seed=1)
        epoch = {
            "epoch": 1,
            "train_loss": 1.0,
            "validation_loss": 1.0,
            "validation_macro_auc": 0.5,
            "validation_balanced_accuracy": 0.4,
            "learning_rate": 0.001,
            "seconds": 1.0,
        }
        stated = digest or training_digest(self.data().records, self.folder)
        model_directory.save(
            scratch,
            network,
            {
                "architecture": "modified_cnn",
                "classes": [str(label) for label in THREE],
                "input": {"height": self.config.height, "width": self.config.width},
                "preprocess": self.config.to_json(),
                "initialisation": "scratch",
                "pretrained_weights": None,
                "operating_points": {},
                "metrics": {},
                "calibration": {"temperature": 1.0, "fitted_on": None},
                "versions": {},
                "training": {
                    "data_digest": stated,
                    "epochs_run": 1,
                    "best_epoch": 1,
                    "history": [epoch],
                    "seconds": 1.0,
                },
            },
        )
        return model_directory.load(scratch)


def phantom_set(folder: Path, patients: int, config: PreprocessConfig) -> CleanSet:
    """Return a clean set of phantom films, two of each patient."""
    from mammopipe.processing.phantoms.mias_tree import mias_films

    splits = [*[Split.TRAIN] * 3, *[Split.VALIDATION] * 3, *[Split.TEST] * 3]
    images = []
    for number, (name, image) in enumerate(mias_films(2 * patients)):
        record = ImageRecord(
            name,
            f"p{number // 2}",
            "mias",
            list(Laterality)[number % 2],
            View.MLO,
            image.label,
            splits[number // 2 % len(splits)],
            lesions=image.lesions,
            synthetic=True,
        )
        images.append((image.pixels, record))
    return CleanSet.make(folder, images, config)
