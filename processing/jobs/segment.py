"""The Segment job: every film to a network's input, breast found, rest blackened, oriented, cropped and normalised.

Reads the processing inputs `prepared-manifest`, `prepared-images`, `augmented-manifest` and `augmented-images`; writes
the processing output `data_segmentation`: originals of every split and the training copies, with a montage to look at.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from processing.breast import draw_contours
from processing.files import sha256
from processing.imaging import read_mammogram, write_png
from processing.job import run
from processing.jobs.sheets import montage
from processing.jobs.stage import Stage
from processing.parallel import Refused, map_images
from processing.paths import ContainerPaths
from processing.preprocess import PreprocessConfig, preprocess, reduce_height
from processing.records import ImageRecord, read_manifest

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentTask:
    """One film to turn into a network's input."""

    record: ImageRecord
    source: Path
    target: Path
    config: PreprocessConfig
    picture_height: int
    """Rows of the picture with contours that is wanted for the montage; 0 for none."""


def main(arguments: Sequence[str]) -> None:
    """Run the job on the container's folders."""
    options = _parser().parse_args(arguments)
    paths = ContainerPaths.from_environment()
    preprocess_config = PreprocessConfig(
        height=options.height,
        width=options.width,
        max_height=options.max_height,
        remove_pectoral=options.remove_pectoral == "true",
    )
    inputs = {name: read_manifest(paths.processing_input(f"{name}-manifest")) for name in ("prepared", "augmented")}
    films = [
        (record, paths.processing_input(f"{name}-images")) for name, records in inputs.items() for record in records
    ]
    config = {"preprocess": preprocess_config.to_json(), "digest": preprocess_config.digest}
    stage = Stage.open("segment", paths, "data_segmentation", config, [record for record, _ in films])
    segment(films, stage, preprocess_config, montage_films=options.montage_films)
    stage.close(max_quarantine=options.max_quarantine)


def segment(
    films: Sequence[tuple[ImageRecord, Path]], stage: Stage, config: PreprocessConfig, *, montage_films: int
) -> None:
    """Segment this host's share of the films into the stage's folder."""
    pictures: dict[str, Picture] = {}
    tasks = []
    originals = 0
    for record, images in films:
        source = images / str(record.split) / f"{record.image_id}.png"
        if source.is_file():
            wanted = not record.source_image_id and originals < montage_films
            originals += wanted
            target = stage.folder / "images" / str(record.split) / source.name
            tasks.append(SegmentTask(record, source, target, config, 220 if wanted else 0))
    for task, result in map_images(segment_image, tasks, total=len(tasks), title="Segment"):
        if isinstance(result, Refused):
            stage.quarantine(task.record.image_id, result.reason)
            continue
        record, picture = result
        stage.records.append(replace(record, path=task.target.relative_to(stage.folder).as_posix()))
        if picture is not None:
            pictures[record.image_id] = picture
    montage(stage.records, pictures, stage.folder)


def segment_image(task: SegmentTask) -> tuple[ImageRecord, Picture | None]:
    """Write one network input as 16-bit PNG; return its record and, where one is wanted, the film with its contours."""
    mammogram = read_mammogram(task.source, record=task.record)
    result = preprocess(mammogram, task.config, task.record.lesions)
    write_png(task.target, result.pixels)
    spacing = mammogram.pixel_spacing_mm / result.geometry.scale if mammogram.pixel_spacing_mm else None
    record = replace(
        task.record,
        lesions=result.lesions,
        height=task.config.height,
        width=task.config.width,
        pixel_spacing_mm=spacing,
        sha256=sha256(task.target),
        quality=result.quality,
    )
    if not task.picture_height:
        return record, None
    film = reduce_height(mammogram.pixels, task.config.max_height)
    return record, draw_contours(film, result.region, task.record.lesions, height=task.picture_height)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m processing.jobs.segment", description=__doc__, allow_abbrev=False)
    parser.add_argument("--height", type=int, default=PreprocessConfig.height, help="rows of the network's input")
    parser.add_argument("--width", type=int, default=PreprocessConfig.width, help="columns of the network's input")
    parser.add_argument(
        "--max-height", type=int, default=PreprocessConfig.max_height, help="rows; taller images are reduced"
    )
    parser.add_argument("--remove-pectoral", choices=["true", "false"], default="true")
    parser.add_argument("--montage-films", type=int, default=400, help="originals shown on the montage")
    parser.add_argument("--max-quarantine", type=float, default=0.05, help="share of images that may be refused")
    return parser


if __name__ == "__main__":
    sys.exit(run(main, "message"))
