"""The Segment job: makes the network's input from every image.

It finds the breast and blackens the rest; then it orients, crops and normalises the image. It reads the processing
inputs `prepared-manifest`, `prepared-stage`, `prepared-images`, `augmented-manifest`, `augmented-unseen` and
`augmented-images`. It writes the processing output `data_segmentation`: originals of every split, the training copies,
and a montage for inspection. Each image is a PNG file of its own, or lies in a shard. Under the protocol `published`,
originals and copies are divided into splits here.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess, reduce_height
from mammopipe.processing.container.arguments import add_arguments, settings_in
from mammopipe.processing.container.job import run
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import ImageRecord, SplitProtocol, read_manifest
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import read_mammogram, write_png
from mammopipe.processing.images.shards import pack
from mammopipe.processing.jobs.contact_sheets import CELL, draw_contours, montage, write_picture
from mammopipe.processing.jobs.missed import refuse_missed
from mammopipe.processing.jobs.split_settings import Division, image_place
from mammopipe.processing.jobs.stage import THUMBNAILS, Stage
from mammopipe.processing.settings import Settings
from mammopipe.processing.splits.assignment import assign_splits

SETTINGS = ("height", "width", "max_height", "remove_pectoral", "harmonisation")
"""The settings of `PreprocessConfig` that are arguments."""


class SegmentSettings(Settings):
    """The settings of the job besides those of the network's input."""

    shard_megabytes: float = Field(
        default=0.0, ge=0, description="size of a shard in MB; 0 writes a file for each image"
    )
    montage_images: int = Field(default=400, ge=0, description="originals shown on the montage")
    max_quarantine: float = Field(default=0.05, ge=0, le=1, description="share of images that may be refused")


@dataclass(frozen=True)
class SegmentTask:
    """One image from which to make a network's input."""

    record: ImageRecord
    source: Path
    folder: Path
    config: PreprocessConfig
    thumbnail: bool
    """Whether to write a thumbnail with contours for the montage."""


def main(arguments: Sequence[str]) -> None:
    """Run the job on the container's folders."""
    options = _parser().parse_args(arguments)
    paths = ContainerPaths.from_environment()
    division = Division.read(paths.processing_input("prepared-stage"))
    job = settings_in(options, SegmentSettings)
    preprocess_config = settings_in(options, PreprocessConfig, for_processing=division.for_processing)
    images = _images(paths, division)
    config: dict[str, object] = {"protocol": str(division.protocol), "split": asdict(division.config)}
    config |= {"preprocess": preprocess_config.to_json(), "digest": preprocess_config.digest}
    stage = Stage.open("segment", paths, "data_segmentation", config, [record for record, _ in images])
    segment(images, stage, preprocess_config, montage_images=job.montage_images)
    if job.shard_megabytes:
        pack_images(stage, job.shard_megabytes)
    stage.close(max_quarantine=job.max_quarantine)


def _images(paths: ContainerPaths, division: Division) -> list[tuple[ImageRecord, Path]]:
    """Return originals and copies with their splits, and the file of each before segmentation."""
    sources: list[Path] = []
    records: list[ImageRecord] = []
    for name in ("prepared", "augmented"):
        found = read_manifest(paths.processing_input(f"{name}-manifest"), division.protocol)
        if name == "augmented":
            manifest, lists = (paths.processing_input(f"augmented-{part}") for part in ("manifest", "unseen"))
            refuse_missed(manifest, lists, "augment", len(found))
        sources += [paths.processing_input(f"{name}-images") / image_place(record) for record in found]
        records += found
    if division.protocol is SplitProtocol.PUBLISHED:
        records = assign_splits(records, division.config, division.protocol)
    return list(zip(records, sources, strict=True))


def segment(
    images: Sequence[tuple[ImageRecord, Path]], stage: Stage, config: PreprocessConfig, *, montage_images: int
) -> None:
    """Segment this host's share of the images into the stage's folder.

    Args:
        images: The records, each with the file of its image.
        stage: The output.
        config: The settings of the network's input.
        montage_images: The number of images on the montage.
    """
    tasks = []
    originals = 0
    for record, source in images:
        if not source.is_file():
            stage.unseen.append(record.image_id)
        else:
            wanted = not record.source_image_id and originals < montage_images
            originals += wanted
            tasks.append(SegmentTask(record, source, stage.folder, config, thumbnail=wanted))
    stage.work(segment_image, tasks)
    montage(stage.records, stage.folder / THUMBNAILS, stage.part("montage", "png"))


def pack_images(stage: Stage, megabytes: float) -> None:
    """Move the images of each split into shards of about this size in MB, in the order of the manifest."""
    folders: dict[Path, list[str]] = {}
    for record in sorted(stage.records, key=lambda record: record.image_id):
        path = stage.folder / record.path
        folders.setdefault(path.parent, []).append(path.name)
    for folder, names in folders.items():
        shards = pack(folder, names, megabytes=megabytes, host=stage.host if len(stage.hosts) > 1 else "")
        print(f"segment: {len(names)} images of {folder.name} in {len(shards)} shards", flush=True)


def segment_image(task: SegmentTask) -> list[ImageRecord]:
    """Write one network input as 16-bit PNG and, if requested, a thumbnail of the image; return its record."""
    mammogram = read_mammogram(task.source, record=task.record)
    result = preprocess(mammogram, task.config, task.record.lesions)
    path = "images" / image_place(task.record)
    write_png(task.folder / path, result.pixels)
    if task.thumbnail:
        image = reduce_height(mammogram.pixels, task.config.max_height)
        picture = draw_contours(image, result.region, task.record.lesions, height=CELL)
        write_picture(task.folder / THUMBNAILS / path.name, picture)
    spacing = mammogram.pixel_spacing_mm / result.geometry.scale if mammogram.pixel_spacing_mm else None
    segmented = task.record.with_moved(
        result.lesions,
        path=path.as_posix(),
        height=task.config.height,
        width=task.config.width,
        pixel_spacing_mm=spacing,
        sha256=sha256(task.folder / path),
        quality={**result.quality, "image_flags": list(task.record.image_flags)},
    )
    return [segmented]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mammopipe.processing.jobs.segment", description=__doc__, allow_abbrev=False
    )
    add_arguments(parser, PreprocessConfig, SETTINGS)
    add_arguments(parser, SegmentSettings)
    return parser


if __name__ == "__main__":
    sys.exit(run(main, "message"))
