"""Finds images of a stage that none of its instances received.

Each of several instances receives its own share of the files, so it cannot distinguish a missing file from a file of
another instance. Each instance writes the list of images that it did not receive (`unseen.csv`, or
`unseen-<host>.csv`). An image in all lists is missing.
"""

import csv
from pathlib import Path

from mammopipe.processing.errors import ConfigError, QuarantineError

STEM = "unseen"
COLUMN = "image_id"


def unseen_by_all(folder: Path) -> list[str]:
    """Return the ids in the lists of all instances below `folder`; raises `ConfigError` if there is no list."""
    lists = sorted(folder.glob(f"{STEM}*.csv"))
    if not lists:
        raise ConfigError(f"{folder}: no {STEM}.csv and no {STEM}-<host>.csv here; every stage writes them")
    seen_by_none: set[str] | None = None
    for path in lists:
        with path.open(encoding="utf-8", newline="") as stream:
            ids = {row[COLUMN] for row in csv.DictReader(stream)}
        seen_by_none = ids if seen_by_none is None else seen_by_none & ids
    return sorted(seen_by_none or ())


def _hosts(folder: Path, stem: str) -> set[str]:
    """Return the instances that wrote `<stem>-<host>.csv`; the host is empty for the `<stem>.csv` of a single one."""
    return {path.stem.removeprefix(stem).removeprefix("-") for path in folder.glob(f"{stem}*.csv")}


def refuse_missed(manifest: Path, lists: Path, stage: str, seen: int, *, max_share: float = 0.0) -> list[str]:
    """Return the images that no instance of a stage received; raise `QuarantineError` if there are too many.

    A stage with one instance refuses missing files itself.

    Args:
        manifest: The folder with the manifest of each instance.
        lists: The folder with the list of each instance.
        stage: The stage that wrote them.
        seen: The number of images in the stage's output.
        max_share: The greatest share of all its images that may be missing.
    """
    parts = _hosts(manifest, "manifest")
    if parts == {""}:
        return []
    if (others := _hosts(lists, STEM)) and others != parts:
        raise ConfigError(
            f"{stage}: manifests of the instances {', '.join(sorted(parts))}, but lists of unseen images of "
            f"{', '.join(sorted(others))}; each instance writes both"
        )
    missing = unseen_by_all(lists)
    total = seen + len(missing)
    if missing and (len(missing) > max_share * total or not seen):
        raise QuarantineError(
            f"{stage}: {len(missing)} of {total} images were seen by none of its instances, more than {max_share:.0%}: "
            f"their files are missing; the first is {missing[0]}"
        )
    return missing
