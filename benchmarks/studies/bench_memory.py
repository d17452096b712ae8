"""Peak memory of a training process on a small and on a large set, with `cache = "disk"`.

Run `python -m benchmarks.studies.bench_memory [--images 500 10000]`: a JSON list on stdout. Each size trains one epoch
of a small network in a process of its own, on random images of 96 x 64 pixels.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, row
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Split, View
from mammopipe.processing.images.mammogram import write_png

COMMAND = "python -m benchmarks.studies.bench_memory"
SHAPE = (96, 64)
DIFFERENT = 50
"""Number of different images; all others are hard links to them, to save time and disk space."""
BAR_MB = 50.0


def make_images(folder: Path, images: int) -> list[ImageRecord]:
    """Write random images, the classes in turn, and return their records."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(images):
        name = f"i{number:05d}"
        if number < DIFFERENT:
            write_png(folder / f"{name}.png", rng.integers(0, 65536, SHAPE, np.uint16))
        else:
            os.link(folder / f"i{number % DIFFERENT:05d}.png", folder / f"{name}.png")
        label = list(Label)[number % 3]
        records.append(
            ImageRecord(
                name, name, "mias", Laterality.LEFT, View.MLO, label, Split.TRAIN, path=f"{name}.png",
                height=SHAPE[0], width=SHAPE[1],
            )
        )  # fmt: skip
    return records


def train_once(images: int) -> float:
    """Train one epoch on this number of images in this process and return its peak resident size in MB."""
    from mammopipe.training.config import Cache, Sampling, TrainConfig
    from mammopipe.training.fitting.dataset import ImageDataset
    from mammopipe.training.fitting.loop import fit
    from mammopipe.training.networks.registry import build_model

    config = TrainConfig(
        cnn="modified_cnn", epochs=1, head_epochs=0, warmup_epochs=0.5, cache=Cache.DISK, sampling=Sampling.PLAIN
    )
    with tempfile.TemporaryDirectory() as name:
        records = make_images(Path(name), images)
        dataset = ImageDataset(records, Path(name), shape=SHAPE, description="images", cache=Cache.DISK)
        validation = dataset.part(range(60))
        fit(build_model("modified_cnn", classes=dataset.classes), dataset, validation, config, pretrained=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(images: int) -> float:
    """Return the peak resident size, in MB, of a new process that trains once."""
    command = [sys.executable, "-m", "benchmarks.studies.bench_memory", "--child", str(images)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def figures(small: int, large: int, peaks: tuple[float, float]) -> list[Row]:
    """Return the row of the benchmark."""
    label = f"training from disk: peak memory at {large:,} images, above that at {small:,}"
    peers = {f"images_{small}": peaks[0], f"images_{large}": peaks[1]}
    return [row(label, peaks[1] - peaks[0], "MB", BAR_MB, "lower", COMMAND, **peers)]


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, nargs=2, default=[500, 10_000], metavar=("SMALL", "LARGE"))
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(train_once(options.child))
        return
    small, large = options.images
    print(json.dumps(figures(small, large, (measure(small), measure(large))), indent=2))


if __name__ == "__main__":
    main()
