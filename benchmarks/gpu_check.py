"""Training performance of one GPU: `python -m benchmarks.gpu_check [--small]`, a JSON list on stdout, under 8 minutes.

The script generates all its input: synthetic images and random weights. For each network it measures: images a second
of training steps on images in memory, the ratio when workers load them from disk, memory, 16 bits against float32, and
whether the loss falls. Further rows: variation of images on the device against variation by CPU workers, and two
processes of one job on the same device (gloo) against one. `--small` tests the script itself, with small images; it
also runs on a machine without a GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.rows import Row, row
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Split, View
from mammopipe.processing.images.mammogram import write_png
from mammopipe.training.config import Cache, TrainConfig
from mammopipe.training.fitting.dataset import ImageDataset, TrainingImages
from mammopipe.training.fitting.distributed import World
from mammopipe.training.fitting.loop import fit
from mammopipe.training.fitting.optimiser import make_optimiser
from mammopipe.training.fitting.sampling import EpochBatches
from mammopipe.training.fitting.step import StepLoss, train_step
from mammopipe.training.model.architecture import Precision
from mammopipe.training.networks.precision import autocast
from mammopipe.training.networks.registry import build_model
from mammopipe.training.variation import AugmentOn

COMMAND = "python -m benchmarks.gpu_check"
FED_BAR, PARITY_BAR, PROCESSES_BAR = 0.95, 0.02, 0.01
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

PROCESS_CASES = {False: Case("modified_cnn", 384, 256, 32), True: Case("modified_cnn", 96, 64, 8)}
"""The case of two processes on one device, without and with `--small`."""


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


def batches(dataset: ImageDataset, config: TrainConfig, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches as in the training loop, epoch after epoch."""
    sampler = EpochBatches(batch_size=config.batch_size)
    loader = DataLoader(
        TrainingImages(dataset, config),
        batch_sampler=sampler,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        pin_memory=device.type == "cuda",
    )
    epoch = 0
    while True:
        epoch += 1
        order = np.random.default_rng(epoch).permutation(len(dataset) // config.batch_size * config.batch_size)
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
                network, images, labels, loss=StepLoss(torch.ones(3, device=device), smoothing=0.0),
                optimiser=optimiser, scaler=scaler, precision=config.precision,
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
        memory, disk = (ImageDataset(records, folder, shape=shape, cache=cache) for cache in (Cache.MEMORY, Cache.DISK))
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


def measure_variation(case: Case, device: torch.device, workers: int) -> list[Row]:
    """Return the rows of variation: images a second on the device, and how many times that of the CPU workers."""
    from mammopipe.training.fitting.variation.on_device import UnvariedImages, varied_here

    rates = {}
    with tempfile.TemporaryDirectory() as name:
        records = make_images(Path(name), case, 4 * case.batch)
        dataset = ImageDataset(records, Path(name), shape=(case.height, case.width), cache=Cache.MEMORY)
        for where, kind in ((AugmentOn.CPU, TrainingImages), (AugmentOn.GPU, UnvariedImages)):
            config = TrainConfig(batch_size=case.batch, augment=1.0, augment_on=where)
            sampler = EpochBatches(batch_size=case.batch)
            loader = DataLoader(
                kind(dataset, config), batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0
            )
            for epoch in (1, 2):  # the first epoch starts the workers and the device's libraries
                sampler.start(np.arange(len(dataset)), epoch=epoch)
                start = finished(device)
                for images, _, _ in loader:
                    varied_here(images, config, device).to(device)
                rates[where] = len(dataset) / (finished(device) - start)
    label = f"{case.height} x {case.width}: images varied"
    gain = rates[AugmentOn.GPU] / rates[AugmentOn.CPU]
    return [
        row(f"{label} on the device", rates[AugmentOn.GPU], "images/s", None, "higher", COMMAND),
        row(f"{label} on the device over by {workers} CPU workers", gain, "x", None, "higher", COMMAND),
    ]


def measure_processes(small: bool) -> list[Row]:
    """Return the rows of two processes on one device: whether their results are those of one, and their speed."""
    found = []
    for count in (1, 2):
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command = [
            sys.executable,
            *torchrun,
            "-m",
            "benchmarks.gpu_check",
            "--process",
            *(["--small"] if small else []),
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    one, two = found
    label = "modified_cnn, two processes on one device (gloo)"
    difference = max(abs(two[name] - one[name]) for name in ("train_loss", "validation_loss", "validation_macro_auc"))
    return [
        row(f"{label}: losses and macro AUC from those of one", difference, "", PROCESSES_BAR, "lower", COMMAND),
        row(f"{label}: images a second over one's", one["seconds"] / two["seconds"], "x", None, "higher", COMMAND),
    ]


def run_process(small: bool) -> None:
    """Train in one of the processes that torchrun started, all on the first device; print the last epoch as JSON."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    torch.distributed.init_process_group("gloo")
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    world, case = World(rank, size, device, rank, size), PROCESS_CASES[small]
    config = TrainConfig(
        cnn=case.network, epochs=2, head_epochs=0, warmup_epochs=0, batch_size=case.batch, learning_rate=1e-4,
        precision=Precision.FLOAT32, dropout=0.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        # Each process writes the same images to its own folder; both read those of the first process.
        records = make_images(Path(name), case, 6 * case.batch)
        dataset = ImageDataset(records, Path(name), shape=(case.height, case.width), cache=Cache.MEMORY, world=world)
        network = build_model(case.network, classes=3).to(device)
        last = fit(network, dataset, dataset, config, pretrained=False, world=world).history[-1]
    if world.leads:
        print(json.dumps(asdict(last)))
    torch.distributed.destroy_process_group()


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--small", action="store_true", help="small images, to test the script; the figures mean nothing"
    )
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        run_process(options.small)
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = SMALL if options.small else CASES
    rows = [item for case in cases for item in measure(case, device, options.workers)]
    rows += measure_variation(cases[1], device, options.workers) + measure_processes(options.small)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
