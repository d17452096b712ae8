"""Training performance of one GPU: `python -m benchmarks.gpu_check [--small]`, a JSON list on stdout, under 8 minutes.

The script generates all its input: synthetic images and random weights. For each network it measures: images a second
of training steps on images in memory, the ratio when workers load them from disk, memory, 16 bits against float32, and
whether the loss falls. `--small` tries the script with small images, which also runs on a machine without a GPU.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.rows import Row, row
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Split, View
from mammopipe.processing.images.mammogram import write_png
from mammopipe.training.config import Cache, TrainConfig
from mammopipe.training.fitting.dataset import FilmDataset, TrainingFilms
from mammopipe.training.fitting.optimiser import make_optimiser
from mammopipe.training.fitting.sampling import EpochBatches
from mammopipe.training.fitting.step import train_step
from mammopipe.training.model.architecture import Precision
from mammopipe.training.networks.precision import autocast
from mammopipe.training.networks.registry import build_model

COMMAND = "python -m benchmarks.gpu_check"
FED_BAR, PARITY_BAR = 0.95, 0.02
STEPS = 12


@dataclass(frozen=True)
class Case:
    """One network at one size."""

    network: str
    height: int
    width: int
    batch: int


CASES = (
    Case("convnext_small.fb_in22k_ft_in1k_384", 2048, 1024, 4),
    Case("resnet50", 1024, 512, 16),
    Case("resnet50", 384, 256, 32),
    Case("alexnet", 384, 256, 32),
    Case("modified_cnn", 384, 256, 32),
)
SMALL = (Case("convnext_atto", 96, 64, 4), Case("resnet50", 96, 64, 4), Case("modified_cnn", 96, 64, 8))


def make_images(folder: Path, case: Case, count: int) -> list[ImageRecord]:
    """Write images whose class is the number of their bright spots, and return their records."""
    records = []
    for index in range(count):
        label = list(Label)[index % 3]
        pixels = np.random.default_rng(index).integers(5000, 20000, (case.height, case.width)).astype(np.uint16)
        for spot in range(label.rank):
            top = case.height // 8 + spot * case.height // 3
            pixels[top : top + case.height // 5, case.width // 5 : case.width // 2] += 30000
        name = f"image{index}"
        write_png(folder / f"{name}.png", pixels)
        records.append(ImageRecord(name, name, "rsna", Laterality.LEFT, View.CC, label, Split.TRAIN))
    return records


def batches(films: FilmDataset, config: TrainConfig, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches as in the training loop, epoch after epoch."""
    sampler = EpochBatches(batch_size=config.batch_size)
    loader = DataLoader(
        TrainingFilms(films, config),
        batch_sampler=sampler,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        pin_memory=device.type == "cuda",
    )
    epoch = 0
    while True:
        epoch += 1
        order = np.random.default_rng(epoch).permutation(len(films) // config.batch_size * config.batch_size)
        sampler.start(order, epoch=epoch)
        yield from ((images, labels) for images, labels, _ in loader)


def rate(
    network: nn.Module, source: Iterator[tuple[Tensor, Tensor]], config: TrainConfig, device: torch.device
) -> tuple[float, list[float]]:
    """Return images a second of training steps after two warm-up steps, and the losses of all steps."""
    optimiser = make_optimiser(network, config)  # type: ignore[arg-type]
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    for group in optimiser.param_groups:
        group["lr"] = config.learning_rate
    losses, start = [], 0.0
    for index in range(STEPS + 2):
        if index == 2:
            start = finished(device)
        images, labels = next(source)
        losses.append(
            train_step(
                network, images, labels, optimiser=optimiser, scaler=scaler, weights=torch.ones(3, device=device),
                smoothing=0.0, precision=config.precision,
            )
        )  # fmt: skip
    return STEPS * config.batch_size / (finished(device) - start), [float(loss) for loss in losses]


def finished(device: torch.device) -> float:
    """Return the time once the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def parity(network: nn.Module, images: Tensor, device: torch.device) -> float:
    """Return the largest difference between a probability in bfloat16 and in float32."""
    network.eval()
    images = images.to(device, memory_format=torch.channels_last)
    with torch.inference_mode():
        exact = torch.softmax(network(images).float(), dim=1)
        with autocast(Precision.BFLOAT16, device):
            quick = torch.softmax(network(images).float(), dim=1)
    network.train()
    return float((exact - quick).abs().max())


def measure(case: Case, device: torch.device, workers: int) -> list[Row]:
    """Return the rows of one network."""
    label = f"{case.network}, {case.height} x {case.width}"
    config = TrainConfig(
        cnn=case.network,
        batch_size=case.batch,
        precision=Precision.BFLOAT16,
        learning_rate=1e-4,
        epochs=3,
        head_epochs=0,
    )
    with tempfile.TemporaryDirectory() as name:
        folder, shape = Path(name), (case.height, case.width)
        records = make_images(folder, case, 6 * case.batch)
        memory, disk = (FilmDataset(records, folder, shape=shape, cache=cache) for cache in (Cache.MEMORY, Cache.DISK))
        network = build_model(case.network, classes=3).to(device).to(memory_format=torch.channels_last).train()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        fixed = next(batches(memory, config, device))

        def repeated() -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                yield fixed

        alone, losses = rate(network, repeated(), config, device)
        fed, _ = rate(network, batches(disk, config.replace(workers=workers), device), config, device)
        difference = parity(network, fixed[0][:2], device)
    used = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    return [
        row(f"{label}: training step, batch {case.batch}", alone, "images/s", None, "higher", COMMAND),
        row(f"{label}: fed from disk over the step alone", fed / alone, "x", FED_BAR, "higher", COMMAND),
        row(f"{label}: memory", used, "GB", None, "lower", COMMAND),
        row(f"{label}: bfloat16 from float32, probability", difference, "", PARITY_BAR, "lower", COMMAND),
        row(
            f"{label}: loss on one batch, last step over the first", losses[-1] / losses[0], "x", 1.0, "lower", COMMAND
        ),
    ]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--small", action="store_true", help="small images: tries the script, measures nothing")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [item for case in (SMALL if options.small else CASES) for item in measure(case, device, options.workers)]
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
