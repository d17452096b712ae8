"""Compares pre-training without labels, on patches of the training patients, with the network of `mias-located`.

Run `python -m benchmarks.studies.pretraining FILMS WEIGHTS WORK`.

Before the classifier is trained, the last three blocks of the body (stride 16) are trained further from ImageNet's
weights. Two views of a patch (unchanged; with another exponent and noise; mirrored top to bottom, darker and with
noise) must have the same features at the same place, and different features from other patches (VICReg: Bardes, Ponce
and LeCun 2022, https://arxiv.org/abs/2105.04906). Labels are not used. Each outer fold of each deal has its own
pre-training, only on the other folds' patients. Then the classifiers are trained and evaluated nested, as by
`benchmarks.studies.located_variants --nested 1`, on the same draws. No setting was chosen by a result. The images of
the frozen test split are never read.
"""

import argparse
import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from benchmarks.studies.ablation import LOCATED, build, development_images
from benchmarks.studies.deal_figures import HEADING, compare, table_line
from benchmarks.studies.located_variants import (
    BATCH,
    FOLDS,
    NARROW_BLOCKS,
    OTHER_BREAST,
    kept_logits,
    network_of,
    of_fold,
    outer_folds,
)
from mammopipe.processing.classes import THREE
from mammopipe.processing.files import write_json
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.head_only import ImageMaps
from mammopipe.training.model.predictions import Floats
from mammopipe.training.networks.efficientnet_lite import NeighbourhoodMeans
from mammopipe.training.networks.network import ImageNetwork

FIXED_BLOCKS = 8
"""Number of blocks of EfficientNet-Lite0 that stay unchanged; the three after them are trained."""
STEPS, CROPS, LEARNING_RATE, HEAD_LEARNING_RATE = 60, 16, 1e-4, 1e-3
CROP, PLACES, MOVED = 12, 3, 1
"""In places of 16 pixels: side of a crop; number of positions compared along each side, each the mean of 3 x 3 places;
and largest movement between the views."""
EXPONENTS, NOISE = ((0.7, 1.0), (1.0, 1.4)), 0.02
"""Range of the exponent of the first and the second altered view, and their noise as a share of the range."""
TISSUE = 0.7
"""Least share of a crop that is tissue."""
WIDTH = 256
"""Features of the projection in which views are compared."""


def altered(images: Tensor, view: int, random: torch.Generator) -> Tensor:
    """Return a view, 1 or 2, of images, (N, 1, H, W) in [0, 1]; the second is mirrored top to bottom."""
    low, high = EXPONENTS[view - 1]
    exponents = low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=random)
    noise = NOISE * torch.randn(images.shape, generator=random)
    toned = ((images**exponents + noise).clamp(0, 1)) * (images > 0)
    return toned.flip(2) if view == 2 else toned


def _blocks(network: ImageNetwork) -> list[nn.Module]:
    return list(network.body.get_submodule("_blocks").children())


def read_views(dataset: ImageDataset, network: ImageNetwork, work: Path) -> tuple[Tensor, Tensor]:
    """Return the maps of the fixed blocks, (views, images, 80, h, w), and the share of tissue of each place.

    WORK keeps them. Mirrored views are mirrored back, so that a place shows the same tissue in all views.
    """
    path = work / f"views-{dataset.sha256[:12]}.pt"
    if not path.is_file():
        stem = [network.body.get_submodule(name) for name in ("_conv_stem", "_bn0", "_relu")]
        fixed = nn.Sequential(network.normalise, *stem, *_blocks(network)[:FIXED_BLOCKS])
        random, found, tissue = torch.Generator().manual_seed(0), [], []
        with torch.inference_mode():
            for start in tqdm(range(0, len(dataset), BATCH), desc="views", unit="batch", disable=None):
                images = torch.stack([dataset[index][0] for index in range(start, min(start + BATCH, len(dataset)))])
                tissue.append(functional.avg_pool2d((images > 0).float(), 16)[:, 0])
                views = [images, *(altered(images, view, random) for view in (1, 2))]
                maps = [fixed(view.contiguous(memory_format=torch.channels_last)) for view in views]
                found.append(torch.stack([maps[0], maps[1], maps[2].flip(2)]))
        torch.save((torch.cat(found, dim=1).contiguous().clone(), torch.cat(tissue)), path)
    views, shares = torch.load(path)
    return views, shares


