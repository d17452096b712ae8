"""Overhead of loading data in training: steps of an epoch against the same steps on tensors in memory.

Run `python -m benchmarks.bench_training [--size 224] [--batch 16] [--steps 12] [--processes 2]`: a JSON list on
stdout. Members of a ratio alternate step by step, and the ratio is the median over the turns, so changes in the
machine's speed have little effect. Images a second are comparable only within one run. `fp32` is the step of
torchvision's reference classification script, except that it reads no images: float32, channels first, SGD.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks.rows import Row, row
from mammopipe.processing.container.memory import keep_heap
from mammopipe.processing.datasets.manifest import ImageRecord, Label
from mammopipe.processing.images.mammogram import write_png
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.dataset import ImageDataset, TrainingImages
from mammopipe.training.fitting.optimiser import make_optimiser
from mammopipe.training.fitting.sampling import EpochBatches, epoch_order
from mammopipe.training.fitting.step import StepLoss, train_step
from mammopipe.training.model.architecture import Cnn, Precision
from mammopipe.training.networks.precision import choose_precision
from mammopipe.training.networks.registry import NAMES, build_model

COMMAND = "python -m benchmarks.bench_training"
FED_BAR, FP32_BAR = 0.95, 1.5
Batch = tuple[Tensor, Tensor]
Step = Callable[[Batch], object]


def make_images(folder: Path, *, count: int, size: int) -> ImageDataset:
    """Return images with noise in their left half; their content does not affect any time here."""
    random = np.random.default_rng(0)
    records = [
        ImageRecord(f"image{number}", str(number), "mias", None, None, list(Label)[number % 3])
        for number in range(count)
    ]
    for record in records:
        pixels = random.integers(1, 65536, (size, size)).astype(np.uint16)
        pixels[:, size // 2 :] = 0
        write_png(folder / f"{record.image_id}.png", pixels)
    return ImageDataset(records, folder, shape=(size, size))


def batches(dataset: ImageDataset, config: TrainConfig) -> Iterator[Batch]:
    """Yield batches as in the training loop, with new noise and holes, epoch after epoch."""
    epoch = 0
    while True:
        epoch += 1
        order = epoch_order(dataset.labels, config.sampling, seed=0, epoch=epoch, batch_size=config.batch_size)
        sampler = EpochBatches(batch_size=config.batch_size).start(order, epoch=epoch)
        loader = DataLoader(TrainingImages(dataset, config), batch_sampler=sampler, num_workers=config.workers)
        yield from ((images, labels) for images, labels, _ in loader)


def our_step(config: TrainConfig, precision: Precision) -> Step:
    """Return this project's training step."""
    network = build_model(config.cnn, classes=3, dropout=config.dropout).to(memory_format=torch.channels_last).train()
    optimiser, scaler = make_optimiser(network, config), torch.amp.GradScaler("cuda", enabled=False)
    for group in optimiser.param_groups:
        group["lr"] = 1e-5
    return lambda batch: float(
        train_step(
            network,
            *batch,
            optimiser=optimiser,
            scaler=scaler,
            loss=StepLoss(torch.ones(3), config.label_smoothing),
            precision=precision,
        )
    )


def fp32_step(config: TrainConfig) -> Step:
    """Return the step of torchvision's reference script (see above)."""
    network = build_model(config.cnn, classes=3, dropout=config.dropout).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4)

    def step(batch: Batch) -> float:
        loss = functional.cross_entropy(network(batch[0]), batch[1])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        return loss.item()

    return step


def measure(config: TrainConfig, dataset: ImageDataset, steps: int) -> dict[str, list[float]]:
    """Return the seconds per turn of steps with data loading, of the same steps in memory, and of the fp32 step."""
    height, width = dataset.shape
    network = build_model(config.cnn, classes=3).to(memory_format=torch.channels_last)
    precision = choose_precision(Precision.AUTO, network, shape=(height, width), device=torch.device("cpu"))
    fed, plain, feed = our_step(config, precision), fp32_step(config), batches(dataset, config)
    held = next(feed)
    members: dict[str, Callable[[], object]] = {
        "fed": lambda: fed(next(feed)),
        "memory": lambda: fed(held),
        "fp32": lambda: plain(held),
    }
    seconds: dict[str, list[float]] = {name: [] for name in members}
    for turn in range(steps + 1):
        for name, action in members.items():
            start = time.perf_counter()
            action()
            # The first turn is for warming up.
            if turn:
                seconds[name].append(time.perf_counter() - start)
    print(f"{config.cnn}: {precision}", file=sys.stderr)
    return seconds


def results(cnn: str, seconds: dict[str, list[float]], *, batch: int, size: int) -> list[Row]:
    """Return the rows of one network."""
    rates = {name: batch / median(times) for name, times in seconds.items()}

    def times_slower(name: str) -> float:
        return median(other / fed for other, fed in zip(seconds[name], seconds["fed"], strict=True))

    def figure(what: str, value: float, bar: float) -> Row:
        return row(
            f"training {cnn}, {size} px: images a second, times {what}",
            value,
            "x",
            bar,
            "higher",
            COMMAND,
            fed_per_second=rates["fed"],
            memory_per_second=rates["memory"],
            fp32_per_second=rates["fp32"],
        )

    return [
        figure("those of tensors in memory", times_slower("memory"), FED_BAR),
        figure("those of the float32 reference step", times_slower("fp32"), FP32_BAR),
    ]


def shared(cnn: Cnn, processes: int, *, batch: int, size: int) -> Row:
    """Return the speed-up from dividing an epoch among processes, which share the cores; the runs alternate."""
    rates: dict[int, list[float]] = {1: [], processes: []}
    for count in [*rates] * 2:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={count}",
            "-m",
            "benchmarks.studies.parallel_epochs",
            cnn,
            str(size),
            str(batch),
            str(8 * batch),
        ]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rates[count].append(float(printed.rpartition("images_per_second=")[2]))
    alone, together = max(rates[1]), max(rates[processes])
    return row(
        f"training {cnn}, {size} px: images a second of {processes} processes, times those of one",
        together / alone,
        "x",
        None,
        "higher",
        COMMAND,
        one_per_second=alone,
        together_per_second=together,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    for name, default in (
        ("size", 224),
        ("batch", 16),
        ("steps", 12),
        ("processes", 2),
        ("threads", torch.get_num_threads()),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_heap()
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_images(Path(folder), count=4 * options.batch, size=options.size)
        for cnn in NAMES:
            config = TrainConfig(cnn=Cnn(cnn), batch_size=options.batch)
            found += results(cnn, measure(config, dataset, options.steps), batch=options.batch, size=options.size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    found.append(row("training: peak memory of all networks in turn", peak, "GiB", None, "lower", COMMAND))
    if options.processes > 1:
        found += [
            shared(cnn, options.processes, batch=options.batch, size=options.size)
            for cnn in (Cnn.MODIFIED_CNN, Cnn.RESNET50)
        ]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
