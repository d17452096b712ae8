"""Runs epochs of one training job, divided among processes that share the cores; prints images a second.

Run `torchrun --standalone --nproc-per-node=2 -m benchmarks.studies.parallel_epochs CNN SIZE BATCH IMAGES`.
"""

import os
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.bench_training import make_images
from mammopipe.processing.classes import THREE
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.distributed import joined
from mammopipe.training.fitting.loop import fit
from mammopipe.training.model.architecture import Cnn
from mammopipe.training.networks.registry import build_model

EPOCHS = 3
"""Number of epochs. The fastest one counts, because the first one also warms up."""


def main(cnn: str, size: int, batch: int, count: int) -> None:
    """Train, and print the measurement of the first process."""
    config = TrainConfig(cnn=Cnn(cnn), batch_size=batch, epochs=EPOCHS, head_epochs=0, learning_rate=1e-5)
    with tempfile.TemporaryDirectory() as folder, joined() as world:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.size))
        dataset = make_images(Path(folder), count=count, size=size)
        held = dataset.part(range(len(THREE)))
        history = fit(build_model(config.cnn, classes=3), dataset, held, config, pretrained=False, world=world).history
        if world.leads:
            print(f"images_per_second={count / min(epoch.seconds for epoch in history):.3f}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