def crop_places(tissue: Tensor, images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (n, 3): image, row and column of every crop with enough tissue, and room for its movement."""
    share = functional.avg_pool2d(tissue[torch.from_numpy(images), None], CROP, 1)[:, 0].numpy()
    share[:, :MOVED] = share[:, -MOVED:] = share[:, :, :MOVED] = share[:, :, -MOVED:] = 0
    found = np.argwhere(share >= TISSUE)
    found[:, 0] = images[found[:, 0]]
    return found


def crops(views: Tensor, chosen: NDArray[np.int64], random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return two views of each chosen crop, (n, 80, CROP, CROP) each; the second is moved by up to `MOVED` places."""
    pair: tuple[list[Tensor], list[Tensor]] = ([], [])
    for image, row, column in chosen:
        for place, view in enumerate(random.permutation(len(views))[:2]):
            down, right = random.integers(-MOVED, MOVED + 1, 2) * place
            pair[place].append(
                views[view, image, :, row + down : row + down + CROP, column + right : column + right + CROP]
            )
    return torch.stack(pair[0]).float(), torch.stack(pair[1]).float()


def embedded(blocks: nn.Module, maps: Tensor) -> Tensor:
    """Return the features of `PLACES` x `PLACES` places of each crop, (n x places, 112), means of 3 x 3."""
    with torch.autocast("cpu", torch.bfloat16):
        features = blocks(maps.contiguous(memory_format=torch.channels_last)).float()
    edge = (CROP - 3 * PLACES) // 2
    inner = features[:, :, edge : edge + 3 * PLACES, edge : edge + 3 * PLACES]
    return functional.avg_pool2d(inner, 3).permute(0, 2, 3, 1).flatten(0, 2)


def vicreg(first: Tensor, second: Tensor) -> Tensor:
    """Return the loss of two views, (n, features) each, with the paper's weights 25, 25 and 1."""
    loss = 25 * functional.mse_loss(first, second)
    for each in (first, second):
        centred = each - each.mean(dim=0)
        deviation = torch.sqrt(centred.var(dim=0) + 1e-4)
        covariance = centred.T @ centred / (len(each) - 1)
        apart = covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()
        loss = loss + 25 * functional.relu(1 - deviation).mean() / 2 + apart / each.shape[1]
    return loss


def recognised(blocks: nn.Module, views: Tensor, places: NDArray[np.int64]) -> float:
    """Return the share of patches whose most similar patch among those of the other view is the same patch."""
    random = np.random.default_rng(0)
    chosen = places[random.choice(len(places), min(len(places), 4 * CROPS), replace=False)]
    with torch.inference_mode():
        both = [embedded(blocks, view) for view in crops(views, chosen, random)]
    first, second = (functional.normalize(each - each.mean(dim=0), dim=1) for each in both)
    return float(((first @ second.T).argmax(dim=1) == torch.arange(len(first))).float().mean())


def pretrained(blocks: nn.Module, views: Tensor, places: NDArray[np.int64], seed: int) -> nn.Module:
    """Return the blocks, trained on crops at these places; the batch statistics stay those of ImageNet."""
    learns, random = copy.deepcopy(blocks).eval(), np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for width in (112, WIDTH):
            layers += [nn.Linear(width, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU()]
        projection = nn.Sequential(*layers, nn.Linear(WIDTH, WIDTH))
    groups = [
        {"params": list(learns.parameters()), "lr": LEARNING_RATE},
        {"params": list(projection.parameters()), "lr": HEAD_LEARNING_RATE},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        chosen = places[random.choice(len(places), CROPS, replace=False)]
        loss = vicreg(*(projection(embedded(learns, view)) for view in crops(views, chosen, random)))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return learns


def features_of(blocks: nn.Module, maps: Tensor) -> Tensor:
    """Return the recipe's features, (images, 224, h, w), of the fixed blocks' maps."""
    with torch.inference_mode():
        found = [blocks(part.contiguous(memory_format=torch.channels_last)) for part in torch.split(maps, BATCH)]
    features: Tensor = NeighbourhoodMeans()(torch.cat(found).clone(memory_format=torch.contiguous_format))
    return features


class Study:
    """The views, the blocks that learn, and how well each outer fold's pre-training recognises unseen patches."""

    def __init__(self, dataset: ImageDataset, weights: Path, work: Path) -> None:
        """Read or compute the views of the images."""
        network = build(LOCATED.config, weights).eval()
        self.dataset = dataset
        self.views, self.tissue = read_views(dataset, network, work)
        self.blocks = nn.Sequential(*_blocks(network)[FIXED_BLOCKS:NARROW_BLOCKS])
        self.recognised: list[tuple[float, float]] = []

    def maps(self, blocks: nn.Module) -> ImageMaps:
        """Return the features of all images and copies."""
        return ImageMaps(network_of(LOCATED.config, 1), self.dataset, maps=features_of(blocks, self.views[0]))

    def held_out(self, deal: int, *, learns: bool) -> Floats:
        """Return the nested logits of the originals, (images, classes), each by networks not trained on the patient.

        Args:
            deal: Number of the deal of outer folds.
            learns: Whether the blocks are pre-trained on each outer fold's other patients, or stay ImageNet's.
        """
        outer = outer_folds(self.dataset.records, deal)
        originals = np.array([not record.source_image_id for record in self.dataset.records])
        logits, maps = np.zeros((len(self.dataset), len(THREE))), None if learns else self.maps(self.blocks)
        for fold in tqdm(range(FOLDS), desc=f"deal {deal}", unit="fold", disable=None):
            held = (outer == fold) & originals
            given = maps or self.maps(self._pretrained(deal, fold, (outer != fold) & originals, held))
            config = LOCATED.config.replace(seed=deal)
            logits[held] = of_fold(given, config, np.flatnonzero(outer != fold), held, 1)
        of_originals: Floats = logits[originals]
        return of_originals

    def _pretrained(self, deal: int, fold: int, own: NDArray[np.bool_], held: NDArray[np.bool_]) -> nn.Module:
        places, unseen = (crop_places(self.tissue, np.flatnonzero(which)) for which in (own, held))
        blocks = pretrained(self.blocks, self.views, places, FOLDS * deal + fold)
        share = [recognised(each, self.views, unseen) for each in (self.blocks, blocks)]
        self.recognised.append((share[0], share[1]))
        print(f"deal {deal}, fold {fold}: unseen patches recognised {share[0]:.3f}, then {share[1]:.3f}", flush=True)
        return blocks


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both variants; write `pretraining.json` and `pretraining.md` to the work folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.pretraining", description=__doc__)
    parser.add_argument("films", type=Path, help="the folder of mini-MIAS")
    parser.add_argument("weights", type=Path, help="the folder of staged weights")
    parser.add_argument("work", type=Path, help="where segmented films and the figures are kept")
    parser.add_argument("--deals", type=int, default=3, help="assignments of patients to outer folds")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    records, folder = development_images(options.films, options.work, LOCATED.preprocess)
    shape = (LOCATED.preprocess.height, LOCATED.preprocess.width)
    study = Study(ImageDataset(records, folder, shape=shape), options.weights, options.work)
    judged = [record for record in records if not record.source_image_id]
    names = {"stride 16 (the recipe), nested, 1 inner deal": False, "pre-trained on patches, nested": True}
    logits = {
        name: [
            kept_logits(options.work, name, partial(study.held_out, learns=learns), deal)
            for deal in range(options.deals)
        ]
        for name, learns in names.items()
    }
    table: dict[str, Any] = {}
    for name in names:
        for share in (0.0, OTHER_BREAST):
            row = f"{name}{', half of the other breast' if share else ''}"
            table[row] = compare(logits[name], logits[next(iter(names))], judged, share)
    write_json(options.work / "pretraining.json", {"figures": table, "recognised": study.recognised})
    text = "\n".join([HEADING, *(table_line(name, found) for name, found in table.items())])
    (options.work / "pretraining.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
