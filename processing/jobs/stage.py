"""Code shared by the three jobs: a stage's output folder, its quarantine, and its `stage.json`."""

import hashlib
import json
import platform
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mammopipe.processing.classes import counted_labels
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import ImageRecord, Split, write_manifest
from mammopipe.processing.errors import ImageError, MammopipeError, QuarantineError
from mammopipe.processing.files import write_csv, write_json
from mammopipe.processing.jobs.journal import NAME as JOURNAL
from mammopipe.processing.jobs.journal import RecordJournal
from mammopipe.processing.jobs.missed import COLUMN
from mammopipe.processing.jobs.missed import STEM as UNSEEN
from mammopipe.processing.jobs.parallel import Refused, map_images

THUMBNAILS = ".thumbnails"
"""Folder of thumbnails for the montage, removed at the end of the job."""


class ImageTask(Protocol):
    """The work of a job on one image."""

    @property
    def record(self) -> ImageRecord:
        """The image's record before the work."""


AnyTask = TypeVar("AnyTask", bound=ImageTask)


@dataclass
class Stage:
    """One stage's output folder: images by split, manifest, quarantine and `stage.json`."""

    name: str
    folder: Path
    host: str
    hosts: Sequence[str]
    config: Mapping[str, Any]
    input_digest: str
    records: list[ImageRecord] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    refused_before: list[tuple[str, str]] = field(default_factory=list)
    """Images that were refused before this stage: they are listed, but do not count towards `max_quarantine`.

    One of several instances lists all of them. Compared with its own share of the images, they would exceed the limit.
    """
    unseen: list[str] = field(default_factory=list)
    """Ids of images in the input records whose files this host lacks (`mammopipe.processing.jobs.missed`)."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Measurements of the job by name, for `stage.json`."""

    @classmethod
    def open(
        cls, name: str, paths: ContainerPaths, output: str, config: Mapping[str, Any], inputs: Iterable[ImageRecord]
    ) -> "Stage":
        """Return this host's stage, which writes to the processing output `output`."""
        host, hosts = paths.hosts()
        return cls(name, paths.processing_output(output), host, hosts, config, records_digest(inputs))

    def work(self, function: Callable[[AnyTask], list[ImageRecord]], tasks: Sequence[AnyTask]) -> None:
        """Call `function` for each task, on all cores, and collect its records; refused images are quarantined.

        An unexpected exception quarantines its image, with the name of the exception, and does not end the job. A
        `MammopipeError` other than `ImageError`, such as an error in the settings, ends the job. Images that an
        interrupted run of this job finished are not processed again.
        """
        journal = RecordJournal(self.folder / JOURNAL, self._fingerprint())
        try:
            waiting = [task for task in tasks if not self._take(journal.finished(task.record.image_id))]
            if len(waiting) < len(tasks):
                print(
                    f"{self.name}: {len(tasks) - len(waiting)} of {len(tasks)} images were finished before", flush=True
                )
            for task, result in map_images(partial(_attempt, function), waiting, total=len(waiting), title=self.name):
                if isinstance(result, Refused):
                    self.quarantine(task.record.image_id, result.reason)
                else:
                    self._take(result)
                    journal.add_records(task.record.image_id, result)
        finally:
            journal.close()

    def _take(self, records: list[ImageRecord] | None) -> bool:
        self.records += records or []
        return records is not None

    def _fingerprint(self) -> str:
        identity = [self.name, dict(self.config), self.input_digest, versions()]
        return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()

    def quarantine(self, image_id: str, reason: str) -> None:
        """Quarantine an image with the reason."""
        self.quarantined.append((image_id, reason))

    def close(self, *, max_quarantine: float) -> None:
        """Write the quarantine, `stage.json` and, last, the manifest.

        Raises `QuarantineError` if a larger share of the images than `max_quarantine` was refused, or if a stage with
        one host lacks files; then the quarantine is written but not the manifest.
        """
        listed_refusals = sorted([*self.quarantined, *self.refused_before])
        rows = [{"image_id": image_id, "reason": reason} for image_id, reason in listed_refusals]
        write_csv(self.part("quarantine", "csv"), ["image_id", "reason"], rows)
        require_few_refused(self.quarantined, len(self.records), max_quarantine)
        if self.unseen and len(self.hosts) == 1:
            raise QuarantineError(
                f"{self.name}: {len(self.unseen)} images of the manifest have no file; the first is {self.unseen[0]}"
            )
        write_csv(self.part(UNSEEN, "csv"), [COLUMN], [{COLUMN: image_id} for image_id in sorted(self.unseen)])
        write_json(self.part("stage", "json"), self._account())
        # The manifest comes last: where there is one, the stage is complete.
        write_manifest(self.records, self.part("manifest", "csv"))
        (self.folder / JOURNAL).unlink(missing_ok=True)
        if (self.folder / THUMBNAILS).is_dir():
            shutil.rmtree(self.folder / THUMBNAILS)

    def part(self, stem: str, suffix: str) -> Path:
        """Return the path of one of the stage's files; its name holds the host if there are several."""
        return self.folder / (f"{stem}.{suffix}" if len(self.hosts) == 1 else f"{stem}-{self.host}.{suffix}")

    def _account(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "counts": count(self.records) | {"quarantined": len(self.quarantined) + len(self.refused_before)},
            "config": dict(self.config),
            "versions": versions(),
            "input_digest": self.input_digest,
            "digest": records_digest(self.records),
            **self.measured,
        }


def require_few_refused(refused: Sequence[tuple[str, str]], kept: int, max_quarantine: float) -> None:
    """Raise `QuarantineError` if more than a share `max_quarantine` of the images is refused.

    Args:
        refused: The id of each refused image, and the reason.
        kept: Number of the other images.
        max_quarantine: The greatest share of all these images.
    """
    total = len(refused) + kept
    if refused and len(refused) > max_quarantine * total:
        image_id, reason = min(refused)
        raise QuarantineError(
            f"{len(refused)} of {total} images were refused, more than max_quarantine={max_quarantine:.0%}; the first "
            f"is {image_id}: {reason}"
        )


def _attempt(function: Callable[[AnyTask], list[ImageRecord]], task: AnyTask) -> list[ImageRecord]:
    """Call `function` in the worker; an unexpected exception becomes a refusal of the image.

    The exception's text is not shown, because it could hold personal data of a header. The log shows the traceback.
    """
    try:
        return function(task)
    except MammopipeError:
        raise
    except Exception as error:
        traceback.print_tb(error.__traceback__)
        name = type(error).__name__
        raise ImageError(f"{name}: a fault while working on this image; its place is in the log") from None


def count(records: Iterable[ImageRecord]) -> dict[str, Any]:
    """Return the number of images, the number of copies among them, and the numbers by split and label."""
    records = list(records)
    found = Counter((record.split, record.label) for record in records)
    labels = counted_labels(label for _, label in found)
    by_split = {str(split): {str(label): found[split, label] for label in labels} for split in Split}
    copies = sum(bool(record.source_image_id) for record in records)
    return {"images": len(records), "copies": copies, "by_split": by_split}


def records_digest(records: Iterable[ImageRecord]) -> str:
    """Return a SHA-256 over ids, splits, labels and file digests; it does not depend on the order of the records."""
    lines = sorted(f"{item.image_id} {item.patient_id} {item.split} {item.label} {item.sha256}" for item in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect the pixels."""
    packages = ("numpy", "opencv-python-headless", "albumentations")
    # Read from the package metadata: importing albumentations would take seconds in each job and worker.
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
