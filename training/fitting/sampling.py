"""Chooses the images of each training step.

The order depends only on seed, epoch and labels. Each process takes its slice of every batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from mammopipe.training.config import Sampling


@dataclass(frozen=True)
class Draw:
    """One use of one image."""

    index: int
    """Index of the image in its dataset."""
    epoch: int
    position: int
    """Position in the epoch's order. An image that occurs twice gets two different variations."""


def generator(*key: int) -> np.random.Generator:
    """Return the random generator of a key such as (seed, epoch, position); it is the same on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def derived_seed(*key: int) -> int:
    """Return the torch seed of a key such as (seed, epoch)."""
    # Without the lowest bit, the seed fits into a signed 64-bit integer.
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def epoch_order(
    labels: NDArray[np.int64],
    sampling: Sampling,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    positive_share: float = 0.125,
) -> NDArray[np.int64]:
    """Return the image indices of an epoch: as many as there are images, filled up to whole batches by repetition.

    Args:
        labels: (images,) class indices.
        sampling: How classes are balanced.
        seed: Seed of the run.
        epoch: Number of the epoch.
        batch_size: Size of the batches over all processes.
        positive_share: With `Sampling.RATIO`, the proportion of the highest class, spread evenly over the batches.

    Returns:
        (length,) int64 indices.
    """
    random = generator(seed, epoch)
    length = -(-len(labels) // batch_size) * batch_size
    if sampling is Sampling.RATIO:
        return _with_share(labels, length, positive_share, random)
    if sampling is not Sampling.BALANCED:
        return _cycles(np.arange(len(labels)), length, random)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    share = -(-length // len(classes))
    drawn = np.stack([_cycles(members, share, random) for members in classes])
    # Interleave the classes, so that the cut at the end removes equally many of each class; then shuffle.
    return random.permutation(drawn.T.ravel()[:length])


def _with_share(labels: NDArray[np.int64], length: int, share: float, random: np.random.Generator) -> NDArray[np.int64]:
    """Return `length` indices with evenly spread positives: one wherever i x share + random start passes an integer."""
    positive = np.flatnonzero(labels == labels.max())
    others = np.flatnonzero(labels != labels.max())
    if not len(others):
        return _cycles(positive, length, random)
    steps = np.floor(np.arange(length + 1) * share + random.random())
    here = np.diff(steps) > 0
    order = np.empty(length, np.int64)
    order[here] = _cycles(positive, int(here.sum()), random)
    order[~here] = _cycles(others, int((~here).sum()), random)
    return order


def _cycles(members: NDArray[np.int64], length: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return `length` members in random order; no member occurs again before all others have occurred."""
    if not length:  # NumPy concatenates at least one array.
        return members[:0]
    rounds = [random.permutation(members) for _ in range(-(-length // len(members)))]
    return np.concatenate(rounds)[:length]


def loss_weights(labels: NDArray[np.int64], sampling: Sampling, classes: int) -> Tensor:
    """Return the weight of each class in the loss, (classes,) float32; its mean over the images is 1."""
    if sampling is not Sampling.WEIGHTED:
        return torch.ones(classes)
    counts = np.bincount(labels, minlength=classes)
    weights = np.divide(len(labels), counts * np.count_nonzero(counts), out=np.zeros(classes), where=counts > 0)
    return torch.from_numpy(weights).float()


class EpochBatches(Sampler[list[Draw]]):
    """The batches of an epoch; each process gets slice `rank` of `world_size` of every batch."""

    def __init__(self, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        """Create the sampler.

        Args:
            batch_size: Size of the batches over all processes; a multiple of `world_size`.
            rank: Number of this process.
            world_size: Number of processes.
        """
        self.batch_size = batch_size
        self.rows = batch_size // world_size
        self.offset = rank * self.rows
        self.order: Sequence[int] | NDArray[np.int64] = ()
        self.epoch, self.first = 0, 0

    def start(self, order: Sequence[int] | NDArray[np.int64], *, epoch: int, first: int = 0) -> "EpochBatches":
        """Set the epoch.

        Args:
            order: Image indices of the epoch, in whole batches.
            epoch: Number of the epoch.
            first: First step.
        """
        self.order, self.epoch, self.first = order, epoch, first
        return self

    def __len__(self) -> int:
        """Return the number of remaining steps."""
        return len(self.order) // self.batch_size - self.first

    def positions(self, step: int) -> range:
        """Return this process's positions of a step in the order of the epoch."""
        first = step * self.batch_size + self.offset
        return range(first, first + self.rows)

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield this process's draws of each step."""
        for step in range(self.first, self.first + len(self)):
            yield [Draw(int(self.order[position]), self.epoch, position) for position in self.positions(step)]
