"""Whether the heatmap's peak is inside the lesion, for a network trained and tested on separate phantoms.

Run `python -m benchmarks.serving.bench_heatmap [--films 600] [--epochs 14] [--judged 150]`: a JSON list on stdout.
Training uses the annotated circles, like `location_weight` in the training job. Without them the network recognises
malignant images by the effect of a bright lesion on the grey levels of the whole breast, and its heatmap has no
meaningful peak. Peaks are those of the answer, in image pixels, for both sides and several image sizes. A true positive
is a malignant image that is classified as malignant; its peak counts as inside if it lies in the lesion's circle.
"""

import argparse
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mammopipe.inference.prediction.heatmap import regions
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import Label, Laterality, Lesion, View
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.mias_tree import Film, make_film
from mammopipe.training.fitting.lesion_loss import WithPlaces, grid_of, location_losses, targets
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.network import ImageNetwork
from mammopipe.training.networks.registry import build_model

COMMAND = "python -m benchmarks.serving.bench_heatmap"
CONFIG = PreprocessConfig(height=320, width=224)
SIZES = ((512, 400), (1024, 1024), (900, 640))
BATCH = 16
EXPOSURE = 0.3
"""Standard deviation of the logarithm of the random exponent that brightens or darkens training images."""
JUDGED_FROM = 1_000_000
"""First seed of the test images; training images have lower seeds."""


def draw(seed: int, label: Label) -> tuple[Film, Mammogram]:
    """Return one phantom; the seed determines side and size."""
    side = list(Laterality)[seed // 3 % 2]
    height, width = SIZES[seed // 6 % len(SIZES)] if seed >= JUDGED_FROM else SIZES[0]
    film = make_film(seed, label=label, laterality=side, height=height, width=width)
    return film, Mammogram(film.pixels, side, View.MLO)


def training_image(seed: int) -> tuple[NDArray[np.uint16], Label, tuple[Lesion, ...]]:
    """Return the network's input of one training image, its class and its lesions; the classes alternate."""
    cv2.setNumThreads(1)
    label = list(Label)[seed % 3]
    film, mammogram = draw(seed, label)
    prepared = preprocess(mammogram, CONFIG, film.lesions)
    return prepared.pixels, label, tuple(prepared.lesions)


@dataclass(frozen=True)
class Images:
    """Training images (N, 1, H, W) in [0, 1], their classes (N,), and the classes of their places (N, h, w)."""

    images: Tensor
    labels: Tensor
    places: Tensor


def draw_training(films: int, grid: tuple[int, int]) -> Images:
    """Return this number of images, and each of them upside down as well."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(training_image, range(films), chunksize=20))
    shape = (CONFIG.height, CONFIG.width)
    pixels = np.stack([image for image, _, _ in drawn])
    images = torch.from_numpy(pixels.astype(np.float32) / 65535)[:, None]
    labels = torch.tensor([label.rank for _, label, _ in drawn])
    places = torch.stack([targets(lesions, label, shape=shape, grid=grid) for _, label, lesions in drawn])
    flipped = torch.stack(
        [
            targets([replace(each, y=CONFIG.height - 1 - each.y) for each in lesions], label, shape=shape, grid=grid)
            for _, label, lesions in drawn
        ]
    )
    return Images(torch.cat([images, images.flip(2)]), labels.repeat(2), torch.cat([places, flipped]))


def train(network: ImageNetwork, films: Images, epochs: int) -> ImageNetwork:
    """Train the network from scratch and return it in evaluation mode; an epoch uses half of the images."""
    torch.manual_seed(0)
    steps = len(films.images) // 2 // BATCH
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=epochs * steps)
    network.train()
    for epoch in range(epochs):
        rows = torch.split(torch.randperm(len(films.images))[: steps * BATCH], BATCH)
        losses = []
        for batch in rows:
            losses.append(_step(network, optimiser, films, batch))
            schedule.step()
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}", file=sys.stderr, flush=True)
    return network.eval()


def _step(network: ImageNetwork, optimiser: torch.optim.Optimizer, films: Images, batch: Tensor) -> float:
    # Random exposure, so that the overall grey level does not reveal the class.
    exposure = torch.exp(torch.randn(len(batch), 1, 1, 1) * EXPOSURE)
    with torch.autocast("cpu", torch.bfloat16):
        logits, places = WithPlaces(network)(films.images[batch] ** exposure)
        loss = functional.cross_entropy(logits.float(), films.labels[batch], label_smoothing=0.05)
        loss = loss + location_losses(places, films.places[batch]).mean()
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()
    return float(loss.item())


def save(directory: Path, network: ImageNetwork) -> None:
    """Write a model directory that the server can load."""
    model_directory.save(
        directory,
        network,
        {
            "architecture": "modified_cnn",
            "classes": list(THREE),
            "input": {"height": CONFIG.height, "width": CONFIG.width},
            "preprocess": CONFIG.to_json(),
            "initialisation": "scratch",
            "pretrained_weights": None,
            "calibration": {"temperature": 1.0, "fitted_on": None},
            "operating_points": {},
            "training": {},
            "metrics": {},
            "versions": {},
        },
    )


def judge(predictor: Predictor, films: int) -> tuple[int, int]:
    """Return the number of malignant images classified as such, and for how many of them the peak is in the lesion."""
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
    parser.add_argument("--films", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--judged", type=int, default=150)
    options = parser.parse_args()
    network = build_model("modified_cnn", classes=list(THREE), seed=0)
    films = draw_training(options.films, grid_of(network, (CONFIG.height, CONFIG.width)))
    train(network, films, options.epochs)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), network)
        positives, inside = judge(Predictor(Path(folder)), options.judged)
    print(
        json.dumps(
            [
                {
                    "name": "heatmap peak inside the lesion, phantoms, of the true positives",
                    "value": inside / max(positives, 1),
                    "unit": "share",
                    "bar": 0.8,
                    "better": "higher",
                    "peers": {"true positives": positives, "malignant films": options.judged},
                    "command": COMMAND,
                }
            ]
        )
    )


if __name__ == "__main__":
    main()
