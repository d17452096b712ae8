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
    labels: NDArray[np.int64], sampling: Sampling, *, seed: int, epoch: int, batch_size: int
) -> NDArray[np.int64]:
    """Return film indices, as many as there are films, rounded up to whole batches by going round once more."""
    random = generator(seed, epoch)
    length = -(-len(labels) // batch_size) * batch_size
    if sampling is not Sampling.BALANCED:
        return _cycles(np.arange(len(labels)), length, random)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    share = -(-length // len(classes))
    drawn = np.stack([_cycles(members, share, random) for members in classes])
    # Column by column, so that the cut at the end takes from each class alike; then in any order.
    return random.permutation(drawn.T.ravel()[:length])


def _cycles(members: NDArray[np.int64], length: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return `length` members: each once in random order before any comes again."""
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

    def __init__(
        self,
        order: Sequence[int] | NDArray[np.int64],
        *,
        epoch: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Take the order of whole batches; `batch_size` counts all processes and divides by their number."""
        self.order, self.epoch, self.batch_size = order, epoch, batch_size
        self.rows = batch_size // world_size
        self.offset = rank * self.rows

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        """Return this process's draws, step by step."""
        for step in range(len(self)):
            first = step * self.batch_size + self.offset
            positions = range(first, first + self.rows)
            yield [Draw(int(self.order[position]), self.epoch, position) for position in positions]
