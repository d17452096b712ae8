"""What the three jobs share: the folder that a stage leaves, its quarantine, and its account of itself."""

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from processing.errors import QuarantineError
from processing.files import write_csv, write_json
from processing.paths import ContainerPaths
from processing.records import ImageRecord, Split, write_manifest


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

    @classmethod
    def open(
        cls, name: str, paths: ContainerPaths, output: str, config: Mapping[str, Any], inputs: Iterable[ImageRecord]
    ) -> "Stage":
        """Return the stage that writes to the processing output `output` on this host."""
        host, hosts = paths.hosts()
        return cls(name, paths.processing_output(output), host, hosts, config, records_digest(inputs))

    def quarantine(self, image_id: str, reason: str) -> None:
        """Set an image aside with its reason."""
        self.quarantined.append((image_id, reason))

    def close(self, *, max_quarantine: float) -> None:
        """Write quarantine, `stage.json` and, last, the manifest.

        Raises `QuarantineError`, after the quarantine is written and before the manifest is, where a larger share than
        `max_quarantine` of the images was refused.
        """
        rows = [{"image_id": image_id, "reason": reason} for image_id, reason in sorted(self.quarantined)]
        write_csv(self.folder / self._part("quarantine", "csv"), ["image_id", "reason"], rows)
        seen = len(self.records) + len(rows)
        if rows and len(rows) > max_quarantine * seen:
            raise QuarantineError(
                f"{self.name}: {len(rows)} of {seen} images were refused, more than "
                f"max_quarantine={max_quarantine:.0%}; the first is {rows[0]['image_id']}: {rows[0]['reason']}"
            )
        write_json(self.folder / self._part("stage", "json"), self._account())
        write_manifest(self.records, self.folder / self._part("manifest", "csv"))

    def _part(self, stem: str, suffix: str) -> str:
        return f"{stem}.{suffix}" if len(self.hosts) == 1 else f"{stem}-{self.host}.{suffix}"

    def _account(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "counts": count(self.records) | {"quarantined": len(self.quarantined)},
            "config": dict(self.config),
            "versions": versions(),
            "input_digest": self.input_digest,
            "digest": records_digest(self.records),
        }


def count(records: Iterable[ImageRecord]) -> dict[str, Any]:
    """Return the number of images, and of originals and copies by split and label."""
    records = list(records)
    by_split = {
        str(split): dict(Counter(str(record.label) for record in records if record.split is split)) for split in Split
    }
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
