"""Evaluates the recommended network of mini-MIAS under three split protocols, on the films and on random noise.

Run `python -m benchmarks.studies.located_protocols FILMS WEIGHTS WORK`.

FILMS is the folder of mini-MIAS, WEIGHTS the folder of staged weights. WORK keeps feature maps and finished cells, so
that an interrupted command resumes. A cell is one protocol with one seed, on the films or on noise: the training job's
cross-validation makes the network of `mias-located`, and the test images are predicted once. The seed is that of the
split, the folds and the training. Every image is scored without comparison of breasts.

The protocols have different mixtures of classes in their test splits. Therefore each figure gives all classes the same
weight: balanced accuracy; macro AUC and malignant AUC as means over pairs of classes (Hand and Till 2001). With
`--page`, the table replaces the text between two marks of docs/explanation/leaks-and-protocols.md.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.studies.ablation import LOCATED, Row, build, segmented
from benchmarks.table import replace_between
from mammopipe.processing.augmentation import copy_id, plan_copies
from mammopipe.processing.classes import THREE, class_indices
from mammopipe.processing.datasets.manifest import (
    ImageRecord,
    Split,
    SplitProtocol,
    read_manifest,
    write_manifest,
)
from mammopipe.processing.datasets.mias import LABEL_TABLE, read_labels
from mammopipe.processing.files import write_json
from mammopipe.processing.phantoms.noise import write_noise_tree
from mammopipe.processing.splits.assignment import SplitConfig, assign_splits
from mammopipe.training.config import Final
from mammopipe.training.evaluation.calibration import calibrate
from mammopipe.training.fitting.cross_validation import FoldEnvironment, cross_validate
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.distributed import ALONE
from mammopipe.training.fitting.head_only import ImageMaps, learner
from mammopipe.training.fitting.step import predict
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.classification import auc, balanced_accuracy
from mammopipe.training.metrics.metric import Metric
from mammopipe.training.metrics.scorecard import figure
from mammopipe.training.model.predictions import Floats, Integers, TestPredictions, ValidationPredictions

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "leaks-and-protocols.md"
MARKS = "located-protocols"
FOLDS = 5
DEVELOPMENT = (Split.TRAIN, Split.VALIDATION)


@dataclass(frozen=True)
class Cell:
    """One protocol with one seed, on the films or on noise."""

    protocol: SplitProtocol
    seed: int
    noise: bool

    @property
    def name(self) -> str:
        """The name of the cell's file."""
        return f"{self.protocol}-{'noise' if self.noise else 'films'}-{self.seed}"


