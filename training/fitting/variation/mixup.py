"""Mixup: replaces each training image by a mixture of two images of its batch, and mixes their losses likewise.

Neighbours in the order of the epoch are partners (positions 0 and 1, 2 and 3, ...); the order is random, so the
partners are too. A mixture therefore does not depend on the number of processes or of the parts of a batch. The targets
of places (lesion supervision) are mixed like the labels: the loss of each image's targets is weighted by its share.

Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization" (https://arxiv.org/abs/1710.09412).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.sampling import generator

_STREAM = 2
"""Number of this random stream. Noise has the key without a number, and variations have 1."""


def draw_shares(config: TrainConfig, *, epoch: int, positions: Sequence[int]) -> Tensor | None:
    """Return the share of each image in its mixture, (N,) float32 in [0, 1]; its partner has the rest.

    Args:
        config: Hyperparameters; `mixup` is both parameters of the Beta distribution of the share.
        epoch: Number of the epoch.
        positions: Position of each image in the order of the epoch.

    Returns:
        The shares; `None` without mixup.
    """
    if not config.mixup:
        return None
    draws = (generator(config.seed, epoch, position, _STREAM) for position in positions)
    drawn = [random.beta(config.mixup, config.mixup) for random in draws]
    return torch.tensor(drawn, dtype=torch.float32)


def partners(rows: Tensor) -> Tensor:
    """Return the partner of each row: rows 0 and 1, 2 and 3, ... are swapped; the number of rows must be even."""
    return rows.view(-1, 2, *rows.shape[1:]).flip(1).flatten(0, 1)


def mixed_images(images: Tensor, shares: Tensor) -> Tensor:
    """Return the mixtures, of the same shape and layout, of images (N, 1, H, W) by shares (N,)."""
    share = shares.to(images.dtype).view(-1, *[1] * (images.ndim - 1))
    return images * share + partners(images) * (1 - share)


def mixed_mean(losses: Callable[[Tensor], Tensor], targets: Tensor, shares: Tensor | None) -> Tensor:
    """Return the mean loss of a batch of mixtures.

    Args:
        losses: Returns the loss of each mixture, (N,), for given targets.
        targets: The targets of the images before they were mixed, (N, ...).
        shares: The share of each image, (N,); `None` without mixup.
    """
    if shares is None:
        return losses(targets).mean()
    return (shares * losses(targets) + (1 - shares) * losses(partners(targets))).mean()
