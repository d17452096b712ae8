"""Print the table of injected leaks as Markdown: `python -m benchmarks.data.injected_leaks [--mias FOLDER]`.

Every kind of `tests.support.leak_kinds` is injected once per test image, or once per evaluation. `--mias` uses real
images, evenly picked from patients of each worst label; otherwise the images are phantoms.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import ImageRecord, Label
from mammopipe.processing.datasets.mias import read_labels
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.splits.assignment import SplitConfig, assign_splits
from tests.support.clean_set import CleanSet, phantom_set
from tests.support.leak_kinds import KINDS, clean_findings


def main(arguments: Sequence[str]) -> int:
    """Return 1 if a leak is not detected or a clean run is reported as leaking, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data.injected_leaks", description=__doc__)
    parser.add_argument("--mias", type=Path, help="folder with mdb001.pgm ... and Info.txt")
    parser.add_argument("--films", type=int, default=40, help="two to a patient")
    parser.add_argument("--height", type=int, default=PreprocessConfig().height)
    parser.add_argument("--width", type=int, default=PreprocessConfig().width)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    config = PreprocessConfig(height=options.height, width=options.width)
    with TemporaryDirectory() as name:
        root = Path(name)
        clean = (
            mias_set(root / "clean", options.mias, options.films, config)
            if options.mias
            else phantom_set(root / "clean", options.films // 2, config)
        )
        counts = {
            split: sum(record.split == split and not record.source_image_id for record in clean.records)
            for split in ("train", "validation", "test")
        }
        print(
            f"{'Images of mini-MIAS' if options.mias else 'Phantoms'}, {config.height} x {config.width} pixels: "
            f"{', '.join(f'{number} in {split}' for split, number in counts.items())}.\n"
        )
        return table(clean, root)


def table(clean: CleanSet, root: Path) -> int:
    """Print one row per kind, each injected into its own copy of the set; return the number of undetected kinds."""
    print("| injected | leaks | caught | by | says |\n|---|---|---|---|---|")
    started, missed = time.monotonic(), 0
    for number, (kind, plant) in enumerate(KINDS.items()):
        shutil.copytree(clean.folder, root / f"{number}" / "set")
        with redirect_stdout(sys.stderr):
            outcome = plant(replace(clean, folder=root / f"{number}" / "set"), root / f"{number}")
        missed += outcome.caught < outcome.planted
        print(f"| {kind} | {outcome.planted} | {outcome.caught} | {outcome.by} | {outcome.message} |", flush=True)
        shutil.rmtree(root / f"{number}")
    with redirect_stdout(sys.stderr):
        found = clean_findings(clean, root / "none")
    says = found[0].message if found else "passed"
    print(f"| nothing (a clean run) | 0 | {len(found)} | | {says} |")
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    return 1 if missed or found else 0


def mias_set(folder: Path, source: Path, images: int, config: PreprocessConfig) -> CleanSet:
    """Return a clean set of real images."""
    records = read_labels(source / "Info.txt")
    worst: dict[str, Label] = {}
    for record in records:
        worst[record.patient_id] = max(
            worst.get(record.patient_id, Label.NORMAL), record.label, key=lambda label: label.rank
        )
    patients: list[str] = []
    for number, label in enumerate(THREE):
        members = sorted(patient for patient, found in worst.items() if found is label)
        wanted = (images // 2 + number) // len(THREE)
        patients += members[:: max(1, len(members) // wanted)][:wanted]
    chosen = [record for record in records if record.patient_id in patients]
    split = assign_splits(chosen, SplitConfig(test_fraction=0.3, folds=3))
    return CleanSet.make(folder, [read_image(source, record) for record in split], config)


def read_image(source: Path, record: ImageRecord) -> tuple[NDArray[np.uint16], ImageRecord]:
    """Return the pixels of an image and its record."""
    return read_mammogram(source / f"{record.image_id}.pgm", record=record).pixels, record


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
