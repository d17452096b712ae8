"""What the three jobs share: the folder that a stage leaves, its quarantine, and its account of itself."""

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

from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split, write_manifest
from mammopipe.processing.errors import ImageError, MammopipeError, QuarantineError
from mammopipe.processing.files import write_csv, write_json
from mammopipe.processing.jobs.journal import NAME as JOURNAL
from mammopipe.processing.jobs.journal import Journal
from mammopipe.processing.jobs.missed import COLUMN
from mammopipe.processing.jobs.missed import STEM as UNSEEN
from mammopipe.processing.jobs.parallel import Refused, map_images

THUMBNAILS = ".thumbnails"
"""Folder of small pictures that a job keeps for its montage until it ends."""


class Task(Protocol):
    """What a job does to one image."""

    @property
    def record(self) -> ImageRecord:
        """The image's manifest row before the work."""


AnyTask = TypeVar("AnyTask", bound=Task)


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
    unseen: list[str] = field(default_factory=list)
    """Ids of images that this host was told of and has no file of (`mammopipe.processing.jobs.missed`)."""
    measured: dict[str, Any] = field(default_factory=dict)
    """What the job measured of itself, by name, for `stage.json`."""

    @classmethod
    def open(
        cls, name: str, paths: ContainerPaths, output: str, config: Mapping[str, Any], inputs: Iterable[ImageRecord]
    ) -> "Stage":
        """Return the stage that writes to the processing output `output` on this host."""
        host, hosts = paths.hosts()
        return cls(name, paths.processing_output(output), host, hosts, config, records_digest(inputs))

    def work(self, function: Callable[[AnyTask], list[ImageRecord]], tasks: Sequence[AnyTask]) -> None:
        """Collect the records that `function` makes of each task, on all cores, and quarantine what it refuses.

        Whatever `function` raises costs its image a row in the quarantine, with the exception's name, and never the
        job; an error of the job's settings (`MammopipeError` other than `ImageError`) still ends it. What an earlier
        start of this job left finished and whole in the folder is taken as it is.
        """
        journal = Journal(self.folder, self._fingerprint())
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
                    journal.add(task.record.image_id, result)
        finally:
            journal.close()

    def _take(self, records: list[ImageRecord] | None) -> bool:
        self.records += records or []
        return records is not None

    def _fingerprint(self) -> str:
        said = [self.name, dict(self.config), self.input_digest, versions()]
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()

    def quarantine(self, image_id: str, reason: str) -> None:
        """Set an image aside with its reason."""
        self.quarantined.append((image_id, reason))

    def close(self, *, max_quarantine: float) -> None:
        """Write quarantine, `stage.json` and, last, the manifest.

        Raises `QuarantineError`, after the quarantine is written and before the manifest is, where a larger share than
        `max_quarantine` of the images was refused.
        """
        rows = [{"image_id": image_id, "reason": reason} for image_id, reason in sorted(self.quarantined)]
        write_csv(self.part("quarantine", "csv"), ["image_id", "reason"], rows)
        seen = len(self.records) + len(rows)
        if rows and len(rows) > max_quarantine * seen:
            raise QuarantineError(
                f"{len(rows)} of {seen} images were refused, more than "
                f"max_quarantine={max_quarantine:.0%}; the first is {rows[0]['image_id']}: {rows[0]['reason']}"
            )
        if self.unseen and len(self.hosts) == 1:
            raise QuarantineError(
                f"{self.name}: {len(self.unseen)} images of the manifest have no file; the first is {self.unseen[0]}"
            )
        write_csv(self.part(UNSEEN, "csv"), [COLUMN], [{COLUMN: image_id} for image_id in sorted(self.unseen)])
        write_json(self.part("stage", "json"), self._account())
        write_manifest(self.records, self.part("manifest", "csv"))
        for leftover in (THUMBNAILS, JOURNAL):
            _remove(self.folder / leftover)

    def part(self, stem: str, suffix: str) -> Path:
        """Return the path of one of the stage's files, which several hosts must not overwrite for each other."""
        return self.folder / (f"{stem}.{suffix}" if len(self.hosts) == 1 else f"{stem}-{self.host}.{suffix}")

    def _account(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "counts": count(self.records) | {"quarantined": len(self.quarantined)},
            "config": dict(self.config),
            "versions": versions(),
            "input_digest": self.input_digest,
            "digest": records_digest(self.records),
            **self.measured,
        }


def _attempt(function: Callable[[AnyTask], list[ImageRecord]], task: AnyTask) -> list[ImageRecord]:
    """Do the work in the worker, where a fault becomes a refusal of its image.

    The text of a fault is not told, for it could hold what a header says of a person; its place goes to the log.
    """
    try:
        return function(task)
    except MammopipeError:
        raise
    except Exception as error:
        traceback.print_tb(error.__traceback__)
        name = type(error).__name__
        raise ImageError(f"{name}: a fault while working on this image; its place is in the log") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def count(records: Iterable[ImageRecord]) -> dict[str, Any]:
    """Return the number of images, how many of them are copies, and images by split and label."""
    records = list(records)
    found = Counter((record.split, record.label) for record in records)
    by_split = {str(split): {str(label): found[split, label] for label in Label} for split in Split}
    copies = sum(bool(record.source_image_id) for record in records)
    return {"images": len(records), "copies": copies, "by_split": by_split}


def records_digest(records: Iterable[ImageRecord]) -> str:
    """Return a SHA-256 over ids, splits, labels and file digests: equal for equal data, whatever its order."""
    lines = sorted(f"{item.image_id} {item.patient_id} {item.split} {item.label} {item.sha256}" for item in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what shapes the pixels."""
    packages = ("numpy", "opencv-python-headless", "albumentations")
    # Asked of the installation: importing albumentations would cost each job and worker seconds.
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
