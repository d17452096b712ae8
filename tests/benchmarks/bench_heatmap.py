"""Whether the heatmap's peak falls inside the lesion: a network trained on phantoms, judged on phantoms it never saw.

Run `python -m tests.benchmarks.bench_heatmap [--films 480] [--epochs 12] [--judged 150]`: a JSON list on stdout. Peaks
are those of the answer, in pixels of the film, over films of both sides and several sizes; a true positive is a
malignant film that is called malignant, and its peak is inside where it lies in the lesion's circle.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from inference.explain import regions
from inference.predictor import Predictor
from processing.imaging import Mammogram
from processing.phantom import Film, make_film
from processing.preprocess import PreprocessConfig, preprocess
from processing.records import Label, Laterality, View
from training import artifact
from training.models import FilmNetwork, build_model

COMMAND = "python -m tests.benchmarks.bench_heatmap"
CONFIG = PreprocessConfig(height=224, width=160)
SIZES = ((512, 400), (1024, 1024), (900, 640))
BATCH = 16
JUDGED_FROM = 1_000_000
"""Seeds of the films that are judged; those of training lie below."""


def draw(seed: int, label: Label) -> tuple[Film, Mammogram]:
    """Return one film; side and size follow from the seed."""
    side = list(Laterality)[seed // 3 % 2]
    height, width = SIZES[seed // 6 % len(SIZES)] if seed >= JUDGED_FROM else SIZES[0]
    film = make_film(seed, label=label, laterality=side, height=height, width=width)
    return film, Mammogram(film.pixels, side, View.MLO)


def training_film(seed: int) -> tuple[NDArray[np.uint16], int]:
    """Return the network's input of one training film and its class; the classes take turns."""
    cv2.setNumThreads(1)
    label = list(Label)[seed % 3]
    return preprocess(draw(seed, label)[1], CONFIG).pixels, label.rank


def draw_training(films: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (N, 1, H, W) in [0, 1] and classes (N,)."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(training_film, range(films), chunksize=20))
    pixels = np.stack([image for image, _ in drawn])
    return torch.from_numpy(pixels.astype(np.float32) / 65535)[:, None], torch.tensor([rank for _, rank in drawn])


def train(images: torch.Tensor, labels: torch.Tensor, epochs: int) -> FilmNetwork:
    """Return modified_cnn trained from scratch, in evaluation mode."""
    torch.manual_seed(0)
    network = build_model("modified_cnn", classes=list(Label), seed=0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=epochs * (len(images) // BATCH))
    network.train()
    for epoch in range(epochs):
        losses = [_step(network, optimiser, schedule, images[rows], labels[rows]) for rows in _batches(len(images))]
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}", file=sys.stderr, flush=True)
    return network.eval()


def _batches(count: int) -> Iterator[torch.Tensor]:
    return iter(torch.randperm(count)[: count // BATCH * BATCH].split(BATCH))


def _step(network: FilmNetwork, optimiser: Any, schedule: Any, images: torch.Tensor, labels: torch.Tensor) -> float:
    # Upside down as often as not, and shifted: the places of a lesion are not to be learnt by heart.
    shift = tuple(int(value) for value in torch.randint(-12, 13, (1,)))
    moved = torch.roll(images.flip(2) if torch.rand(()) < 0.5 else images, shift, (2,))
    loss = functional.cross_entropy(network(moved), labels, label_smoothing=0.05)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
    return loss.item()


def save(directory: Path, network: FilmNetwork) -> None:
    """Write a model directory that can be served."""
    artifact.save(directory, network, {
        "architecture": "modified_cnn", "classes": list(Label),
        "input": {"height": CONFIG.height, "width": CONFIG.width}, "preprocess": CONFIG.to_json(),
        "initialisation": "scratch", "pretrained_weights": None,
        "calibration": {"temperature": 1.0, "fitted_on": None}, "operating_points": {}, "training": {}, "metrics": {},
        "versions": {},
    })


def judge(predictor: Predictor, films: int) -> tuple[int, int]:
    """Return how many of the malignant films are called so, and in how many of these the peak is inside the lesion."""
    positives = inside = 0
    for seed in range(JUDGED_FROM, JUDGED_FROM + films):
        film, mammogram = draw(seed, Label.MALIGNANT)
        prediction = predictor.predict(mammogram)
        if max(prediction.probabilities, key=lambda label: prediction.probabilities[label]) is not Label.MALIGNANT:
            continue
        peak = regions(predictor.explain(prediction, mammogram, Label.MALIGNANT).heat)[0]
        positives += 1
        lesion = film.lesions[0]
        inside += (peak.peak_x - lesion.x) ** 2 + (peak.peak_y - lesion.y) ** 2 <= lesion.radius**2
    return positives, inside


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--films", type=int, default=480)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--judged", type=int, default=150)
    options = parser.parse_args()
    network = train(*draw_training(options.films), options.epochs)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), network)
        positives, inside = judge(Predictor(Path(folder)), options.judged)
    print(json.dumps([{
        "name": "heatmap peak inside the lesion, of the true positives", "value": inside / max(positives, 1),
        "unit": "share", "bar": 0.8, "better": "higher",
        "peers": {"true positives": positives, "malignant films": options.judged}, "command": COMMAND,
    }]))


if __name__ == "__main__":
    main()
