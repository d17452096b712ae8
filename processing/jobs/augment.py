"""The Augment job: copies of the training films, made so that every class ends equally large.

Reads the processing inputs `manifest` and `images` (those of `prepared`); writes the processing output
`data_augmentation`: the copies alone, their manifest, and a contact sheet to look at.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from processing.augmentation import AugmentationConfig, Augmenter, copy_id, plan_copies
from processing.files import sha256
from processing.imaging import read_mammogram, write_png
from processing.job import run
from processing.jobs.sheets import contact_sheet
from processing.jobs.stage import Stage
from processing.paths import ContainerPaths
from processing.records import ImageRecord, Label, Split, read_manifest

SHEET_FILMS = 3
"""Training films of each class shown on the contact sheet."""


@dataclass(frozen=True)
class AugmentTask:
    """One original and the copies that it gets."""

    record: ImageRecord
    source: Path
    folder: Path
    copies: int
    seed: int


def main(arguments: Sequence[str]) -> None:
    """Run the job on the container's folders."""
    options = _parser().parse_args(arguments)
    paths = ContainerPaths.from_environment()
    records = read_manifest(paths.processing_input("manifest"))
    config = {"copies": options.copies, "seed": options.seed, "policy": asdict(AugmentationConfig())}
    stage = Stage.open("augment", paths, "data_augmentation", config, records)
    augment(records, paths.processing_input("images"), stage, copies=options.copies, seed=options.seed)
    stage.close(max_quarantine=options.max_quarantine)


def augment(records: Sequence[ImageRecord], images: Path, stage: Stage, *, copies: int, seed: int) -> None:
    """Write the copies of this host's share of the training originals into the stage's folder."""
    plan = plan_copies(records, copies)
    tasks = []
    for record in records:
        source = images / str(record.split) / f"{record.image_id}.png"
        if plan.get(record.image_id) and source.is_file():
            tasks.append(AugmentTask(record, source, stage.folder, plan[record.image_id], seed))
    stage.work(augment_image, tasks)
    if stage.records:
        contact_sheet(_shown(tasks), images, stage.records, stage.folder, stage.part("contact-sheet", "png"))


def augment_image(task: AugmentTask) -> list[ImageRecord]:
    """Write all copies of one original and return their records."""
    pixels = read_mammogram(task.source).pixels
    augmenter = _augmenter(task.seed)
    written = []
    for index in range(task.copies):
        copied, record = augmenter.copy(pixels, task.record, index)
        path = Path("images", str(Split.TRAIN), f"{copy_id(task.record.image_id, index)}.png")
        write_png(task.folder / path, copied)
        written.append(replace(record, path=path.as_posix(), sha256=sha256(task.folder / path)))
    return written


@cache
def _augmenter(seed: int) -> Augmenter:
    return Augmenter(seed=seed)


def _shown(tasks: Sequence[AugmentTask]) -> list[ImageRecord]:
    """Return the originals for the contact sheet: of each class the same number, those with lesions first."""
    records = sorted((task.record for task in tasks), key=lambda record: (not record.lesions, record.image_id))
    return [record for label in Label for record in [item for item in records if item.label is label][:SHEET_FILMS]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m processing.jobs.augment", description=__doc__, allow_abbrev=False)
    parser.add_argument("--copies", type=int, default=1, help="copies of each image of the most frequent class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-quarantine", type=float, default=0.05, help="share of images that may be refused")
    return parser


if __name__ == "__main__":
    sys.exit(run(main, "message"))
