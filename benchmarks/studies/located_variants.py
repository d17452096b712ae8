"""Compares variants of the network of `mias-located` with it, in pairs.

Run `python -m benchmarks.studies.located_variants FILMS WEIGHTS WORK`.

FILMS, WEIGHTS and WORK are those of `benchmarks.studies.ablation`. The feature maps of the frozen body are computed
once; WORK keeps them and the logits of finished deals, so that an interrupted command resumes. The classifier of each
variant is trained for a fixed number of epochs in every fold of every deal (assignment of patients to folds) of the
development images. With `--nested`, each of these folds contains an inner cross-validation like that of the training
job, and the mean of its classifiers predicts the held-out images, as the served model would. Nothing is chosen on
held-out images: no epoch, no calibration, no threshold. The images of the frozen test split are never read.

A figure is the mean over the deals, and its difference from the first variant has a 95 % interval by patient, from the
same draws of patients for both.
"""

import argparse
import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from benchmarks.studies.ablation import LOCATED, Row, build, development_images
from benchmarks.studies.deal_figures import HEADING, compare, table_line
from benchmarks.studies.mirrored_breasts import aligned
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import ImageRecord, SplitProtocol, breast_id
from mammopipe.processing.files import write_json
from mammopipe.processing.splits.assignment import assign_folds
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.head_only import ImageMaps, learner
from mammopipe.training.fitting.loop import refit
from mammopipe.training.fitting.step import predict
from mammopipe.training.model.predictions import Floats
from mammopipe.training.networks.efficientnet_lite import NeighbourhoodMeans
from mammopipe.training.networks.network import BuildOptions, ImageNetwork, classifier
from mammopipe.training.networks.registry import build_model

FOLDS = 5
OTHER_BREAST = 0.5
BATCH = 8
FINE_BLOCKS, NARROW_BLOCKS = 5, 11
"""Blocks of EfficientNet-Lite0 up to the feature maps of stride 8, and of stride 16."""


@dataclass(frozen=True)
class Maps:
    """The feature maps of the frozen body."""

    coarse: Tensor
    """(images, 112, h, w) at stride 16."""
    fine: Tensor
    """(images, 40, 2 h, 2 w) at stride 8."""
    tissue: NDArray[np.bool_]
    """(images, H, W), the tissue of each image."""
    other: NDArray[np.int64]
    """(images,), the position of the image of the patient's other breast; -1 without one."""


def recommended(maps: Maps) -> Tensor:
    """Return the recipe's features: stride 16, averaged over 3 x 3 and 7 x 7 places."""
    features: Tensor = NeighbourhoodMeans()(maps.coarse)
    return features


def both_strides(maps: Maps) -> Tensor:
    """Return the recipe's features, and those of stride 8: mean and maximum of the four places in one of stride 16."""
    mean, strongest = functional.avg_pool2d(maps.fine, 2), functional.max_pool2d(maps.fine, 2)
    return torch.cat([recommended(maps), NeighbourhoodMeans()(mean), functional.max_pool2d(strongest, 3, 1, 1)], dim=1)


def beside_aligned(maps: Maps) -> Tensor:
    """Return the recipe's features, and their difference from those of the corresponding place in the other breast."""
    wide = recommended(maps)[:, maps.coarse.shape[1] :]
    return torch.cat([recommended(maps), wide - aligned(wide, maps.tissue, maps.other)], dim=1)


def both_strides_beside_aligned(maps: Maps) -> Tensor:
    """Return the features of both variants."""
    return torch.cat([both_strides(maps), beside_aligned(maps)[:, 2 * maps.coarse.shape[1] :]], dim=1)


Variant = Callable[[Maps], Tensor]
VARIANTS: dict[str, Variant] = {
    "stride 16 (the recipe)": recommended,
    "strides 8 and 16": both_strides,
    "stride 16 beside the other breast, aligned": beside_aligned,
    "strides 8 and 16 beside the other breast, aligned": both_strides_beside_aligned,
}


