"""Images that a stage was given and no instance of it saw.

With several instances each sees its own share of the files, so none of them can tell a file that is missing from one
of another instance. Each writes what it did not see (`unseen.csv`, or `unseen-<host>.csv`); who reads all of these
knows what nobody saw.
"""

import csv
from pathlib import Path

from mammopipe.processing.errors import ConfigError, QuarantineError

STEM = "unseen"
COLUMN = "image_id"


def missed(folder: Path) -> list[str]:
    """Return the ids that stand in every instance's list below `folder`; raises `ConfigError` where there is none."""
    lists = sorted(folder.glob(f"*{STEM}*.csv"))
    if not lists:
        raise ConfigError(f"{folder}: no {STEM}.csv and no {STEM}-<host>.csv here; every stage writes them")
    seen_by_none: set[str] | None = None
    for path in lists:
        with path.open(encoding="utf-8", newline="") as stream:
            ids = {row[COLUMN] for row in csv.DictReader(stream)}
        seen_by_none = ids if seen_by_none is None else seen_by_none & ids
    return sorted(seen_by_none or ())


def refuse_missed(manifest: Path, lists: Path, stage: str, seen: int, *, max_share: float = 0.0) -> list[str]:
    """Return what no instance of a stage saw, or raise `QuarantineError` where that is more than a share of all images.

    A stage with one instance refuses missing files itself.

    Args:
        manifest: Where the manifest of each instance lies.
        lists: Where the list of each instance lies.
        stage: The stage that wrote them.
        seen: The number of images that the stage left.
        max_share: The share of all its images that may be missing.
    """
    if len(list(manifest.glob("*manifest*.csv"))) == 1:
        return []
    lost = missed(lists)
    total = seen + len(lost)
    if lost and len(lost) > max_share * total:
        raise QuarantineError(
            f"{stage}: {len(lost)} of {total} images were seen by none of its instances, more than {max_share:.0%}: "
            f"their files are missing; the first is {lost[0]}"
        )
    return lost
