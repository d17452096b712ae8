"""Which films each step of an epoch uses: a function of seed, epoch and labels alone, sliced for the processes."""

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
    """One use of one film."""

    index: int
    """Of the film in its dataset."""
    epoch: int
    position: int
    """In the order of the epoch: a film that comes twice is disturbed in two ways."""


def generator(*key: int) -> np.random.Generator:
    """Return the random numbers that belong to a key such as (seed, epoch, position), the same on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def derived_seed(*key: int) -> int:
    """Return a seed for torch that belongs to a key such as (seed, epoch)."""
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
    """Return image indices, as many as there are images, rounded up to whole batches by going round once more.

    `positive_share` is that of the highest class, with `Sampling.RATIO`: of each batch alike, as far as it divides.
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
    # Column by column, so that the cut at the end takes from each class alike; then in any order.
    return random.permutation(drawn.T.ravel()[:length])


def _with_share(labels: NDArray[np.int64], length: int, share: float, random: np.random.Generator) -> NDArray[np.int64]:
    """Return `length` indices, positives evenly among the others: place i has one where i x share passes a number."""
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
    """Return `length` members: each once in random order before any comes again."""
    if not length:
        return members[:0]
    rounds = [random.permutation(members) for _ in range(-(-length // len(members)))]
    return np.concatenate(rounds)[:length]


def loss_weights(labels: NDArray[np.int64], sampling: Sampling, classes: int) -> Tensor:
    """Return the weight of each class in the loss, (classes,) float32, with a mean of 1 over the films."""
    if sampling is not Sampling.WEIGHTED:
        return torch.ones(classes)
    counts = np.bincount(labels, minlength=classes)
    weights = np.divide(len(labels), counts * np.count_nonzero(counts), out=np.zeros(classes), where=counts > 0)
    return torch.from_numpy(weights).float()


class EpochBatches(Sampler[list[Draw]]):
    """The batches of an epoch, of which one process takes its rows: slice `rank` of `world_size`."""

    def __init__(self, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        """Take the size of whole batches, which counts all processes and divides by their number."""
        self.batch_size = batch_size
        self.rows = batch_size // world_size
        self.offset = rank * self.rows
        self.order: Sequence[int] | NDArray[np.int64] = ()
        self.epoch, self.first = 0, 0

    def start(self, order: Sequence[int] | NDArray[np.int64], *, epoch: int, first: int = 0) -> "EpochBatches":
        """Take the order of an epoch, of whole batches, and the step to begin with."""
        self.order, self.epoch, self.first = order, epoch, first
        return self

    def __len__(self) -> int:
        """Return the number of steps that are left."""
        return len(self.order) // self.batch_size - self.first

    def __iter__(self) -> Iterator[list[Draw]]:
        """Return this process's draws, step by step."""
        for step in range(self.first, self.first + len(self)):
            first = step * self.batch_size + self.offset
            positions = range(first, first + self.rows)
            yield [Draw(int(self.order[position]), self.epoch, position) for position in positions]
