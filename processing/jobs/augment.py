"""The Augment job: makes copies of the training images, so that all classes are equally large; with copies=0, none.

For cross-validation, it copies all images of the development set; under the protocol `published`, all images. It reads
the processing inputs `manifest`, `stage`, `unseen` and `images`, which are outputs of Prepare. It writes the processing
output `data_augmentation`: the copies without their originals, their manifest, and a contact sheet for inspection.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path

from pydantic import Field

from mammopipe.processing.augmentation import AugmentationConfig, Augmenter, plan_copies
from mammopipe.processing.classes import TWO, Question
from mammopipe.processing.container.arguments import add_arguments, settings_in
from mammopipe.processing.container.job import run
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split, SplitProtocol, read_manifest
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256, write_bytes
from mammopipe.processing.images.mammogram import read_mammogram, write_png
from mammopipe.processing.jobs.contact_sheets import contact_sheet
from mammopipe.processing.jobs.missed import refuse_missed
from mammopipe.processing.jobs.split_settings import Division, image_place
from mammopipe.processing.jobs.stage import Stage
from mammopipe.processing.stored_copies import StoredCopies

SHEET_IMAGES = 3
"""Number of training images of each class on the contact sheet."""


class Copied(StrEnum):
    """Which images are augmented."""

    TRAIN = "train"
    """The images of the training split."""
    DEVELOPMENT = "development"
    """The images of training and validation: in cross-validation, each image trains the networks of other folds."""
    ALL = "all"
    """All images, before the division into splits (protocol `published`)."""

    @property
    def splits(self) -> tuple[Split | None, ...]:
        """The splits of these images; `None` stands for images that are not divided yet."""
        return {
            Copied.TRAIN: (Split.TRAIN,),
            Copied.DEVELOPMENT: (Split.TRAIN, Split.VALIDATION),
            Copied.ALL: (None,),
        }[self]


@dataclass(frozen=True)
class AugmentTask:
    """One original and the copies to make of it."""

    record: ImageRecord
    source: Path
    folder: Path
    copies: int
    seed: int


class AugmentJobConfig(StoredCopies):
    """The settings of the job."""

    copies_of: Copied = Field(
        default=Copied.TRAIN,
        description="images that get copies: train; development, for cross-validation; all, only for the protocol "
        "published",
    )
    question: Question = Field(
        default=Question.CLASSES,
        description="which classes are balanced: those of the dataset, or, with binary, malignant and all others",
    )
    seed: int = Field(default=0, ge=0, description="seed of the copies' variations")
    max_quarantine: float = Field(default=0.05, ge=0, le=1, description="share of images that may be refused")


def main(arguments: Sequence[str]) -> None:
    """Run the job on the container's folders."""
    config = settings_in(_parser().parse_args(arguments), AugmentJobConfig)
    paths = ContainerPaths.from_environment()
    division = Division.read(paths.processing_input("stage"))
    copied, balance, rarer_only = config.copies_of, config.balance, config.rarer_only
    if (copied is Copied.ALL) is not (division.protocol is SplitProtocol.PUBLISHED):
        raise ConfigError(
            f"copies_of={copied} and protocol={division.protocol}: all is for the protocol published, and for no other"
        )
    records = read_manifest(paths.processing_input("manifest"), division.protocol)
    manifest, lists = paths.processing_input("manifest"), paths.processing_input("unseen")
    missing = refuse_missed(manifest, lists, "prepare", len(records), max_share=config.max_quarantine)
    settings: dict[str, object] = {
        "protocol": str(division.protocol),
        "copies_of": str(copied),
        "copies": config.copies,
        "balance": balance,
    }
    settings |= {"rarer_only": True} if rarer_only else {}
    settings |= {} if config.question is Question.CLASSES else {"question": str(config.question)}
    settings |= {"seed": config.seed, "policy": asdict(AugmentationConfig())}
    stage = Stage.open("augment", paths, "data_augmentation", settings, records)
    if stage.host == stage.hosts[0]:
        stage.refused_before += [(image_id, "no instance of Prepare saw its file") for image_id in missing]
    classes = TWO if config.question is Question.BINARY else None
    each = config.copies - rarer_only
    plan = plan_copies(records, each, copied.splits, balance=balance and config.copies > 0, classes=classes)
    if not config.copies:
        _pass_through(stage, balance=balance)
    elif not any(plan.values()):
        # With an empty input prefix, SageMaker would fail the next job without giving the reason.
        raise ConfigError(
            f"copies={config.copies}, rarer_only={str(rarer_only).lower()} gives none of the {len(plan)} images of "
            f"copies_of={copied} a copy, since no class is rarer than another; use copies=0 to store no copy"
        )
    augment(records, paths.processing_input("images"), stage, plan, seed=config.seed)
    stage.close(max_quarantine=config.max_quarantine)


def _pass_through(stage: Stage, *, balance: bool) -> None:
    """Write a file that says that nothing is copied: SageMaker fails the next job if its input prefix is empty."""
    text = "copies=0: no copy is stored; training.augment varies the images while a network trains"
    text += ", and training.sampling balances the classes" if balance else ""
    print(f"augment: {text}", flush=True)
    if stage.host == stage.hosts[0]:
        write_bytes(stage.folder / "images" / "no-copies.txt", f"{text}\n".encode())


def augment(records: Sequence[ImageRecord], images: Path, stage: Stage, plan: Mapping[str, int], *, seed: int) -> None:
    """Write the planned copies of this host's share of the originals into the stage's folder."""
    tasks = []
    for record in records:
        source = images / image_place(record)
        if not plan.get(record.image_id):
            continue
        if not source.is_file():
            stage.unseen.append(record.image_id)
        else:
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
        path = "images" / image_place(record)
        write_png(task.folder / path, copied)
        written.append(replace(record, path=path.as_posix(), sha256=sha256(task.folder / path)))
    return written


@cache
def _augmenter(seed: int) -> Augmenter:
    return Augmenter(seed=seed)


def _shown(tasks: Sequence[AugmentTask]) -> list[ImageRecord]:
    """Return the originals for the contact sheet: equally many of each class, those with lesions first."""
    records = sorted((task.record for task in tasks), key=lambda record: (not record.lesions, record.image_id))
    return [record for label in Label for record in [item for item in records if item.label is label][:SHEET_IMAGES]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mammopipe.processing.jobs.augment", description=__doc__, allow_abbrev=False
    )
    add_arguments(parser, AugmentJobConfig)
    return parser


if __name__ == "__main__":
    sys.exit(run(main, "message"))
