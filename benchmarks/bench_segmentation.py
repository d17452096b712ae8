"""The time of segmentation on images of 2776 x 2082 pixels, and its accuracy, also compared with full resolution.

Run `python -m benchmarks.bench_segmentation [--rsna FOLDER] [--repeats 15]`: a JSON list on stdout. One thread,
processor time. Without `--rsna` (a folder with train_images), the images are phantoms.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row, row
from mammopipe.processing.breast import segmentation, working_copy
from mammopipe.processing.container.memory import keep_heap
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.images.mammogram import Mammogram, read_mammogram
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.processing.phantoms.muscle import MuscleTrait
from tests.support.clinical_phantoms import Kind, make_clinical_phantom

COMMAND = "python -m benchmarks.bench_segmentation"
ROWS, COLUMNS = 2776, 2082


def mammograms(folder: Path | None) -> list[Mammogram]:
    """Return the real files of this size below a folder, or four phantoms of this size."""
    if folder is not None:
        found = [read_mammogram(path) for path in sorted(folder.rglob("*.dcm"))]
        return [mammogram for mammogram in found if mammogram.pixels.shape == (ROWS, COLUMNS)]
    phantoms = [
        make_film(seed, label=Label.BENIGN, laterality=side, height=ROWS, width=COLUMNS)
        for seed, side in enumerate((*Laterality, *Laterality))
    ]
    return [
        Mammogram(mammogram.pixels, side, View.MLO)
        for mammogram, side in zip(phantoms, (*Laterality, *Laterality), strict=True)
    ]


def seconds(mammogram: Mammogram, repeats: int) -> tuple[float, float]:
    """Return the median processor time of our segmentation and of the plain one; they alternate."""
    spent: dict[Callable[[Mammogram], None], list[float]] = {ours: [], plain: []}
    for turn in range(repeats + 1):
        for member, times in spent.items():
            begun = time.process_time()
            member(mammogram)
            if turn:
                times.append(time.process_time() - begun)
    return statistics.median(spent[ours]), statistics.median(spent[plain])


def ours(mammogram: Mammogram) -> None:
    """Segment the image."""
    segmentation.segment_breast(mammogram.pixels, laterality=mammogram.laterality, view=mammogram.view)


def plain(mammogram: Mammogram) -> None:
    """Use the common method at full size: Otsu's threshold, the largest component, a closing."""
    eight_bit = (mammogram.pixels >> 8).astype(np.uint8)
    _, objects = cv2.threshold(eight_bit, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(objects)
    largest = (labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    cv2.morphologyEx(largest, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (25, 25)))


def overlap(mammogram: Mammogram) -> float:
    """Return the Dice coefficient between our mask and the mask found without reducing the image first."""
    reduced = segmentation.segment_breast(mammogram.pixels, laterality=mammogram.laterality, view=mammogram.view).mask
    with patch.object(working_copy, "WORKING_SIZE", max(mammogram.pixels.shape)):
        full = segmentation.segment_breast(mammogram.pixels, laterality=mammogram.laterality, view=mammogram.view).mask
    return dice(reduced, full)


def clinical_rows(count: int) -> list[Row]:
    """Return the accuracy of the breast mask on phantoms of all detectors and films, with alternating side and view."""
    overlaps, muscles, wrong = [], [], 0
    for number in range(count):
        kind = list(Kind)[number % len(Kind)]
        phantom = make_clinical_phantom(
            number, kind, laterality=list(Laterality)[number // 2 % 2], view=(View.MLO, View.CC)[number // 4 % 2]
        )
        region = segmentation.segment_breast(phantom.pixels, laterality=phantom.laterality, view=phantom.view)
        overlaps.append(dice(region.mask, phantom.breast))
        wrong += region.chest_side is not segmentation.Side.of(phantom.laterality)
        if phantom.view is View.MLO:
            muscles.append(dice(region.pectoral, phantom.pectoral))
    low, muscle = float(np.percentile(overlaps, 5)), float(np.median(muscles))
    worst = float(np.percentile(muscles, 5))
    name = "segmentation, phantoms of all kinds"
    return [
        row(f"{name}, 5th percentile of Dice", low, "", 0.97, "higher", COMMAND, phantoms=count),
        row(f"{name}, wrong sides", wrong, "", 0, "lower", COMMAND, phantoms=count),
        row(f"{name}, median Dice of the muscle", muscle, "", 0.93, "higher", COMMAND, phantoms=len(muscles)),
        row(f"{name}, 5th percentile of the muscle's Dice", worst, "", 0.86, "higher", COMMAND, phantoms=len(muscles)),
    ]


def hard_rows(count: int) -> list[Row]:
    """Return the accuracy of the muscle on phantoms with muscles that are hard to find; traits and kinds alternate."""
    kinds = (Kind.FILM, Kind.BORDER, Kind.DARK_FAT, Kind.SKIN_LINE, Kind.NOISY_AIR, Kind.WINDOWED, Kind.SHUTTERED)
    muscles = []
    for number in range(count):
        trait = list(MuscleTrait)[number % len(MuscleTrait)]
        side = list(Laterality)[number // len(MuscleTrait) % 2]
        phantom = make_clinical_phantom(number, kinds[number % len(kinds)], laterality=side, trait=trait)
        region = segmentation.segment_breast(phantom.pixels, laterality=side, view=View.MLO)
        muscles.append(dice(region.pectoral, phantom.pectoral))
    name, low = "segmentation, phantoms with muscles that are hard to find", float(np.percentile(muscles, 5))
    return [
        row(f"{name}, median Dice", float(np.median(muscles)), "", 0.93, "higher", COMMAND, phantoms=count),
        row(f"{name}, 5th percentile of Dice", low, "", 0.86, "higher", COMMAND, phantoms=count),
    ]


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the Dice coefficient: twice the common area over the sum of both."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rsna", type=Path, help="folder with train_images")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--phantoms", type=int, default=1000, help="phantoms of all kinds that are segmented")
    parser.add_argument("--hard", type=int, default=600, help="phantoms with muscles that are hard to find")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    keep_heap()
    measured = mammograms(arguments.rsna)
    spent, usual = zip(*(seconds(mammogram, arguments.repeats) for mammogram in measured), strict=True)
    overlaps = [overlap(mammogram) for mammogram in measured]
    size = f"{ROWS} x {COLUMNS}"
    rows: list[Row] = [
        row(
            f"segmentation on one core, {size}",
            1000 * statistics.median(spent),
            "ms",
            15,
            "lower",
            COMMAND,
            plain_at_full_size=1000 * statistics.median(usual),
        ),
        row(
            f"segmentation, share of the plain way at full size, {size}",
            statistics.median(spent) / statistics.median(usual),
            "x",
            0.15,
            "lower",
            COMMAND,
        ),
        row(
            f"segmentation, least Dice to full resolution, {size}",
            min(overlaps),
            "",
            0.98,
            "higher",
            COMMAND,
            films=len(measured),
        ),
    ]
    print(json.dumps(rows + clinical_rows(arguments.phantoms) + hard_rows(arguments.hard), indent=2))


if __name__ == "__main__":
    main()
