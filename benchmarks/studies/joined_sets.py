"""What a network gains by images of two kinds of detectors, and by harmonisation.

Run `python -m benchmarks.studies.joined_sets`.

Phantoms as a digital detector and as 8-bit digitisers with four tone curves see them
(`benchmarks.data.bench_harmonisation`) are two datasets. A small network from random weights learns from one of them
(the other is left out), or from both joined, with as many images in all. It then judges unseen phantoms of each. The
rows are the mean malignant AUC over the seeds, the lowest and the highest, for each kind of harmonisation; a seed
determines the phantoms and the training. The difference from no harmonisation is paired, by seed.
"""

import argparse
import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.data.bench_harmonisation import EXPONENTS, digitised
from benchmarks.studies.ablation import spread
from mammopipe.processing.breast.harmonisation import Harmonisation
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, View
from mammopipe.processing.images.mammogram import Mammogram, write_png
from mammopipe.processing.phantoms.film import make_film
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.loop import refit
from mammopipe.training.fitting.step import predict
from mammopipe.training.metrics.classification import roc_auc
from mammopipe.training.model.architecture import Cnn, Precision
from mammopipe.training.networks.registry import build_model

SHAPE = (160, 96)
CLASSES = (Label.NORMAL, Label.MALIGNANT)
LOOKS = ("digital", "digitised")
JOINED = "joined"
CONFIG = TrainConfig(
    cnn=Cnn.MODIFIED_CNN,
    epochs=10,
    head_epochs=0,
    warmup_epochs=1,
    learning_rate=1e-3,
    dropout=0.0,
    noise=0.0,
    holes=0,
    precision=Precision.FLOAT32,
)

Phantom = tuple[Mapping[str, Mammogram], tuple[Lesion, ...], Label]
"""One breast as each detector sees it, its lesions and its class."""


def phantoms(count: int, first: int) -> Iterator[Phantom]:
    """Yield phantoms, half of them with a malignant lesion."""
    for seed in tqdm(range(first, first + count), desc="phantoms", disable=None):
        label, side = CLASSES[seed % 2], list(Laterality)[seed // 2 % 2]
        film = make_film(seed, label=label, laterality=side, height=320, width=256, padded=False, bits=16)
        curve = EXPONENTS[seed // 2 % len(EXPONENTS)]
        pixels = {LOOKS[0]: film.pixels, LOOKS[1]: digitised(film.pixels, curve, seed)}
        yield {look: Mammogram(seen, side, View.MLO) for look, seen in pixels.items()}, film.lesions, label


def dataset(made: Sequence[Phantom], looks: Sequence[str], kind: Harmonisation, folder: Path) -> ImageDataset:
    """Return phantoms as a training set; phantom number i is seen as `looks[i]` says."""
    config, records = PreprocessConfig(height=SHAPE[0], width=SHAPE[1], harmonisation=kind), []
    folder.mkdir(parents=True, exist_ok=True)
    for number, ((seen, lesions, label), look) in enumerate(zip(made, looks, strict=True)):
        image = seen[look]
        write_png(folder / f"{number}.png", preprocess(image, config, lesions).pixels)
        records.append(ImageRecord(f"{number}", f"{number}", "phantoms", image.laterality, image.view, label))
    return ImageDataset(records, folder, shape=SHAPE)


def measured(
    learnt: Sequence[Phantom], judged: Sequence[Phantom], kind: Harmonisation, seed: int, scratch: Path
) -> dict[tuple[str, str], float]:
    """Return the malignant AUC by training set and detector."""
    tests = {look: dataset(judged, [look] * len(judged), kind, scratch / f"test-{look}") for look in LOOKS}
    found = {}
    for trained in (*LOOKS, JOINED):
        # Pairs of phantoms, one of each class, alternate in the joined set.
        looks = [LOOKS[number // 2 % 2] if trained == JOINED else trained for number in range(len(learnt))]
        films = dataset(learnt, looks, kind, scratch / f"train-{trained}")
        network = build_model(CONFIG.cnn, classes=[str(label) for label in films.classes], seed=seed)
        config = CONFIG.replace(seed=seed)
        with contextlib.redirect_stdout(io.StringIO()):
            refit(network, films, config, epochs=config.epochs, precision=config.precision, pretrained=False)
        for look, test in tests.items():
            logits = predict(network, test, batch_size=32, precision=config.precision)
            malignant = (test.labels == len(test.classes) - 1).astype(np.int64)
            found[trained, look] = roc_auc(malignant, np.asarray(logits[:, -1] - logits[:, 0], np.float64))
    return found


def table(found: Mapping[Harmonisation, Sequence[Mapping[tuple[str, str], float]]]) -> Iterator[str]:
    """Yield the rows in Markdown."""
    yield (
        "| trained on | judged on | "
        + " | ".join(f"{kind}" if kind is Harmonisation.NONE else f"{kind} | difference" for kind in found)
        + " |"
    )
    yield "|---" * (2 * len(found) + 1) + "|"
    base = found[Harmonisation.NONE]
    for trained, look in base[0]:
        cells = []
        for kind, seeds in found.items():
            cells.append(spread([seed[trained, look] for seed in seeds]))
            gains = [seed[trained, look] - plain[trained, look] for seed, plain in zip(seeds, base, strict=True)]
            cells += [] if kind is Harmonisation.NONE else [spread(gains)]
        yield f"| {trained} | {look} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.joined_sets", description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="phantoms to learn from")
    parser.add_argument("--judged", type=int, default=200, help="phantoms of each detector to judge")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found: dict[Harmonisation, list[Mapping[tuple[str, str], float]]] = {kind: [] for kind in Harmonisation}
    for seed in range(options.seeds):
        first = seed * (options.images + options.judged)
        made = list(phantoms(options.images + options.judged, first))
        for kind in Harmonisation:
            with TemporaryDirectory() as scratch:
                learnt, judged = made[: options.images], made[options.images :]
                found[kind].append(measured(learnt, judged, kind, seed, Path(scratch)))
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
