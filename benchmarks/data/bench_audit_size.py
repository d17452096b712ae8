"""Measures the cost of the leakage audit as the set grows: `python -m benchmarks.data.bench_audit_size [--images N]`.

The images are phantoms in the layout of RSNA, segmented at 256 rows, so that they are compared place by place, too.
Each patient is in one of five folds or the test split, and no two images are alike: every finding is a false alarm. The
cost is CPU time, because wall time depends on what else the machine does. Prints rows for `make bench`.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from benchmarks.rows import Row, row
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import ImageRecord, Split
from mammopipe.processing.errors import MammopipeError
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import Mammogram, write_png
from mammopipe.processing.phantoms.rsna_tree import rsna_images
from mammopipe.processing.splits import local_agreement
from mammopipe.processing.splits.leakage_audit import LeakageReport, audit_leakage

COMMAND = "python -m benchmarks.data.bench_audit_size"
CONFIG = PreprocessConfig(height=256, width=160)
RSNA_IMAGES, FOLDS = 54_706, 5
MINUTES_BAR, GROWTH_BAR = 20.0, 1.15


@dataclass(frozen=True)
class Cost:
    """What one audit took."""

    images: int
    seconds: float
    """CPU seconds of all threads."""
    pairs: int
    """Pairs that were compared place by place."""
    found: LeakageReport


def images(folder: Path, count: int) -> Iterator[ImageRecord]:
    """Write `count` segmented phantoms and yield their rows; the images of a patient are in one group."""
    made = 0
    for line, _, image in rsna_images(count, seed=1, height=CONFIG.height):
        name, patient = f"{line['image_id']}", int(line["patient_id"])
        path = Path("images", f"{name}.png")
        mammogram = Mammogram(image.pixels, image.laterality, image.view)
        try:
            write_png(folder / path, preprocess(mammogram, CONFIG).pixels)
        except MammopipeError as error:
            print(f"{name}: {error}", file=sys.stderr)  # a run leaves such an image out, too
            continue
        group = patient % (FOLDS + 1)
        split = Split.TEST if group == FOLDS else Split.TRAIN if group else Split.VALIDATION
        yield ImageRecord(
            name,
            line["patient_id"],
            "rsna",
            image.laterality,
            image.view,
            image.label,
            split,
            None if group == FOLDS else group,
            path.as_posix(),
            sha256=sha256(folder / path),
            synthetic=True,
        )
        made += 1
        if made == count:
            return


def measure(records: Sequence[ImageRecord], folder: Path) -> Cost:
    """Audit the images and return the cost."""
    folds = {record.image_id: f"fold {record.fold}" for record in records if record.fold is not None}
    compared = 0

    def counted(*arguments: object) -> object:
        nonlocal compared
        compared += 1
        return whole(*arguments)  # type: ignore[arg-type]

    whole, started = local_agreement.local_match, time.process_time()
    with patch.object(local_agreement, "local_match", counted):
        found = audit_leakage(records, folder, folds=folds)
    return Cost(len(records), time.process_time() - started, compared, found)


def rows(costs: Sequence[Cost]) -> list[Row]:
    """Return the rows of audits of growing size."""
    last, seconds = costs[-1], [cost.seconds / cost.images for cost in costs]
    what = f"audit at {CONFIG.height} rows"
    minutes = seconds[-1] * RSNA_IMAGES / 2 / 60
    alarms = sum(len(cost.found.findings) for cost in costs)
    sizes = {f"{cost.images:,} images": cost.seconds for cost in costs}
    pairs = {f"{cost.images:,} images": cost.pairs / cost.images for cost in costs}
    growth = f"{what}, {costs[0].images:,} to {last.images:,} images: CPU seconds an image"
    return [
        row(f"{what}: CPU seconds, {last.images:,} images", last.seconds, "s", None, "lower", COMMAND, **sizes),
        row(growth, seconds[-1] / seconds[0], "x", GROWTH_BAR, "lower", COMMAND),
        row(
            f"{what}: minutes at {RSNA_IMAGES:,} images on two cores, if it keeps growing linearly",
            minutes,
            "min",
            MINUTES_BAR,
            "lower",
            COMMAND,
        ),
        row(
            f"{what}: pairs compared place by place, an image",
            last.pairs / last.images,
            "",
            None,
            "lower",
            COMMAND,
            **pairs,
        ),
        row(f"{what}: false alarms, {last.images:,} images", alarms, "pairs", 0, "lower", COMMAND),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 1000, 2000], help="sizes of the set, ascending")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as name:
        records = list(images(Path(name), max(options.images)))
        costs = []
        for count in options.images:
            costs.append(measure(records[:count], Path(name)))
            cost = costs[-1]
            print(
                f"{count} images: {cost.seconds:.1f} CPU s, {cost.pairs} pairs place by place; {cost.found.verdict}; "
                f"{dict(cost.found.checked)}",
                file=sys.stderr,
                flush=True,
            )
    print(json.dumps(rows(costs)))


if __name__ == "__main__":
    main()
