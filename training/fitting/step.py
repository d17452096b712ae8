"""One optimiser step, the moving average of the weights, and prediction over a set of images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Subset

from mammopipe.processing.variation import may_be_mirrored
from mammopipe.training.fitting.auxiliary.targets import AuxiliaryTargets
from mammopipe.training.fitting.breasts.dataset import Breasts, collate
from mammopipe.training.fitting.distributed import ALONE, World, gather_rows
from mammopipe.training.fitting.head_only import ImagesOrBreasts, Learner
from mammopipe.training.fitting.lesion_loss import location_losses
from mammopipe.training.fitting.variation.mixup import mixed_images, mixed_mean
from mammopipe.training.metrics.choice import ChoiceFigure
from mammopipe.training.metrics.classification import balanced_accuracy, macro_auc
from mammopipe.training.model.architecture import Precision
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.predictions import ValidationPredictions
from mammopipe.training.networks.network import mean_over_flips
from mammopipe.training.networks.pooling import Views
from mammopipe.training.networks.precision import autocast

State = dict[str, Tensor]
_SLOW_START = 10
"""Sets how quickly the moving average forgets the initial weights: after n updates the decay is at most
(1 + n) / (`_SLOW_START` + n), as in TensorFlow's ExponentialMovingAverage."""


@dataclass(frozen=True)
class StepLoss:
    """The loss of a training step: the sum of the losses of classes, places (lesion supervision) and auxiliary targets.

    Args:
        weights: (classes,) weight of each class; its device is that of the step.
        smoothing: Proportion of the target probability that is spread over all classes.
        positive_target: Target probability of the last class for its images; the rest goes to the first class.
        location_weight: Weight of the places' loss.
        auxiliary: The auxiliary targets.
    """

    weights: Tensor
    smoothing: float
    positive_target: float = 1.0
    location_weight: float = 0.0
    auxiliary: AuxiliaryTargets | None = None

    def of(self, output: Any, labels: Tensor, wanted: Sequence[Tensor], share: Tensor | None) -> Tensor:
        """Return the mean loss of images, a scalar.

        Args:
            output: The model's output: logits (N, classes); with lesion supervision, a pair with the logits of the
                places; with auxiliary targets, a pair of that and the outputs of their heads.
            labels: (N,) class indices.
            wanted: As in `train_step`.
            share: With mixup, the share of each image in its mixture, (N,).
        """
        output, extra = output if self.auxiliary is not None else (output, ())
        logits, places = output if isinstance(output, tuple) else (output, None)
        loss = mixed_mean(partial(self._of_classes, logits.float()), labels, share)
        if places is not None:
            loss = loss + self.location_weight * mixed_mean(partial(location_losses, places), wanted[0], share)
        if self.auxiliary is not None:
            values = wanted[int(places is not None)]
            loss = loss + mixed_mean(partial(self.auxiliary.losses, extra), values, share)
        return loss

    def _of_classes(self, logits: Tensor, labels: Tensor) -> Tensor:
        return image_losses(logits, labels, self.smoothing, self.positive_target) * self.weights[labels]


def train_step(
    model: nn.Module,
    images: Tensor | Views,
    labels: Tensor,
    *,
    loss: StepLoss,
    optimiser: Optimizer,
    scaler: torch.amp.GradScaler,
    precision: Precision,
    wanted: Sequence[Tensor] = (),
    accumulate: int = 1,
    clip_norm: float = 0.0,
    shares: Tensor | None = None,
) -> Tensor:
    """Make one step on a batch and return its loss, detached.

    Args:
        model: Images or breasts to logits; `WithPlaces` for lesion supervision, `WithAuxiliary` for auxiliary targets.
        images: (N, 1, H, W) float32, or the views of N breasts.
        labels: (N,) class indices.
        loss: The loss of the model's outputs.
        optimiser: Makes one step.
        scaler: Scales the loss, so that small gradients do not become 0 in float16.
        precision: Number format of the forward pass.
        wanted: With lesion supervision, the targets of the places, (N, h, w); with auxiliary targets, then their values
            (N, targets).
        accumulate: Number of parts of the batch, which are computed one after the other to save memory.
        clip_norm: Maximum norm of the gradient; 0 means no limit.
        shares: With mixup, the share of each image in its mixture, (N,); `None` mixes nothing.
    """
    device = loss.weights.device
    optimiser.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    mixing = [] if shares is None else [shares]
    parts = list(zip(*(tensor.chunk(accumulate) for tensor in (images, labels, *wanted, *mixing)), strict=True))
    for index, (part_images, *others) in enumerate(parts):
        part_images = part_images.to(device, memory_format=torch.channels_last, non_blocking=True)
        part_labels, *others = (tensor.to(device, non_blocking=True) for tensor in others)
        share = None if shares is None else others[-1]
        if share is not None:
            part_images = mixed_images(part_images, share)
        with _gradients_stay_here(model, waits=index + 1 < len(parts)):
            with autocast(precision, device):
                output = model(part_images)
            part_loss = loss.of(output, part_labels, others, share) / len(parts)
            scaler.scale(part_loss).backward()  # type: ignore[no-untyped-call]
        total += part_loss.detach()
    if clip_norm:
        # The limit is for the gradient itself, not for the scaled one.
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimiser)
    scaler.update()
    return total


