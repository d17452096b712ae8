"""Patches of training films, half of them round annotated lesions, on which a network learns before it sees films.

Networks that first learn to tell patches and then, applied to whole films, to tell films: Shen et al. 2019
(https://doi.org/10.1038/s41598-019-48995-4).
"""

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import AdamW
from torch.utils.data import DataLoader, Dataset

from processing.records import Label, Lesion
from training.config import Precision, TrainConfig
from training.dataset import FilmDataset, disturb
from training.distributed import ALONE, World, agree
from training.location import grid_of, location_loss, require_circles, targets
from training.models import FilmNetwork
from training.optimisation import Schedule, make_optimiser, set_phase
from training.precision import autocast
from training.sampling import Draw, EpochBatches, derived_seed, generator

TURN = 45.0
"""Largest rotation of a patch to either side, in degrees."""
SCALE = 1.25
"""Largest magnification of a patch, and reduction."""
SHIFT = 0.25
"""Largest distance of a circle's centre from the patch's, as a share of its side, along each axis."""
GAIN = 0.2
"""Largest change of a patch's contrast, and largest loss of brightness: dense tissue is nearly white as it is."""


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """Patches of training films, turned, mirrored, scaled: even positions round a circle, odd ones on any tissue."""

    def __init__(self, films: FilmDataset, config: TrainConfig, grid: tuple[int, int]) -> None:
        """Take the films, the settings, and how many places (h, w) the network sees in a patch."""
        self.films, self.config, self.grid = films, config, grid
        self.circles = [(index, lesion) for index, record in enumerate(films.records) for lesion in record.lesions]
        self.known = [index for index, record in enumerate(films.records)
                      if record.label is Label.NORMAL or record.lesions]

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the patch, (1, side, side) in [0, 1], and the targets of its places, of seed, epoch and position."""
        random = generator(self.config.seed, draw.epoch, draw.position, 1)
        if draw.position % 2 == 0:
            film, lesion = self.circles[draw.index % len(self.circles)]
            reach = SHIFT * self.config.patch_side
            centre = (lesion.x + random.uniform(-reach, reach), lesion.y + random.uniform(-reach, reach))
        else:
            film = self.known[draw.index % len(self.known)]
            centre = _tissue(self.films[film][0][0].numpy(), random)
        return self._cut(film, centre, random)

    def _cut(self, film: int, centre: tuple[float, float], random: np.random.Generator) -> tuple[Tensor, Tensor]:
        side = self.config.patch_side
        matrix = _movement(centre, side, random)
        pixels = self.films[film][0][0].numpy()
        patch = np.asarray(cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_LINEAR), np.float32)
        _expose(patch, random)
        disturb(patch, random, noise=self.config.noise, holes=0)
        moved = [_move(lesion, matrix) for lesion in self.films.records[film].lesions]
        wanted = targets(moved, Label.NORMAL, shape=(side, side), grid=self.grid)
        return torch.from_numpy(patch[None]), wanted


def _tissue(pixels: NDArray[np.float32], random: np.random.Generator) -> tuple[float, float]:
    """Return (x, y) of a pixel of the breast."""
    places = np.flatnonzero(pixels)
    y, x = divmod(int(places[random.integers(len(places))]), pixels.shape[1])
    return float(x), float(y)


def _movement(centre: tuple[float, float], side: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return the affine map, (2, 3), that brings `centre` to the patch's middle, turned, scaled and mirrored."""
    angle = math.radians(random.uniform(-TURN, TURN))
    scale = SCALE ** random.uniform(-1, 1)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    turned = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag(random.choice([-1.0, 1.0], size=2))
    middle = np.full(2, (side - 1) / 2)
    return np.column_stack([turned, middle - turned @ np.array(centre)])


def _move(lesion: Lesion, matrix: NDArray[np.float64]) -> Lesion:
    x, y = matrix @ (lesion.x, lesion.y, 1.0)
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    return replace(lesion, x=float(x), y=float(y), radius=lesion.radius * scale)


def _expose(patch: NDArray[np.float32], random: np.random.Generator) -> None:
    """Change the contrast of the tissue in place; what is black stays black."""
    tissue = patch > 0
    if tissue.any():
        mean = patch[tissue].mean()
        changed = mean * random.uniform(1 - GAIN, 1) + (patch - mean) * random.uniform(1 - GAIN, 1 + GAIN)
        np.copyto(patch, np.clip(changed, 0, 1), where=tissue)


def learn_patches(network: FilmNetwork, films: FilmDataset, config: TrainConfig, *, pretrained: bool,
                  world: World = ALONE, check_stop: Callable[[], None] = lambda: None) -> list[float]:
    """Train the network for `patch_epochs` on as many patches each as there are films; return the losses.

    In bfloat16 where the config asks for it, else in float32: patches are small, and a measured choice could differ
    from fold to fold. Every process trains on the same patches; all end with the weights of the first. Raises
    `ConfigError` where no film has an annotated circle.
    """
    require_circles(films, f"patch_epochs={config.patch_epochs}")
    phase = _phase(config)
    network.to(world.device).to(memory_format=torch.channels_last)
    patches = Patches(films, config, grid_of(network, (config.patch_side, config.patch_side)))
    steps = -(-len(films) // config.batch_size)
    schedule, optimiser, losses = Schedule(phase, steps, pretrained), make_optimiser(network, phase), []
    for epoch in range(1, phase.epochs + 1):
        set_phase(network, trains_body=schedule.trains_body(epoch))
        torch.manual_seed(derived_seed(config.seed, epoch, 1))
        total = 0.0
        for step, (images, wanted) in enumerate(_batches(patches, epoch, steps)):
            schedule.apply(optimiser, epoch, step)
            total += _step(network, optimiser, images.to(world.device), wanted.to(world.device), config.precision)
            check_stop()
        losses.append(total / steps)
        if world.leads:
            print(f"patches epoch={epoch} train_loss={losses[-1]:.4f}", flush=True)
    if world.size > 1:
        # Dropout gave each process masks of its own.
        network.load_state_dict(agree(network.state_dict(), world))
    return losses


def _phase(config: TrainConfig) -> TrainConfig:
    """Return the settings of the epochs on patches, which may be fewer than those on films."""
    epochs = config.patch_epochs
    return replace(config, epochs=epochs, head_epochs=min(config.head_epochs, epochs - 1),
                   warmup_epochs=min(config.warmup_epochs, epochs / 2))


def _batches(patches: Patches, epoch: int, steps: int) -> DataLoader[tuple[Tensor, Tensor]]:
    config = patches.config
    order = generator(config.seed, epoch, 1).permutation(steps * config.batch_size)
    return DataLoader(patches, num_workers=config.workers,
                      batch_sampler=EpochBatches(order, epoch=epoch, batch_size=config.batch_size))


def _step(network: FilmNetwork, optimiser: AdamW, images: Tensor, wanted: Tensor, precision: Precision) -> float:
    number_format = precision if precision is Precision.BFLOAT16 else Precision.FLOAT32
    with autocast(number_format, images.device):
        places = network.places(images.to(memory_format=torch.channels_last))
    loss = location_loss(places, wanted)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())