def read_maps(row: Row, dataset: ImageDataset, weights: Path, kept: Path) -> Maps:
    """Return the feature maps of all images, kept in a file that has the digest of the images in its name."""
    path = kept / f"maps-{dataset.sha256[:12]}.pt"
    if not path.is_file():
        torch.save(_computed(row, dataset, weights), path)
    coarse, fine, tissue = torch.load(path)
    return Maps(coarse, fine, tissue.numpy(), others(dataset.records))


def _computed(row: Row, dataset: ImageDataset, weights: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Return the maps at both strides, and the tissue."""
    network = build(row.config, weights).eval()
    body = dict(network.body.named_children())
    stem = [network.normalise, body["_conv_stem"], body["_bn0"], body["_relu"]]
    blocks = list(body["_blocks"].children())
    first = nn.Sequential(*stem, *blocks[:FINE_BLOCKS])
    second = nn.Sequential(*blocks[FINE_BLOCKS:NARROW_BLOCKS])
    fine, coarse, tissue = [], [], []
    with torch.inference_mode():
        for start in tqdm(range(0, len(dataset), BATCH), desc="maps", unit="batch", disable=None):
            images = torch.stack([dataset[index][0] for index in range(start, min(start + BATCH, len(dataset)))])
            tissue.append(images[:, 0] > 0)
            fine.append(first(images.contiguous(memory_format=torch.channels_last)))
            coarse.append(second(fine[-1]))
    # Copies, because tensors made in inference mode cannot be used in training.
    made = [torch.cat(each).clone(memory_format=torch.contiguous_format) for each in (coarse, fine)]
    return made[0], made[1], torch.cat(tissue)


def others(records: Sequence[ImageRecord]) -> NDArray[np.int64]:
    """Return, for each image or copy, the position of the original of the patient's other breast; -1 without one."""
    originals = {breast_id(record): place for place, record in enumerate(records) if not record.source_image_id}
    patients = {breast: records[place].patient_id for breast, place in originals.items()}
    sources = {record.image_id: record for record in records}
    found = np.full(len(records), -1, np.int64)
    for place, record in enumerate(records):
        # A mirrored copy has the opposite laterality of its original, but shows the same breast.
        own = breast_id(sources[record.source_image_id or record.image_id])
        for breast, patient in patients.items():
            if patient == record.patient_id and breast != own:
                found[place] = originals[breast]
    return found


def network_of(config: TrainConfig, features: int) -> ImageNetwork:
    """Return a network whose classifier takes this number of features; its body is not used."""
    network = build_model(
        config.cnn,
        classes=list(THREE),
        pooling=config.pooling,
        top_places=config.top_places,
        stride=config.stride,
        initialise=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = classifier(features, BuildOptions(len(THREE), config.dropout))
        nn.init.normal_(next(part for part in head if isinstance(part, nn.Linear)).weight, std=0.01)
    network.body.set_submodule(network.head_path, head)
    return network


def classifiers(dataset: ImageMaps, config: TrainConfig, folds: Sequence[NDArray[np.int64]]) -> list[dict[str, Tensor]]:
    """Return the weights of one classifier for each array of places to learn from."""
    found = []
    for places in folds:
        network = network_of(config, dataset.maps.shape[1])
        with contextlib.redirect_stdout(io.StringIO()):
            refit(
                network,
                dataset.part(places.tolist()),
                config,
                epochs=config.epochs,
                precision=config.precision,
                pretrained=True,
            )
        found.append({name: value.clone() for name, value in learner(network, config)[0].state_dict().items()})
    return found


def predicted(dataset: ImageMaps, config: TrainConfig, states: Sequence[dict[str, Tensor]]) -> Floats:
    """Return the logits, (images, classes), of the mean of these classifiers."""
    learns = learner(network_of(config, dataset.maps.shape[1]), config)[0]
    learns.load_state_dict({name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]})
    return np.asarray(predict(learns, dataset, batch_size=BATCH, precision=config.precision), np.float64)


def held_out(dataset: ImageMaps, config: TrainConfig, deal: int, inner_deals: int) -> Floats:
    """Return the logits of the originals, (images, classes), each by a classifier not trained on the patient.

    Args:
        dataset: The features of the images and their copies.
        config: The settings of the training.
        deal: Number of the deal of the outer folds.
        inner_deals: Deals of folds within the other outer folds, whose classifiers are averaged; 0 trains one
            classifier on all of them.
    """
    outer = outer_folds(dataset.records, deal)
    originals = np.array([not record.source_image_id for record in dataset.records])
    logits: Floats = np.zeros((len(dataset), len(THREE)))
    for fold in range(FOLDS):
        held = (outer == fold) & originals
        logits[held] = of_fold(dataset, config.replace(seed=deal), np.flatnonzero(outer != fold), held, inner_deals)
    of_originals: Floats = logits[originals]
    return of_originals


def outer_folds(records: Sequence[ImageRecord], deal: int) -> NDArray[np.int64]:
    """Return the outer fold of each image, (images,), in a deal."""
    return np.array(assign_folds(records, FOLDS, seed=deal, protocol=SplitProtocol.PATIENT))


def of_fold(
    dataset: ImageMaps, config: TrainConfig, rest: NDArray[np.int64], held: NDArray[np.bool_], inner_deals: int
) -> Floats:
    """Return the logits of the held-out images, (held, classes), by classifiers of the places `rest`."""
    left = dataset.part(rest.tolist())
    states = [] if inner_deals else classifiers(dataset, config, [rest])
    for inner_deal in range(inner_deals):
        inner = np.array(assign_folds(left.records, FOLDS, seed=inner_deal, protocol=SplitProtocol.PATIENT))
        places = [np.flatnonzero(inner != number) for number in range(FOLDS)]
        states += classifiers(left, config.replace(seed=inner_deal), places)
    return predicted(dataset.part(np.flatnonzero(held).tolist()), config, states)


def kept_logits(folder: Path, name: str, made: Callable[[int], Floats], deal: int) -> Floats:
    """Return the logits of a deal, from their file if an earlier command computed them."""
    path = folder / f"{name}, deal {deal}.npy"
    if not path.is_file():
        np.save(path, made(deal))
    logits: Floats = np.load(path)
    return logits


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the variants; after each, write `variants.json` and `variants.md` to the work folder."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    records, folder = development_images(options.films, options.work, LOCATED.preprocess)
    dataset = ImageDataset(records, folder, shape=(LOCATED.preprocess.height, LOCATED.preprocess.width))
    maps = read_maps(LOCATED, dataset, options.weights, options.work)
    judged = [record for record in records if not record.source_image_id]
    base: list[Floats] = []
    table: dict[str, Any] = {}
    for name in [name for name in VARIANTS if not options.variants or name in options.variants]:
        given = ImageMaps(network_of(LOCATED.config, 1), dataset, maps=VARIANTS[name](maps))
        for inner in options.nested or [0]:
            full = name if not inner else f"{name}, nested, {inner} inner deal{'s' if inner > 1 else ''}"
            of_deal = partial(
                kept_logits, options.work, full, partial(held_out, given, LOCATED.config, inner_deals=inner)
            )
            logits = [of_deal(deal) for deal in tqdm(range(options.deals), desc=name, disable=None)]
            base = base or logits
            for share in (0.0, OTHER_BREAST):
                row = f"{full}{', half of the other breast' if share else ''}"
                table[row] = compare(logits, base, judged, share)
                print(table_line(row, table[row]), flush=True)
            write_json(options.work / "variants.json", table)
    lines = [HEADING, *(table_line(name, found) for name, found in table.items())]
    (options.work / "variants.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.located_variants", description=__doc__)
    parser.add_argument("films", type=Path, help="the folder of mini-MIAS")
    parser.add_argument("weights", type=Path, help="the folder of staged weights")
    parser.add_argument("work", type=Path, help="where segmented films and the figures are kept")
    parser.add_argument("--variants", nargs="+", metavar="NAME", choices=list(VARIANTS))
    parser.add_argument("--deals", type=int, default=3, help="assignments of patients to outer folds")
    parser.add_argument(
        "--nested", nargs="+", type=int, metavar="DEALS", help="deals of inner folds to average, such as 1 3"
    )
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    main()
