"""An image gives the network the same numbers in training and in serving."""

from pathlib import Path

import pytest
import torch

from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.datasets.mias import LABEL_TABLE, read_labels
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.jobs import prepare, segment
from mammopipe.processing.jobs.stage import Stage
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from mammopipe.processing.splits.assignment import assign_splits
from mammopipe.training.fitting.dataset import ImageDataset

CONFIG = PreprocessConfig(height=224, width=144)


def check_parity(folder: Path, records: list[ImageRecord], base: Path) -> None:
    """Process images with Prepare, Segment and the dataset, and compare with the server's input for the same files."""
    paths = ContainerPaths(base)
    prepared = Stage.open("prepare", paths, "prepared", {}, records)
    prepare.prepare(records, folder, prepared, max_height=CONFIG.max_height)
    segmented = Stage.open("segment", paths, "data_segmentation", {}, prepared.records)
    images = [(record, prepared.folder / record.path) for record in prepared.records]
    segment.segment(images, segmented, CONFIG, montage_images=0)
    assert len(segmented.records) == len(records)
    for record in segmented.records:
        trained = ImageDataset([record], (segmented.folder / record.path).parent, shape=(224, 144))[0][0]
        original = read_mammogram(folder / f"{record.image_id}.pgm")
        served = torch.from_numpy(preprocess(original, CONFIG).image)[None]
        assert served.dtype == trained.dtype == torch.float32
        assert torch.equal(served, trained), record.image_id


def test_phantoms_give_the_server_what_they_gave_training(tmp_path: Path) -> None:
    write_mias_tree(tmp_path / "films", films=6, seed=3)
    records = assign_splits(read_labels(tmp_path / "films" / LABEL_TABLE))
    check_parity(tmp_path / "films", records, tmp_path / "base")


@pytest.mark.parametrize("image_id", ["mdb005", "mdb028", "mdb111", "mdb145", "mdb218"])
def test_real_images_give_the_server_what_they_gave_training(mias_folder: Path, tmp_path: Path, image_id: str) -> None:
    records = assign_splits(read_labels(mias_folder / LABEL_TABLE))
    check_parity(mias_folder, [record for record in records if record.image_id == image_id], tmp_path)