def _pairs(classes: Sequence[int], labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    """Return the mean AUC of these classes against each other class, with the probability of the former."""
    areas = []
    for one, other in product(classes, range(probabilities.shape[1])):
        if one != other:
            places = np.flatnonzero((labels == one) | (labels == other))
            areas.append(auc(labels[places] == one, probabilities[places, one], weights[:, places]))
    found: Floats = np.mean(areas, axis=0)
    return found


_EACH = "at least one image of each class"
MACRO = Metric("macro_auc", lambda *given: _pairs(range(given[1].shape[1]), *given), needs=_EACH, share=True)
MALIGNANT = Metric("malignant_auc", lambda *given: _pairs([given[1].shape[1] - 1], *given), needs=_EACH, share=True)
FIGURES = {"macro AUC": MACRO, "malignant AUC": MALIGNANT, "balanced accuracy": balanced_accuracy}


def division(originals: Sequence[ImageRecord], cell: Cell) -> list[ImageRecord]:
    """Return originals and copies with their splits; there are as many copies as in the recipe, without pixels here."""
    config = SplitConfig(seed=cell.seed)
    if cell.protocol is SplitProtocol.PUBLISHED:
        plan = plan_copies(originals, 0, (None,))
        return assign_splits([*originals, *_copies(originals, plan)], config, cell.protocol)
    divided = assign_splits(originals, config, cell.protocol)
    return [*divided, *_copies(divided, plan_copies(divided, 0, DEVELOPMENT))]


def _copies(records: Sequence[ImageRecord], plan: dict[str, int]) -> list[ImageRecord]:
    return [
        replace(record, image_id=copy_id(record.image_id, index), source_image_id=record.image_id)
        for record in records
        for index in range(plan.get(record.image_id, 0))
    ]


def stored(films: Path, cells: Sequence[Cell], folder: Path, row: Row) -> list[ImageRecord]:
    """Return the records of all images that the cells need; segments them once."""
    if not (folder / "manifest.csv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        originals = read_labels(films / LABEL_TABLE)
        needed = Counter({record.image_id: 0 for record in originals})
        for cell in cells:
            made = Counter(record.source_image_id for record in division(originals, cell) if record.source_image_id)
            needed |= made
        written = [
            item
            for record in tqdm(originals, desc="segmenting", disable=None)
            for item in segmented(films, record, folder, row.preprocess, range(needed[record.image_id]))
        ]
        write_manifest(written, folder / "manifest.csv")
    return read_manifest(folder)


def maps_of(records: Sequence[ImageRecord], folder: Path, weights: Path, row: Row) -> ImageMaps:
    """Return the feature maps of stored images; computes them once."""
    dataset = ImageDataset(records, folder, shape=(row.preprocess.height, row.preprocess.width), classes=THREE)
    path = folder / f"maps-{dataset.sha256[:12]}.pt"
    network = build(row.config, weights)
    if path.is_file():
        return ImageMaps(network, dataset, torch.load(path, weights_only=True, mmap=True))
    maps = ImageMaps(network, dataset)
    torch.save(maps.maps, path)
    return maps


def measure(cell: Cell, maps: ImageMaps, weights: Path, row: Row) -> dict[str, Any]:
    """Train one cell's network and return its figures on the test images."""
    place = {record.image_id: index for index, record in enumerate(maps.records)}
    originals = [record.placed(None, None) for record in maps.records if not record.source_image_id]
    divided = division(originals, cell)
    found = maps.part([place[record.image_id] for record in divided])
    # The stored records have the lesions in pixels of the segmented images; `division` gives the splits.
    found.records = tuple(
        one.placed(other.split, other.fold) for one, other in zip(found.records, divided, strict=True)
    )
    splits = [record.split for record in found.records]
    development = found.part([index for index, split in enumerate(splits) if split in DEVELOPMENT])
    test = found.part([index for index, split in enumerate(splits) if split is Split.TEST])
    config = row.config.replace(folds=FOLDS, seed=cell.seed, final=Final.MEAN)
    with TemporaryDirectory() as scratch:
        where = FoldEnvironment(ALONE, Path(scratch), cell.name, lambda: None)
        network, progress = cross_validate(
            development, config, cell.protocol, lambda: build(config, weights), pretrained=True, where=where
        )
    held_out = ValidationPredictions.of(progress.records, class_indices(progress.records, THREE), progress.logits[0])
    fitted = calibrate(held_out).calibration
    logits = predict(learner(network, config)[0], test, batch_size=8, precision=config.precision)
    predicted = TestPredictions.of(test.records, test.labels, logits)
    draws = Resamples.draw(predicted.patients, n=1000, seed=0)
    return {
        "protocol": str(cell.protocol),
        "seed": cell.seed,
        "noise": cell.noise,
        "test": {name: int((predicted.labels == index).sum()) for index, name in enumerate(THREE)},
        "patients": draws.patients,
        "figures": {
            name: figure(metric, predicted.labels, predicted.probabilities(fitted), draws)
            for name, metric in FIGURES.items()
        },
    }


def table(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table: each seed with its intervals, then the mean of the seeds with their range."""
    yield "| protocol | images | seed | test images: " + ", ".join(THREE) + " | " + " | ".join(FIGURES) + " |"
    yield "|---" * (4 + len(FIGURES)) + "|"
    for noise, protocol in product((False, True), SplitProtocol):
        rows = [cell for cell in cells if cell["noise"] is noise and cell["protocol"] == protocol]
        what = "noise" if noise else "films"
        for row in rows:
            counts = f"{', '.join(str(row['test'][name]) for name in THREE)}; {row['patients']} women"
            figures = " | ".join(_words(row["figures"][name]) for name in FIGURES)
            yield f"| {protocol} | {what} | {row['seed']} | {counts} | {figures} |"
        if len(rows) > 1:
            figures = " | ".join(_spread([row["figures"][name]["value"] for row in rows]) for name in FIGURES)
            yield f"| **{protocol}** | **{what}** | mean of {len(rows)} seeds, lowest to highest | | {figures} |"


def _words(found: dict[str, Any]) -> str:
    if found["value"] is None or found["low"] is None:
        return "undefined" if found["value"] is None else f"{found['value']:.3f} (no interval)"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _spread(values: Sequence[float]) -> str:
    return f"**{np.mean(values):.3f}** [{min(values):.3f} to {max(values):.3f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the missing cells, each seed on films before noise, and print the table of the finished ones."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    size = {"height": options.height, "width": options.width}
    row = replace(LOCATED, preprocess=LOCATED.preprocess.replace(**size))
    cells = [
        Cell(protocol, seed, noise)
        for noise in ((False, True) if options.noise else (False,))
        for seed in options.seeds
        for protocol in SplitProtocol
    ]
    with TemporaryDirectory() as scratch:
        for noise in dict.fromkeys(cell.noise for cell in cells):
            own = [cell for cell in cells if cell.noise is noise]
            if options.finished or all(_file(cell, options.work).is_file() for cell in own):
                continue
            folder, films = options.work / ("noise" if noise else "films"), options.films
            if noise and not (folder / "manifest.csv").is_file():
                films = Path(scratch)
                write_noise_tree(options.films / LABEL_TABLE, films)
            maps = maps_of(stored(films, own, folder, row), folder, options.weights, row)
            for cell in own:
                if not _file(cell, options.work).is_file():
                    write_json(_file(cell, options.work), measure(cell, maps, options.weights, row))
                    print(f"{cell.name}: measured", flush=True)
    files = [file for file in (_file(cell, options.work) for cell in cells) if file.is_file()]
    done = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    summary = f"At {options.height} x {options.width} pixels; {len(done)} of {len(cells)} cells are measured."
    text = "\n".join([summary, "", *table(done)])
    print(text)
    if options.page:
        replace_between(PAGE, MARKS, text + "\n")


def _file(cell: Cell, work: Path) -> Path:
    return work / "cells" / f"{cell.name}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.located_protocols", description=__doc__)
    parser.add_argument("films", type=Path, help="the folder of mini-MIAS")
    parser.add_argument("weights", type=Path, help="the folder of staged weights")
    parser.add_argument("work", type=Path, help="where segmented images, feature maps and finished cells are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", action=argparse.BooleanOptionalAction, default=True, help="noise as well")
    parser.add_argument("--height", type=int, default=LOCATED.preprocess.height, help="of the images, in pixels")
    parser.add_argument("--width", type=int, default=LOCATED.preprocess.width, help="use another WORK for each size")
    parser.add_argument("--finished", action="store_true", help="measure nothing; print the table of finished cells")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="also put the table into the page on leaks and protocols")
    return parser


if __name__ == "__main__":
    main()
