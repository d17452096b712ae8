"""The values of the auxiliary targets of training images, and the loss of their heads; absent values have no loss."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.errors import ConfigError
from mammopipe.training.auxiliary import VALUES, Auxiliary


@dataclass(frozen=True)
class AuxiliaryTarget:
    """One auxiliary target, with what is known about its values from the training images."""

    name: Auxiliary
    weight: float
    kinds: tuple[str, ...] = ()
    """The values, for classification; empty for regression."""
    mean: float = 0.0
    """Mean over the training images, for regression."""
    deviation: float = 1.0
    """Standard deviation over the training images, for regression."""
    present: float = 1.0
    """Proportion of the training images that have a value."""

    @property
    def outputs(self) -> int:
        """Number of outputs of the target's head."""
        return len(self.kinds) or 1

    @classmethod
    def of(cls, name: Auxiliary, weight: float, values: Sequence[str | float | None]) -> "AuxiliaryTarget":
        """Return the target for the values of the training images.

        Raises:
            ConfigError: Fewer than two different values are known, so there is nothing to learn.
        """
        known = {value for value in values if value is not None}
        if len(known) < 2:
            raise ConfigError(
                f"hyperparameter auxiliary_{name}={weight}: the {len(values)} training images have "
                f"{len(known)} different values of {name}; there must be at least two"
            )
        present = sum(value is not None for value in values) / len(values)
        numbers = [value for value in values if isinstance(value, float)]
        if numbers:
            return cls(name, weight, (), float(np.mean(numbers)), float(np.std(numbers)), present)
        return cls(name, weight, tuple(sorted(map(str, known))), present=present)

    def encoded(self, value: str | float | None) -> float:
        """Return a value as the head learns it: the index of its class, or the standardised number; NaN if absent."""
        if isinstance(value, float):
            return (value - self.mean) / self.deviation
        return float(self.kinds.index(value)) if value in self.kinds else math.nan

    def losses(self, outputs: Tensor, values: Tensor) -> Tensor:
        """Return the loss of each image, (N,): 0 where the value is absent.

        The other losses are divided by the proportion of images with a value among all training images, not in the
        batch. Processes and parts of a batch have different numbers of such images, and their gradients are averaged.
        """
        known = values.isfinite()
        # 0 in place of NaN, because a loss of NaN times 0 is NaN.
        wanted = torch.where(known, values, torch.zeros_like(values))
        if self.kinds:
            found = functional.cross_entropy(outputs.float(), wanted.long(), reduction="none")
        else:
            found = functional.smooth_l1_loss(outputs[:, 0].float(), wanted, reduction="none")
        return self.weight * found * known / self.present


class AuxiliaryTargets:
    """The auxiliary targets of a training run."""

    def __init__(self, records: Sequence[ImageRecord], weights: Mapping[Auxiliary, float]) -> None:
        """Read the values of the training images.

        Args:
            records: Manifest rows of the training images.
            weights: Weight of each target that is learnt.

        Raises:
            ConfigError: A target has fewer than two different values in the images.
        """
        values = {name: [VALUES[name](record) for record in records] for name in weights}
        self.targets = [AuxiliaryTarget.of(name, weight, values[name]) for name, weight in weights.items()]
        rows = zip(*(map(target.encoded, values[target.name]) for target in self.targets), strict=True)
        self._rows = dict(zip((record.image_id for record in records), rows, strict=True))

    def of(self, image_ids: Sequence[str]) -> Tensor:
        """Return the encoded values of images, (N, targets) float32; NaN where absent."""
        return torch.tensor([self._rows[image_id] for image_id in image_ids], dtype=torch.float32)

    def losses(self, outputs: Sequence[Tensor], values: Tensor) -> Tensor:
        """Return the weighted loss of each image over all targets, (N,).

        Args:
            outputs: The outputs of each head, (N, outputs).
            values: The values, (N, targets).
        """
        parts = [
            target.losses(output, values[:, index])
            for index, (target, output) in enumerate(zip(self.targets, outputs, strict=True))
        ]
        return torch.stack(parts).sum(dim=0)