def image_losses(logits: Tensor, labels: Tensor, smoothing: float, positive_target: float = 1.0) -> Tensor:
    """Return the cross-entropy of each image, (N,).

    With two classes this is the binary cross-entropy of the difference of their logits.

    Args:
        logits: (N, classes).
        labels: (N,) class indices.
        smoothing: Proportion of the target probability that is spread over all classes.
        positive_target: Target probability of the last class for its images; the rest goes to the first class.
    """
    if positive_target == 1:
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    targets = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    positive = labels == logits.shape[1] - 1
    targets[positive, -1], targets[positive, 0] = positive_target, 1 - positive_target
    return functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


def _gradients_stay_here(model: nn.Module, *, waits: bool) -> AbstractContextManager[None]:
    """Return a context that, if `waits`, delays the exchange of gradients between processes to a later part."""
    return model.no_sync() if waits and isinstance(model, DistributedDataParallel) else nullcontext()


class WeightAverage:
    """The exponential moving average of a network's weights and statistics; it varies less than the weights.

    Source: Polyak and Juditsky 1992 (averaging), with the warm-up of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from the network's current weights."""
        self.decay, self.updates = decay, 0
        self.state: State = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the network's weights after a step to the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (_SLOW_START + self.updates))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:  # Counts of batches, which have no mean.
                self.state[name].copy_(value)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Load the average into the network; restore the network's own weights on exit."""
        own = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.state)
        try:
            yield
        finally:
            network.load_state_dict(own)


@dataclass(frozen=True)
class EpochResult:
    """The metrics of one epoch; SageMaker's metric definitions parse `line`."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_macro_auc: float
    validation_balanced_accuracy: float
    learning_rate: float
    seconds: float
    validation_choice: float
    """The figure that chooses the best epoch (`choose_by`), by uncalibrated probabilities."""

    def line(self) -> str:
        """Return the epoch as one line of `name=value` pairs."""
        return (
            f"epoch={self.epoch} train_loss={self.train_loss:.4f} validation_loss={self.validation_loss:.4f} "
            f"validation_macro_auc={self.validation_macro_auc:.4f} "
            f"validation_balanced_accuracy={self.validation_balanced_accuracy:.4f} "
            f"validation_choice={self.validation_choice:.4f} "
            f"learning_rate={self.learning_rate:.5f} seconds={self.seconds:.1f}"
        )

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key for the best epoch: the highest `choose_by` figure; ties go to the lower validation loss."""
        return self.validation_choice, -self.validation_loss


def predict(
    network: Learner,
    mammograms: ImagesOrBreasts,
    *,
    batch_size: int,
    precision: Precision = Precision.FLOAT32,
    flips: bool = False,
    world: World = ALONE,
    workers: int = 0,
    check_stop: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Return the (N, classes) logits of all images; all processes share the work.

    Args:
        network: The network, or a `HeadAlone`.
        mammograms: The images, or `ImageMaps` for a `HeadAlone`; no variation is applied.
        batch_size: Images per forward pass.
        precision: Number format of the forward pass.
        flips: Whether the mirror images of craniocaudal views count as well (`test_flips`).
        world: The processes of the job.
        workers: Number of loader processes.
        check_stop: Called after each batch; it may raise to end the run.
    """
    network.eval()
    members = list(range(world.rank, len(mammograms), world.size))
    # `Breasts` already marks the views to be mirrored in each batch.
    flips = flips and not isinstance(mammograms, Breasts)
    both = torch.tensor([flips and may_be_mirrored(mammograms.records[place].view) for place in members])
    starts = range(0, len(members), batch_size)
    # Starts with no rows, because a process has no images if there are fewer images than processes.
    rows = [np.empty((0, len(mammograms.counts())), np.float32)]
    with torch.inference_mode(), autocast(precision, world.device):
        collated = collate if isinstance(mammograms, Breasts) else None
        loader = DataLoader(Subset(mammograms, members), batch_size, num_workers=workers, collate_fn=collated)
        for start, (images, _, _) in zip(starts, loader, strict=True):
            images = images.to(world.device, memory_format=torch.channels_last)
            mirrored = both[start : start + batch_size].to(world.device)
            rows.append(mean_over_flips(network, images, mirrored).float().cpu().numpy())
            check_stop()
    return gather_rows(np.concatenate(rows), world)


@dataclass(frozen=True)
class Measured:
    """The metrics of the logits of a set of images."""

    loss: float
    macro_auc: float
    balanced_accuracy: float
    choice: float


def measure(logits: NDArray[np.float32], images: ImagesOrBreasts, choice: ChoiceFigure) -> Measured:
    """Return the cross-entropy, the macro AUC, the balanced accuracy and the figure `choose_by`.

    Args:
        logits: (N, classes).
        images: The images.
        choice: The figure `choose_by`; here it is computed from uncalibrated probabilities.
    """
    exact, labels = torch.from_numpy(logits).double(), images.labels
    loss = float(functional.cross_entropy(exact, torch.from_numpy(labels)))
    probabilities = torch.softmax(exact, dim=1).numpy()
    chosen = choice.value(ValidationPredictions.of(images.records, labels, logits), Calibration())
    return Measured(loss, macro_auc(labels, probabilities), balanced_accuracy(labels, probabilities), chosen)
