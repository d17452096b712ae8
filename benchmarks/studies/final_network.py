"""Compares ways to make the final network after cross-validation, on images that were not used to make it.

Run `python -m benchmarks.studies.final_network FILMS WEIGHTS WORK [--repeats 3]`; FILMS, WEIGHTS and WORK are those of
`benchmarks.studies.ablation`. An outer fold of the development images is held out. On the others, the training job's
cross-validation makes a final network, and its out-of-fold logits give the temperature and the thresholds. Network and
thresholds are then evaluated on the held-out images: the areas under the curve, and whether a threshold for a
specificity of 0.90 achieves it there. The images of the frozen test split are never read.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.studies.ablation import LOCATED, Row, build, development_images, network_inputs, spread
from mammopipe.processing.classes import THREE, class_indices
from mammopipe.processing.datasets.manifest import SplitProtocol
from mammopipe.processing.files import write_json
from mammopipe.processing.splits.assignment import assign_folds
from mammopipe.training.config import Final, TrainConfig
from mammopipe.training.evaluation.calibration import calibrate
from mammopipe.training.fitting.cross_validation import FoldEnvironment, cross_validate
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.distributed import ALONE
from mammopipe.training.fitting.head_only import Images, learner
from mammopipe.training.fitting.step import predict
from mammopipe.training.metrics.classification import macro_auc, malignant_auc
from mammopipe.training.model.exam_scores import compared
from mammopipe.training.model.operating_points import Goal
from mammopipe.training.model.predictions import TestPredictions, ValidationPredictions

FOLDS = 5
WAYS: Mapping[str, Mapping[str, Any]] = {
    "refit for the epochs that were best for the folds": {"final": Final.REFIT},
    "mean of the folds' weights": {"final": Final.MEAN},
}
SHARES = (0.0, 0.5, 1.0)
"""Fractions of the other breast's logits."""


def judged_outside(
    row: Row, config: TrainConfig, dataset: Images, outer: NDArray[np.int64], fold: int, weights: Path
) -> tuple[ValidationPredictions, TestPredictions]:
    """Return the out-of-fold predictions of the other folds, and the final network's of the held-out fold."""
    originals = np.array([not record.source_image_id for record in dataset.records])
    held = dataset.part(np.flatnonzero((outer == fold) & originals).tolist())
    left = dataset.part(np.flatnonzero(outer != fold).tolist())
    with TemporaryDirectory() as scratch:
        where = FoldEnvironment(ALONE, Path(scratch), "outside", lambda: None)
        network, progress = cross_validate(
            left, config, SplitProtocol.PATIENT, lambda: build(config, weights), pretrained=True, where=where
        )
    logits = predict(learner(network, config)[0], held, batch_size=8, precision=config.precision)
    return (
        ValidationPredictions.of(progress.records, class_indices(progress.records, THREE), progress.logits[0]),
        TestPredictions.of(held.records, held.labels, logits),
    )


def figures(pairs: Sequence[tuple[ValidationPredictions, TestPredictions]], share: float) -> dict[str, float]:
    """Return the figures over the outer folds of one repeat, with `share` of the other breast's logits subtracted."""
    labels, probabilities, called = [], [], []
    for inside, outside in pairs:
        (inside, _), (outside, _) = compared(inside, share), compared(outside, share)
        fitted = calibrate(inside)
        probabilities.append(outside.probabilities(fitted.calibration))
        labels.append(outside.labels)
        called.append(probabilities[-1][:, 2] >= fitted.operating_points[Goal.SPECIFICITY].threshold)
    truth, shares, calls = np.concatenate(labels), np.concatenate(probabilities), np.concatenate(called)
    return {
        "macro_auc": macro_auc(truth, shares),
        "malignant_auc": malignant_auc(truth, shares),
        "specificity": 1 - float(calls[truth != 2].mean()),
        "sensitivity": float(calls[truth == 2].mean()),
        "log_loss": float(-np.log(shares[np.arange(len(truth)), truth]).mean()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate each way in every repeat; after each repeat, write `final_network.json` to the work folder."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    records, folder = development_images(options.films, options.work, LOCATED.preprocess)
    shape = (LOCATED.preprocess.height, LOCATED.preprocess.width)
    dataset = network_inputs(LOCATED, ImageDataset(records, folder, shape=shape), options.weights, {})[0]
    found: dict[str, list[dict[str, float]]] = {}
    for repeat in range(options.repeats):
        outer = np.array(assign_folds(records, FOLDS, seed=repeat, protocol=SplitProtocol.PATIENT))
        for way, settings in WAYS.items():
            config = LOCATED.config.replace(folds=FOLDS, seed=repeat, **settings)
            pairs = [judged_outside(LOCATED, config, dataset, outer, fold, options.weights) for fold in range(FOLDS)]
            for share in SHARES:
                found.setdefault(f"{way}, {share:g} of the other breast", []).append(figures(pairs, share))
        write_json(options.work / "final_network.json", found)
    for name, deals in found.items():
        print(name, json.dumps({key: spread([deal[key] for deal in deals]) for key in deals[0]}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.final_network", description=__doc__)
    parser.add_argument("films", type=Path, help="the folder of mini-MIAS")
    parser.add_argument("weights", type=Path, help="the folder of staged weights")
    parser.add_argument("work", type=Path, help="where segmented films are kept")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    main()
