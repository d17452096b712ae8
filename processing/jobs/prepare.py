"""The Prepare job: label table and image tree to a split manifest and 16-bit PNG images.

Reads the processing inputs `labels` (a folder with `Info.txt` or `train.csv`) and `images` (the image tree); writes the
processing output `prepared`. The split is made from the label table alone, before any pixel is read.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from processing import mias
from processing.errors import LabelError
from processing.files import sha256
from processing.imaging import read_mammogram, write_png
from processing.job import run
from processing.jobs.stage import Stage
from processing.parallel import Refused, map_images
from processing.paths import ContainerPaths
from processing.preprocess import PreprocessConfig, reduce_height
from processing.records import Dataset, ImageRecord, Lesion
from processing.split import SplitConfig, assign_splits


@dataclass(frozen=True)
class PrepareTask:
    """One image to decode: where it lies, where its PNG goes, and how high that may be."""

    record: ImageRecord
    source: Path
    target: Path
    max_height: int


def main(arguments: Sequence[str]) -> None:
    """Run the job on the container's folders."""
    options = _parser().parse_args(arguments)
    paths = ContainerPaths.from_environment()
    split = SplitConfig(options.test_fraction, options.folds, options.validation_fold, options.seed)
    records = assign_splits(_read_labels(paths.processing_input("labels"), Dataset(options.dataset)), split)
    config = {"dataset": options.dataset, "max_height": options.max_height, "split": asdict(split)}
    stage = Stage.open("prepare", paths, "prepared", config, records)
    prepare(records, paths.processing_input("images"), stage, max_height=options.max_height)
    stage.close(max_quarantine=options.max_quarantine)


def prepare(records: Sequence[ImageRecord], images: Path, stage: Stage, *, max_height: int) -> None:
    """Decode this host's share of the images into the stage's folder."""
    present = {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()}
    mine = [record for record in records if record.path in present]
    if not mine:
        raise LabelError(f"{images}: none of the {len(records)} images of the label table is here")
    if len(stage.hosts) == 1:
        for record in records:
            if record.path not in present:
                stage.quarantine(record.image_id, f"{record.path}: no such file; the label table names it")
    tasks = [PrepareTask(record, images / record.path, _target(stage.folder, record), max_height) for record in mine]
    for task, result in map_images(prepare_image, tasks, total=len(tasks), title="Prepare"):
        if isinstance(result, Refused):
            stage.quarantine(task.record.image_id, result.reason.replace(f"{images}/", ""))
        else:
            stage.records.append(replace(result, path=task.target.relative_to(stage.folder).as_posix()))


def prepare_image(task: PrepareTask) -> ImageRecord:
    """Write one image as 16-bit PNG and return its record, lesions and spacing scaled with the pixels."""
    record = task.record
    mammogram = read_mammogram(task.source, record=record)
    pixels = reduce_height(mammogram.pixels, task.max_height)
    scale = pixels.shape[0] / mammogram.pixels.shape[0]
    write_png(task.target, pixels)
    return replace(
        record,
        laterality=mammogram.laterality,
        view=mammogram.view,
        lesions=tuple(_scaled(lesion, scale) for lesion in record.lesions) if scale != 1 else record.lesions,
        height=pixels.shape[0],
        width=pixels.shape[1],
        pixel_spacing_mm=mammogram.pixel_spacing_mm / scale if mammogram.pixel_spacing_mm else None,
        sha256=sha256(task.target),
    )


def _scaled(lesion: Lesion, scale: float) -> Lesion:
    # Pixel centres lie at whole numbers, so the image's corner is at -0.5 before and after.
    return replace(
        lesion, x=(lesion.x + 0.5) * scale - 0.5, y=(lesion.y + 0.5) * scale - 0.5, radius=lesion.radius * scale
    )


def _target(folder: Path, record: ImageRecord) -> Path:
    return folder / "images" / str(record.split) / f"{record.image_id}.png"


def _read_labels(folder: Path, dataset: Dataset) -> list[ImageRecord]:
    if dataset is Dataset.MIAS:
        return mias.read_labels(folder / mias.LABEL_TABLE)
    raise LabelError(f"dataset={dataset}: no reader for its label table yet")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m processing.jobs.prepare", description=__doc__, allow_abbrev=False)
    parser.add_argument("--dataset", required=True, choices=[str(dataset) for dataset in Dataset])
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another division of the patients")
    parser.add_argument("--test-fraction", type=float, default=0.2)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--validation-fold", type=int, default=0)
    parser.add_argument(
        "--max-height", type=int, default=PreprocessConfig.max_height, help="rows; taller images are reduced"
    )
    parser.add_argument("--max-quarantine", type=float, default=0.05, help="share of images that may be refused")
    parser.add_argument(
        "--phi",
        choices=["refuse", "drop"],
        default="refuse",
        help="what to do with an image whose header names its patient: quarantine it, or leave the header out",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run(main, "message"))
